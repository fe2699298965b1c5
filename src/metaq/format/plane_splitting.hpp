// Elements of kept tensors to one of their byte planes (docs/format.md, "Planes"); planes.hpp is the way back.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "metaq/format/planes.hpp"

namespace metaq::planes {

// Elements are in the machine's order of bytes, at any address.
template <class Word, bool kIsFloat>
void split(const std::uint8_t* elements, std::size_t count, unsigned plane, std::int8_t* out) {
    const unsigned shift = 8 * (static_cast<unsigned>(sizeof(Word)) - 1 - plane);
    for (std::size_t i = 0; i < count; ++i) {
        Word word = 0;
        std::memcpy(&word, elements + i * sizeof(Word), sizeof(Word));
        if constexpr (kIsFloat) word = static_cast<Word>(word << 1 | word >> (8 * sizeof(Word) - 1));
        out[i] = static_cast<std::int8_t>(static_cast<std::uint8_t>(word >> shift) ^ 0x80u);
    }
}

template <class Word>
void split(const std::uint8_t* elements, std::size_t count, bool is_float, unsigned plane, std::int8_t* out) {
    is_float ? split<Word, true>(elements, count, plane, out) : split<Word, false>(elements, count, plane, out);
}

// The elements have `width` bytes, 1, 2, 4 or 8; plane 0 is the most significant.
inline void split(const std::uint8_t* elements, std::size_t width, std::size_t count, bool is_float, unsigned plane,
                  std::int8_t* out) {
    switch (width) {
        case 1: return split<std::uint8_t>(elements, count, is_float, plane, out);
        case 2: return split<std::uint16_t>(elements, count, is_float, plane, out);
        case 4: return split<std::uint32_t>(elements, count, is_float, plane, out);
        default: return split<std::uint64_t>(elements, count, is_float, plane, out);
    }
}

}  // namespace metaq::planes
