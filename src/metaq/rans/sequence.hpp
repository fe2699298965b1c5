// The symbols that a rANS encoder is given as one sequence, their entries in its alphabet, and those that escape.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/base/alphabet.hpp"
#include "metaq/base/bits.hpp"
#include "metaq/base/histogram.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/rans/decoder.hpp"
#include "metaq/rans/lanes.hpp"
#include "metaq/rans/tables.hpp"

namespace metaq::rans {

// The symbols of all blocks and what the encoder derives from them.
template <class Symbol>
struct Sequence {
    std::vector<Symbol> symbols;
    std::vector<std::uint16_t> entries;
    std::vector<std::uint64_t> counts;  // of each entry; none is zero
};

template <class Symbol>
std::vector<Symbol> concatenated(std::span<const BasicBlock<const Symbol>> blocks) {
    std::vector<Symbol> symbols;
    std::size_t size = 0;
    for (const auto& block : blocks) size += block.size();
    symbols.reserve(size);
    for (const auto& block : blocks) {
        if (block.size() > 0) symbols.insert(symbols.end(), block.symbols, block.symbols + block.size());
    }
    return symbols;
}

// The interval of the symbols that escape, of which there are some.
template <class Symbol>
void bound_escaped(const Sequence<Symbol>& sequence, Alphabet& alphabet) {
    std::int32_t least = kSymbolLimit;
    std::int32_t greatest = -kSymbolLimit;
    const auto escape = static_cast<std::uint16_t>(alphabet.listed.size());
    const std::span<const std::uint16_t> entries = sequence.entries;
    for (std::size_t i = find_entry(entries, 0, escape); i < entries.size(); i = find_entry(entries, i + 1, escape)) {
        least = std::min<std::int32_t>(least, sequence.symbols[i]);
        greatest = std::max<std::int32_t>(greatest, sequence.symbols[i]);
    }
    alphabet.escape_base = least;
    const auto distance = static_cast<std::uint32_t>(greatest - least);
    alphabet.escape_width = std::max(1u, static_cast<unsigned>(std::bit_width(distance)));
}

inline std::uint64_t least_count(std::size_t size) { return std::clamp<std::uint64_t>(size >> 12, 1, 16); }

// The histogram's alphabet without symbols that occur fewer than `least_count` times, which many tables would have to list.
template <class Symbol>
Alphabet list_entries(const Histogram& histogram, std::uint64_t least_count, Sequence<Symbol>& sequence) {
    const Alphabet& all = histogram.alphabet();
    Alphabet alphabet;
    std::vector<std::uint16_t> entry_of;  // by the histogram's entry
    std::uint64_t escaped = all.has_escape() ? histogram.counts().back() : 0;
    sequence.counts.clear();
    for (std::size_t i = 0; i < all.listed.size(); ++i) {
        const std::uint64_t count = histogram.counts()[i];
        const bool is_listed = count >= least_count;
        entry_of.push_back(is_listed ? static_cast<std::uint16_t>(alphabet.listed.size()) : UINT16_MAX);
        if (is_listed) {
            alphabet.listed.append(all.listed[i]);
            sequence.counts.push_back(count);
        } else {
            escaped += count;
        }
    }
    entry_of.push_back(UINT16_MAX);
    if (escaped > 0) sequence.counts.push_back(escaped);
    const auto escape = static_cast<std::uint16_t>(alphabet.listed.size());
    std::replace(entry_of.begin(), entry_of.end(), std::uint16_t{UINT16_MAX}, escape);
    sequence.entries.resize(sequence.symbols.size());
    histogram.find_entries<Symbol>(sequence.symbols, entry_of, sequence.entries.data());
    if (escaped > 0) bound_escaped(sequence, alphabet);
    return alphabet;
}

// The escaped symbols in the order of decoding, which goes across the lanes: some steps at a time, each lane is searched along its
// share, since few symbols escape.
template <class Symbol>
void write_escaped(const Header& header, const Sequence<Symbol>& sequence, BitWriter& writer) {
    constexpr std::size_t kSteps = 512;
    static_assert(kLaneLimit <= 32);
    const std::size_t lanes = std::size_t{1} << header.lane_width;
    const std::size_t size = sequence.symbols.size();
    const auto base = static_cast<std::uint32_t>(header.alphabet.escape_base);
    const auto escape = static_cast<std::uint16_t>(header.alphabet.listed.size());
    std::array<std::uint32_t, kSteps> escaping{};  // a bit for each lane
    for (std::size_t first = 0; first * lanes < size; first += kSteps) {
        escaping.fill(0);
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            const std::size_t start = lane_start(lane, lanes, size) + first;
            const std::size_t end = std::min(lane_start(lane + 1, lanes, size), start + kSteps);
            const std::uint16_t* const entries = sequence.entries.data() + start;
            for (std::size_t step = 0; start + step < end; ++step)
                escaping[step] |= std::uint32_t{entries[step] == escape} << lane;
        }
        for (std::size_t step = 0; step < kSteps; ++step) {
            for (std::uint32_t left = escaping[step]; left != 0; left &= left - 1) {
                const auto lane = static_cast<std::size_t>(std::countr_zero(left));
                const auto symbol =
                    static_cast<std::int32_t>(sequence.symbols[lane_start(lane, lanes, size) + first + step]);
                writer.put(static_cast<std::uint32_t>(symbol) - base, header.alphabet.escape_width);
            }
        }
    }
    writer.finish();
}

}  // namespace metaq::rans
