// The adaptive coder's tables: which of them a symbol is coded by, and what they hold before anything is known.
//
// An index (a symbol, or its place in one of two dependent quantizers), negated where a negative value is predicted, is
// seen as a cell, of 2^shift indices, less the cell predicted; entries are cells -7 ... 7 and one for all others. Shifts
// keep one or two cells within the expected magnitude. Where cells are single indices nothing is subtracted; instead
// the prediction, relative to the expected magnitude, is a context.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "metaq/adaptive_history.hpp"
#include "metaq/adaptive_rans.hpp"

namespace metaq::adaptive {

inline constexpr std::size_t kSets = 3;  // for dependent quantizers 0 and 1, and for symbols that are free
inline constexpr std::size_t kFree = 2;
inline constexpr int kBinShift = 3;  // of levels: two bins an octave
inline constexpr int kBins = kLevels >> kBinShift;
inline constexpr std::size_t kLeans = 7;
inline constexpr int kCentre = 7;  // the entry of cell 0
inline constexpr std::size_t kFar = 15;  // the entry of cells beyond
inline constexpr std::uint16_t kFirstFarCount = 64;

// log2 of a cell's indices.
constexpr unsigned shift_of(std::size_t set, int bin) {
    constexpr int kFirst = 9;  // the bin, of free symbols, whose magnitudes cells of one would be too many for, less 2
    const int above = bin - kFirst - (set == kFree ? 0 : 2);
    return above < 2 ? 0 : static_cast<unsigned>(above) / 2;
}

// Two-sided geometric, of the bin's magnitude; quantizer 1 seldom takes zero.
constexpr Counts first_counts(std::size_t set, int bin) {
    constexpr std::array<std::uint64_t, 2> kHalfOctaves{77936, 110218};  // 2^(1/4) and 2^(3/4) in units of 2^-16
    constexpr std::uint64_t kCounted = 600;
    const unsigned octaves = static_cast<unsigned>(bin) / 2, fall = 4u + (set != kFree) + shift_of(set, bin);
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
    for (std::size_t i = 0; i < kEntries; ++i) counts[i] = static_cast<std::uint16_t>(std::max<std::uint64_t>(1, weights[i] * kCounted / sum));
    return counts;
}

struct Tables {
    std::array<std::array<std::array<Table, kLeans>, kBins>, kSets> cells;
    std::array<Table, kSets> far;  // of distances: twice the bits, at most 7 of them, and the sign

    Tables() {
        for (std::size_t set = 0; set < kSets; ++set) {
            for (int bin = 0; bin < kBins; ++bin) cells[set][static_cast<std::size_t>(bin)].fill(Table(first_counts(set, bin)));
        }
        Counts even;
        even.fill(kFirstFarCount);
        far.fill(Table(even));
    }
};

// The place of a table by how many times the expected magnitude the prediction is, in 1/256.
inline constexpr std::size_t kLeanEnd = 307;
constexpr std::array<std::uint8_t, kLeanEnd + 1> make_leans() {
    std::array<std::uint8_t, kLeanEnd + 1> table{};
    for (std::size_t times = 0; times <= kLeanEnd; ++times) {
        for (const std::size_t least : {13, 38, 77, 128, 205, 307}) table[times] = static_cast<std::uint8_t>(table[times] + (times >= least));
    }
    return table;
}
inline constexpr auto kLeanOf = make_leans();

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
    auto& leans = tables.cells[set][static_cast<std::size_t>(bin)];
    if (shift > 0) {
        const unsigned unit = 8 + shift + (set != kFree);
        const std::uint64_t rounded = (std::uint64_t{value} << expected.shift) + (std::uint64_t{1} << (unit - 1));
        return {&leans[0], shift, static_cast<std::int64_t>(rounded >> unit), sign};
    }
    return {&leans[kLeanOf[std::min<std::uint64_t>(expected.times(lane, value), kLeanEnd)]], 0, 0, sign};
}

}  // namespace metaq::adaptive
