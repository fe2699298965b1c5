// Symbols to the values that they stand for, as little-endian bytes.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/base/floats.hpp"
#include "metaq/base/little_endian.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/format/status.hpp"
#include "metaq/format/tensors.hpp"

namespace metaq {

// Every symbol's word; the words may take the place of the symbols.
template <class Word, class WordOf>
void write_each(std::span<const std::int32_t> symbols, std::uint8_t* out, const WordOf& word_of) {
    for (std::size_t i = 0; i < symbols.size(); ++i)
        write_little_endian<Word>(out + i * sizeof(Word), word_of(symbols[i]));
}

inline FileError::Range symbol_range(const FileCodebook& codebook, Dtype dtype) {
    if (codebook.kind == CodebookKind::table) {
        return {-codebook.origin, static_cast<std::int64_t>(codebook.levels.size()) - 1 - codebook.origin};
    }
    if (codebook.kind == CodebookKind::integer) {
        if (dtype == Dtype::boolean) return {0, 1};
        if (dtype == Dtype::uint8) return {0, 255};
        if (dtype == Dtype::int8) return {-128, 127};
        if (dtype == Dtype::int16) return {-32768, 32767};
    }
    return {1 - std::int64_t{kSymbolLimit}, std::int64_t{kSymbolLimit} - 1};
}

// As before, for words that take a while to find: those of small symbols are looked up if there are many, except where that is
// to be small. `range` is of the symbols that have a word.
template <class Word, class WordOf>
void write_each_looked_up(std::span<const std::int32_t> symbols, FileError::Range range, std::uint8_t* out,
                          const WordOf& word_of) {
#ifdef METAQ_SMALL
    (void)range;
    write_each<Word>(symbols, out, word_of);
#else
    constexpr std::int32_t kKnown = 512;
    if (symbols.size() < 4 * kKnown) return write_each<Word>(symbols, out, word_of);
    std::array<Word, 2 * kKnown> known{};
    for (std::int32_t symbol = -kKnown; symbol < kKnown; ++symbol) {
        const bool has_word = range.least <= symbol && symbol <= range.greatest;
        if (has_word) known[static_cast<std::size_t>(symbol + kKnown)] = word_of(symbol);
    }
    write_each<Word>(symbols, out, [&](std::int32_t symbol) {
        const auto at = static_cast<std::size_t>(std::int64_t{symbol} + kKnown);
        return at < known.size() ? known[at] : word_of(symbol);
    });
#endif
}

// Multiples of a step in place of the symbols, as little-endian float32: one pointer, so that compilers vectorize.
inline void to_float32(std::int32_t* symbols, std::size_t count, float step) {
    for (std::size_t i = 0; i < count; ++i) {
        const auto bits = std::bit_cast<std::uint32_t>(step * static_cast<float>(symbols[i]));
        write_little_endian(reinterpret_cast<std::uint8_t*>(symbols + i), bits);
    }
}

// Whether all symbols lie within the range; otherwise `error` says which do not.
inline bool check_range(std::span<const std::int32_t> symbols, FileError::Range range, FileStatus otherwise,
                        FileError& error) {
    std::int32_t least = symbols.empty() ? 0 : symbols[0], greatest = least;
    for (const std::int32_t symbol : symbols) {
        least = std::min(least, symbol);
        greatest = std::max(greatest, symbol);
    }
    if (symbols.empty() || (range.least <= least && greatest <= range.greatest)) return true;
    error.status = otherwise;
    error.expected = range;
    error.found = {least, greatest};
    return false;
}

// The bits of float32 as values of a floating-point dtype.
inline void write_float_bits(std::span<const std::int32_t> bits, Dtype dtype, std::uint8_t* out) {
    const auto word_of = [](std::int32_t value) { return static_cast<std::uint32_t>(value); };
    switch (dtype) {
        case Dtype::float16:
            return write_each<std::uint16_t>(bits, out, [&](std::int32_t value) { return to_float16(word_of(value)); });
        case Dtype::bfloat16:
            return write_each<std::uint16_t>(bits, out,
                                             [&](std::int32_t value) { return to_bfloat16(word_of(value)); });
        case Dtype::float64:
            return write_each<std::uint64_t>(bits, out, [&](std::int32_t value) { return to_float64(word_of(value)); });
        default: return write_each<std::uint32_t>(bits, out, word_of);
    }
}

template <class FloatOf>
void write_floats(std::span<const std::int32_t> symbols, FileError::Range range, Dtype dtype, std::uint8_t* out,
                  const FloatOf& float_of) {
    const auto bits_of = [&](std::int32_t symbol) { return std::bit_cast<std::uint32_t>(float_of(symbol)); };
    switch (dtype) {
        case Dtype::float16:
            return write_each_looked_up<std::uint16_t>(
                symbols, range, out, [&](std::int32_t symbol) { return to_float16(bits_of(symbol)); });
        case Dtype::bfloat16:
            return write_each<std::uint16_t>(symbols, out,
                                             [&](std::int32_t symbol) { return to_bfloat16(bits_of(symbol)); });
        case Dtype::float64:
            return write_each<std::uint64_t>(symbols, out,
                                             [&](std::int32_t symbol) { return to_float64(bits_of(symbol)); });
        default: return write_each<std::uint32_t>(symbols, out, bits_of);
    }
}

// `out` has room for exactly these symbols' values, all of which they have. It may be where the symbols are, if values
// are as wide.
inline void write_values(std::span<const std::int32_t> symbols, const FileCodebook& codebook, Dtype dtype,
                         std::uint8_t* out) {
    const FileError::Range range = symbol_range(codebook, dtype);
    if (codebook.kind == CodebookKind::uniform) {
        const float step = codebook.step;
        return write_floats(symbols, range, dtype, out,
                            [step](std::int32_t symbol) { return step * static_cast<float>(symbol); });
    }
    if (codebook.kind == CodebookKind::table) {
        const float* const level = codebook.levels.data() + codebook.origin;
        return write_floats(symbols, range, dtype, out, [level](std::int32_t symbol) { return level[symbol]; });
    }
    switch (traits_of(dtype).bytes) {
        case 1:
            return write_each<std::uint8_t>(symbols, out,
                                            [](std::int32_t symbol) { return static_cast<std::uint8_t>(symbol); });
        case 2:
            return write_each<std::uint16_t>(symbols, out,
                                             [](std::int32_t symbol) { return static_cast<std::uint16_t>(symbol); });
        case 4:
            return write_each<std::uint32_t>(symbols, out,
                                             [](std::int32_t symbol) { return static_cast<std::uint32_t>(symbol); });
        default:
            return write_each<std::uint64_t>(
                symbols, out, [](std::int32_t symbol) { return static_cast<std::uint64_t>(std::int64_t{symbol}); });
    }
}

}  // namespace metaq
