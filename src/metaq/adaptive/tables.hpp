// The adaptive coder's tables: which of them a symbol is coded by, and what they hold before anything is known.
//
// An index (a symbol, or its place in one of two dependent quantizers), negated where a negative value is predicted, is
// seen as a cell, of 2^shift indices, less the cell predicted; entries are cells -7 ... 7 and one for all others. Shifts
// keep one or two cells within the expected magnitude. Where cells are single indices nothing is subtracted; instead
// the prediction, relative to the expected magnitude, is a context. Of symbols that are mostly zero, cells are single indices
// at every level, since others would hide the zeros.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "metaq/adaptive/history.hpp"
#include "metaq/adaptive/rans.hpp"
#include "metaq/base/table.hpp"

namespace metaq::adaptive {

// For dependent quantizers 0 and 1, for symbols that are free, and for those that are mostly zero.
inline constexpr std::size_t kSets = 4, kFree = 2, kSparse = 3;
inline constexpr int kBinShift = 3;  // of levels: two bins an octave
inline constexpr int kBins = kLevels >> kBinShift;
inline constexpr int kCentre = 7;        // the entry of cell 0
inline constexpr std::size_t kFar = 15;  // the entry of cells beyond
inline constexpr std::uint16_t kFirstFarCount = 64;

// log2 of a cell's indices.
constexpr unsigned shift_of(std::size_t set, int bin) {
    if (set == kSparse) return 0;
    constexpr int kFirst = 9;  // the bin, of free symbols, whose magnitudes cells of one would be too many for, less 2
    const int above = bin - kFirst - (set == kFree ? 0 : 2);
    return above < 2 ? 0 : static_cast<unsigned>(above) / 2;
}

// The least level whose cells are more than single indices.
constexpr std::int16_t level_of_cells(std::size_t set) {
    int bin = 0;
    while (shift_of(set, bin) == 0) ++bin;
    return static_cast<std::int16_t>(bin << kBinShift);
}

// Two-sided geometric, of the bin's magnitude; quantizer 1 seldom takes zero.
constexpr Counts first_counts(std::size_t set, int bin) {
    constexpr std::array<std::uint64_t, 2> kHalfOctaves{77936, 110218};  // 2^(1/4) and 2^(3/4) in units of 2^-16
    constexpr std::uint64_t kCounted = 200;
    const unsigned octaves = static_cast<unsigned>(bin) / 2, fall = 4u + (set < kFree) + shift_of(set, bin);
    const std::uint64_t mean = kHalfOctaves[static_cast<std::size_t>(bin % 2)] << octaves >> fall;  // in cells
    const std::uint64_t ratio = (mean << 16) / (mean + 65536);
    std::array<std::uint64_t, kEntries> weights{};
    std::uint64_t weight = 1 << 24, sum = 0;
    for (std::size_t distance = 0; distance <= kCentre; ++distance, weight = weight * ratio >> 16) {
        weights[kCentre - distance] = weights[kCentre + distance] = weight;
    }
    weights[kFar] = 2 * weight;
    if (set == 1 && shift_of(set, bin) == 0) weights[kCentre] >>= 3;
    for (const std::uint64_t each : weights) sum += each;
    Counts counts{};
    for (std::size_t i = 0; i < kEntries; ++i)
        counts[i] = static_cast<std::uint16_t>(std::max<std::uint64_t>(1, weights[i] * kCounted / sum));
    return counts;
}

// Leans: how many of these the prediction is, or more, in 1/256 of the expected magnitude.
inline constexpr std::array<std::uint32_t, kLimits> kLeanTimes{13, 38, 77, 128, 205, 307};
inline constexpr std::size_t kLeans = kLimits + 1;
inline constexpr std::int16_t kNearLevels = std::max(level_of_cells(0), level_of_cells(kFree));

// The same by level, as magnitudes of predictions in 1/256, where these are exact.
struct LeanLimits {
    alignas(16) std::array<Limits, kNearLevels> of_level{};
};
METAQ_MAKES_TABLE LeanLimits make_lean_limits() {
    LeanLimits limits;
    for (std::size_t level = 0; level < kNearLevels; ++level) {
        Limits& of_level = limits.of_level[level];
        for (std::size_t i = 0; i < kLimits; ++i) {
            const std::uint64_t least =
                ((std::uint64_t{kLeanTimes[i]} << Expected{}.scale_shift()) + kScales[level] - 1) / kScales[level];
            of_level[i] = static_cast<std::int16_t>(least);
        }
    }
    return limits;
}
inline METAQ_TABLE LeanLimits kLeanLimits = make_lean_limits();

struct Tables {
    std::array<std::array<Table, kBins * kLeans>, kSets> cells;
    std::array<Table, kSets> far;  // of distances: twice the bits, at most 7 of them, and the sign

    Tables() {
        for (std::size_t set = 0; set < kSets; ++set) {
            for (int bin = 0; bin < kBins; ++bin) {
                std::fill_n(&cells[set][static_cast<std::size_t>(bin) * kLeans], kLeans, Table(first_counts(set, bin)));
            }
        }
        Counts even;
        even.fill(kFirstFarCount);
        far.fill(Table(even));
    }
};

// Where a symbol is coded, as far as its expectations tell.
struct Place {
    Table* cells;
    unsigned shift;
    std::int64_t offset;  // the cell predicted
    std::int64_t sign;    // -1 if indices are negated, otherwise 0

    std::int64_t turned(std::int64_t index) const { return (index ^ sign) - sign; }
};

inline Place place_of(Tables& tables, std::size_t set, const Expected& expected, std::size_t lane) {
    const int bin = expected.level[lane] >> kBinShift;
    const std::int32_t sign = expected.value[lane] >> 31;
    const auto value = static_cast<std::uint32_t>((expected.value[lane] ^ sign) - sign);
    const unsigned shift = shift_of(set, bin);
    Table* leans = &tables.cells[set][static_cast<std::size_t>(bin) * kLeans];
    if (shift > 0) {
        const unsigned unit = 8 + shift + (set < kFree);
        const std::uint64_t rounded = (std::uint64_t{value} << expected.shift) + (std::uint64_t{1} << (unit - 1));
        return {leans, shift, static_cast<std::int64_t>(rounded >> unit), sign};
    }
    const std::uint64_t times = expected.times(lane, value);
    return {leans + std::count_if(kLeanTimes.begin(), kLeanTimes.end(),
                                  [&](std::uint32_t least) { return least <= times; }),
            0, 0, sign};
}

// The same for each lane, of a set's tables, where the expectations of all are exact and below kNearLevels.
inline std::array<std::uint32_t, kLanes> near_tables(const Expected& expected) {
    const auto limits = [&](std::size_t lane) {
        return &kLeanLimits.of_level[static_cast<std::size_t>(expected.level[lane])];
    };
    std::array<std::uint32_t, kLanes> tables = reached(expected.value, {limits(0), limits(1), limits(2), limits(3)});
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
        tables[lane] += static_cast<std::uint32_t>(expected.level[lane] >> kBinShift) * kLeans;
    }
    return tables;
}

}  // namespace metaq::adaptive
