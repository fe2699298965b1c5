// Symbols to the bytes of tensors: what the symbols of coded ones stand for, and the byte planes of kept ones.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include "metaq/format/header.hpp"
#include "metaq/format/status.hpp"
#include "metaq/base/floats.hpp"

namespace metaq {

template <class Word>
void write_little_endian(std::uint8_t* out, Word word) {
    if constexpr (std::endian::native == std::endian::little) {
        std::memcpy(out, &word, sizeof(Word));
        return;
    }
    for (std::size_t i = 0; i < sizeof(Word); ++i) out[i] = static_cast<std::uint8_t>(word >> 8 * i);
}

inline void write_float(std::uint8_t* out, float value, Dtype dtype) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    switch (dtype) {
        case Dtype::float16: return write_little_endian(out, to_float16(bits));
        case Dtype::bfloat16: return write_little_endian(out, to_bfloat16(bits));
        case Dtype::float64: return write_little_endian(out, std::bit_cast<std::uint64_t>(static_cast<double>(value)));
        default: return write_little_endian(out, bits);
    }
}

struct SymbolRange {
    std::int64_t least, greatest;
};

inline SymbolRange symbol_range(const FileCodebook& codebook, Dtype dtype) {
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

// Multiples of a step in place of the symbols, as little-endian float32.
inline void to_float32(std::span<std::int32_t> symbols, float step) {
    for (std::int32_t& symbol : symbols) {
        const auto bits = std::bit_cast<std::uint32_t>(step * static_cast<float>(symbol));
        if constexpr (std::endian::native == std::endian::little) {
            symbol = std::bit_cast<std::int32_t>(bits);
        } else {
            write_little_endian(reinterpret_cast<std::uint8_t*>(&symbol), bits);
        }
    }
}

// `out` has room for exactly these symbols' values.
inline FileStatus write_values(std::span<const std::int32_t> symbols, const FileCodebook& codebook, Dtype dtype,
                               std::uint8_t* out) {
    const auto [least, greatest] = symbol_range(codebook, dtype);
    const unsigned width = traits_of(dtype).bytes;
    for (const std::int32_t symbol : symbols) {
        if (symbol < least || symbol > greatest) return FileStatus::symbol_range;
        if (codebook.kind == CodebookKind::uniform) {
            write_float(out, codebook.step * static_cast<float>(symbol), dtype);
        } else if (codebook.kind == CodebookKind::table) {
            write_float(out, codebook.levels[static_cast<std::size_t>(symbol + codebook.origin)], dtype);
        } else {
            const auto extended = static_cast<std::uint64_t>(std::int64_t{symbol});
            for (unsigned i = 0; i < width; ++i) out[i] = static_cast<std::uint8_t>(extended >> 8 * i);
        }
        out += width;
    }
    return FileStatus::ok;
}

// Puts a plane's symbols into the elements' bytes, which are `width` apart; plane 0 is the most significant.
inline FileStatus write_plane(std::span<const std::int32_t> symbols, unsigned plane, unsigned width,
                              std::uint8_t* out) {
    out += width - 1 - plane;
    for (const std::int32_t symbol : symbols) {
        if (symbol < -128 || symbol > 127) return FileStatus::plane_range;
        *out = static_cast<std::uint8_t>(symbol + 128);
        out += width;
    }
    return FileStatus::ok;
}

// Rotates every element right by one bit, once all planes are in place: floats only.
inline void restore_signs(std::span<std::uint8_t> elements, unsigned width) {
    for (std::size_t first = 0; first + width <= elements.size(); first += width) {
        std::uint8_t* const bytes = elements.data() + first;
        unsigned carried = bytes[0] & 1u;
        for (unsigned i = width; i-- > 0;) {
            const unsigned byte = bytes[i];
            bytes[i] = static_cast<std::uint8_t>(carried << 7 | byte >> 1);
            carried = byte & 1u;
        }
    }
}

}  // namespace metaq
