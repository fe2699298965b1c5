// The alphabet of one block for the baseline coders: which symbols have an entry of their own, and how the rest escape.
//
// Entries are the listed symbols in increasing order, then the escape if there is one. An escaped symbol is followed by
// its distance from the least escaped symbol in a fixed number of bits, so that a block of distinct values costs about
// what it would cost raw, and tables stay bounded whatever the data.
#pragma once

#include <cstddef>
#include <cstdint>

#include "metaq/base/bits.hpp"
#include "metaq/base/bounded_list.hpp"
#include "metaq/base/symbols.hpp"

namespace metaq {

inline constexpr std::uint32_t kListedLimit = 4096;           // listed symbols in an alphabet
inline constexpr std::size_t kEntryLimit = kListedLimit + 1;  // entries, the escape among them

// With `Listed` a BoundedList or a GrowingList.
template <class Listed>
struct BasicAlphabet {
    Listed listed;                 // increasing
    std::int32_t escape_base = 0;  // the least escaped symbol
    unsigned escape_width = 0;     // bits of an escaped symbol, 1 to 32; 0: nothing escapes

    bool has_escape() const { return escape_width > 0; }
    std::size_t entries() const { return listed.size() + (has_escape() ? 1 : 0); }
    bool is_single() const { return listed.size() == 1 && !has_escape(); }
};

using Alphabet = BasicAlphabet<BoundedList<std::int32_t, kListedLimit>>;

// How many bytes of zeros follow the table of a block of `size` equal symbols, so that no stream stands for more than 2^19
// symbols a byte: the symbols themselves take nothing, and the table takes at least one byte.
inline std::size_t filler_bytes(std::size_t size) { return size == 0 ? 0 : (size - 1) / kSymbolsPerByte; }

namespace alphabet_code {
// The orders that make up the ten bits or more of a single symbol's table; filler_bytes relies on them.
inline constexpr unsigned kCountOrder = 4;
inline constexpr unsigned kSymbolOrder = 3;
inline constexpr unsigned kGapOrders = 16;  // a four-bit field

inline std::uint32_t gap(const Alphabet& alphabet, std::size_t i) {
    return static_cast<std::uint32_t>(alphabet.listed[i]) - static_cast<std::uint32_t>(alphabet.listed[i - 1]) - 1;
}

inline unsigned best_gap_order(const Alphabet& alphabet) {
    unsigned best = 0;
    std::uint64_t best_bits = UINT64_MAX;
    for (unsigned order = 0; order < kGapOrders; ++order) {
        BitCounter counter;
        for (std::size_t i = 1; i < alphabet.listed.size(); ++i) put_golomb(counter, gap(alphabet, i), order);
        if (counter.bits() < best_bits) {
            best = order;
            best_bits = counter.bits();
        }
    }
    return best;
}
}  // namespace alphabet_code

template <class Sink>
void write_alphabet(Sink& sink, const Alphabet& alphabet) {
    namespace code = alphabet_code;
    put_golomb(sink, static_cast<std::uint32_t>(alphabet.listed.size()), code::kCountOrder);
    sink.put(alphabet.has_escape() ? 1 : 0, 1);
    if (!alphabet.listed.empty()) put_golomb(sink, to_zigzag(alphabet.listed[0]), code::kSymbolOrder);
    if (alphabet.listed.size() > 1) {
        const unsigned order = code::best_gap_order(alphabet);
        sink.put(order, 4);
        for (std::size_t i = 1; i < alphabet.listed.size(); ++i) put_golomb(sink, code::gap(alphabet, i), order);
    }
    if (alphabet.has_escape()) {
        put_golomb(sink, to_zigzag(alphabet.escape_base), code::kSymbolOrder);
        sink.put(alphabet.escape_width - 1, 5);
    }
}

// Returns false if no encoder writes this. Zeros are read behind the end, so callers check the source's status as well.
template <class Source, class Listed>
bool read_alphabet(Source& source, BasicAlphabet<Listed>& alphabet) {
    namespace code = alphabet_code;
    std::uint32_t count = 0;
    std::uint32_t value = 0;
    alphabet.listed.clear();
    alphabet.escape_width = 0;
    if (!get_golomb(source, code::kCountOrder, count) || count > kListedLimit) return false;
    const bool has_escape = source.get(1) == 1;
    if (count == 0 && !has_escape) return false;
    std::int64_t symbol = 0;
    unsigned order = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
        if (i == 1) order = source.get(4);
        if (!get_golomb(source, i == 0 ? code::kSymbolOrder : order, value)) return false;
        symbol = i == 0 ? from_zigzag(value) : symbol + 1 + value;
        if (!is_symbol(symbol)) return false;
        alphabet.listed.append(static_cast<std::int32_t>(symbol));
    }
    if (has_escape) {
        if (!get_golomb(source, code::kSymbolOrder, value)) return false;
        alphabet.escape_base = from_zigzag(value);
        alphabet.escape_width = source.get(5) + 1;
    }
    return true;
}

// Reads an escaped symbol. Returns false if it lies outside the symbols.
template <class Source, class Listed>
bool read_escaped(Source& source, const BasicAlphabet<Listed>& alphabet, std::int32_t& symbol) {
    const std::int64_t value = std::int64_t{alphabet.escape_base} + source.get(alphabet.escape_width);
    symbol = static_cast<std::int32_t>(value);
    return is_symbol(value);
}

template <class Sink>
void write_filler(Sink& sink, std::size_t size) {
    for (std::size_t i = 0; i < filler_bytes(size); ++i) sink.put(0, 8);
}

template <class Source>
bool read_filler(Source& source, std::size_t size) {
    std::uint32_t seen = 0;
    for (std::size_t i = 0; i < filler_bytes(size); ++i) seen |= source.get(8);
    return seen == 0;
}

}  // namespace metaq
