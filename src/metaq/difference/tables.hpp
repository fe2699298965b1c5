// What a stream of differences says before its first state: which units change, the classes of the base's exponents, and
// the tables (docs/format.md, "Difference").
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "metaq/base/bits.hpp"
#include "metaq/base/bounded_list.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/sparse_frequencies.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/difference/words.hpp"

namespace metaq::difference {

inline constexpr std::size_t kUnit = 256;       // elements, of which all may be unchanged
inline constexpr std::size_t kClassLimit = 16;  // of exponents
inline constexpr std::size_t kHistories = 4;    // whether the two elements before have changed
inline constexpr unsigned kFlagPrecision = 16;
inline constexpr unsigned kSymbolPrecision = 12;
inline constexpr unsigned kLaneWidthLimit = 3;
inline constexpr unsigned kShareBits = 5;  // of a flag's frequency that are written, below its first

struct Tables {
    BoundedList<std::uint16_t, kClassLimit> first_keys;  // of each class the first exponent; that of the first is 0
    // By class and history: how many of 2^16 elements stay as they are.
    std::array<std::array<std::uint32_t, kHistories>, kClassLimit> unchanged{};
    std::size_t symbols = 0;  // that the tables have
    std::array<std::array<std::uint32_t, kSymbols>, kClassLimit> frequencies{};
    unsigned lane_width = 0;
    std::uint32_t words = 0;  // of 16 bits, behind the states

    // Whether a class has changes, and so a table.
    bool has_changes(std::size_t number) const {
        const auto& of_class = unchanged[number];
        return std::any_of(of_class.begin(), of_class.end(),
                           [](std::uint32_t share) { return share < 1u << kFlagPrecision; });
    }
};

inline std::size_t count_units(std::size_t size) { return (size + kUnit - 1) / kUnit; }

// Lengths of runs of units, the first of unchanged ones, which alone may have none. `lengths` come from the reader's callback.
template <class Source>
bool read_units(Source& source, std::size_t units, Buffer<std::uint32_t>& changed, Status& status) {
    status = Status::no_memory;
    if (source.get(1) == 0) {
        if (!changed.resize_for_overwrite(units)) return false;
        for (std::size_t i = 0; i < units; ++i) changed[i] = static_cast<std::uint32_t>(i);
        return true;
    }
    const unsigned order = source.get(4);
    bool is_changed = false;
    for (std::size_t at = 0; at < units; is_changed = !is_changed) {
        std::uint32_t length = 0;
        const bool is_good = get_golomb(source, order, length);
        const std::size_t run = std::size_t{length} + (at > 0 || is_changed ? 1 : 0);
        status = Status::corrupt;
        if (!is_good || run > units - at) return false;
        status = Status::no_memory;
        for (std::size_t i = at; is_changed && i < at + run; ++i) {
            if (!changed.append(static_cast<std::uint32_t>(i))) return false;
        }
        at += run;
    }
    return true;
}

// A share of 2^16 that is none, all, or a few bits of the lesser of itself and what it leaves.
template <class Sink>
void write_share(Sink& sink, std::uint32_t share) {
    constexpr std::uint32_t kAll = 1u << kFlagPrecision;
    const bool is_most = share > kAll / 2;
    const std::uint32_t lesser = is_most ? kAll - share : share;
    const auto width = static_cast<unsigned>(std::bit_width(lesser));
    sink.put(is_most ? 1 : 0, 1);
    sink.put(width, 5);
    if (width > 1)
        sink.put((lesser >> (width - std::min(width, kShareBits + 1))) & ((1u << std::min(width - 1, kShareBits)) - 1),
                 std::min(width - 1, kShareBits));
}

template <class Source>
bool read_share(Source& source, std::uint32_t& share) {
    constexpr std::uint32_t kAll = 1u << kFlagPrecision;
    const bool is_most = source.get(1) == 1;
    const unsigned width = source.get(5);
    if (width > kFlagPrecision) return false;
    const unsigned written = width > 1 ? std::min(width - 1, kShareBits) : 0;
    const std::uint32_t top = width > 0 ? 1u << written | source.get(written) : 0;
    const std::uint32_t lesser = width > 0 ? top << (width - 1 - written) : 0;
    share = is_most ? kAll - lesser : lesser;
    return lesser <= kAll / 2;
}

template <class Sink>
void write_tables(Sink& sink, const Tables& tables) {
    sink.put(tables.lane_width, 2);
    put_golomb(sink, tables.words, 12);
    put_golomb(sink, static_cast<std::uint32_t>(tables.first_keys.size() - 1), 2);
    for (std::size_t i = 1; i < tables.first_keys.size(); ++i)
        put_golomb(sink, static_cast<std::uint32_t>(tables.first_keys[i] - tables.first_keys[i - 1] - 1), 1);
    put_golomb(sink, static_cast<std::uint32_t>(tables.symbols), 3);
    for (std::size_t i = 0; i < tables.first_keys.size(); ++i) {
        for (const std::uint32_t share : tables.unchanged[i]) write_share(sink, share);
        if (!tables.has_changes(i)) continue;
        write_table(sink, std::span(tables.frequencies[i]).first(tables.symbols), kSymbolPrecision);
    }
}

// False if no encoder writes this. Zeros are read behind the end.
template <class Source>
bool read_tables(Source& source, Tables& tables) {
    tables.lane_width = source.get(2);
    std::uint32_t number = 0;
    if (!get_golomb(source, 12, tables.words)) return false;
    if (!get_golomb(source, 2, number) || number >= kClassLimit) return false;
    tables.first_keys.resize(number + 1);
    for (std::size_t i = 1; i < tables.first_keys.size(); ++i) {
        if (!get_golomb(source, 1, number) || number >= kKeys - 1 - tables.first_keys[i - 1]) return false;
        tables.first_keys[i] = static_cast<std::uint16_t>(tables.first_keys[i - 1] + 1 + number);
    }
    if (!get_golomb(source, 3, number) || number > kSymbols) return false;
    tables.symbols = number;
    for (std::size_t i = 0; i < tables.first_keys.size(); ++i) {
        for (std::uint32_t& share : tables.unchanged[i]) {
            if (!read_share(source, share)) return false;
        }
        if (!tables.has_changes(i)) continue;
        if (tables.symbols == 0) return false;
        if (!read_table(source, std::span(tables.frequencies[i]).first(tables.symbols), kSymbolPrecision)) return false;
    }
    return true;
}

// For each exponent where the flags of its class begin.
inline void place_keys(const Tables& tables, std::array<std::uint16_t, kKeys>& places) {
    std::size_t number = 0;
    for (std::size_t key = 0; key < kKeys; ++key) {
        while (number + 1 < tables.first_keys.size() && tables.first_keys[number + 1] <= key) ++number;
        places[key] = static_cast<std::uint16_t>(number * kHistories);
    }
}

}  // namespace metaq::difference
