// Byte planes of kept tensors (docs/format.md, "Planes") to elements and back, all planes of an element in one pass.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "metaq/base/little_endian.hpp"

namespace metaq::planes {

inline constexpr std::size_t kPlaneLimit = 8;

// A plane's symbols as bytes: a symbol is the byte less 128, which is to say with its highest bit flipped.
using Planes = std::array<const std::uint8_t*, kPlaneLimit>;  // the most significant first

// The elements of as many bytes as Word, little-endian. What floats were rotated by is undone. `planes`
// is a copy, to which nothing written to `out` can point, so that compilers vectorize.
template <class Word, bool kIsFloat>
void join(Planes planes, std::size_t count, std::uint8_t* out) {
    constexpr unsigned kBits = 8 * sizeof(Word);
    for (std::size_t i = 0; i < count; ++i) {
        Word word = 0;
        for (unsigned plane = 0; plane < sizeof(Word); ++plane) {
            const auto byte = static_cast<Word>(planes[plane][i] ^ 0x80u);
            word = static_cast<Word>(word | static_cast<Word>(byte << (kBits - 8 - 8 * plane)));
        }
        if constexpr (kIsFloat) word = static_cast<Word>(word >> 1 | word << (kBits - 1));
        write_little_endian(out + i * sizeof(Word), word);
    }
}

template <class Word>
void join(const Planes& planes, std::size_t count, bool is_float, std::uint8_t* out) {
    is_float ? join<Word, true>(planes, count, out) : join<Word, false>(planes, count, out);
}

// `width` is 1, 2, 4 or 8 bytes, and as many planes there are.
inline void join(const Planes& planes, std::size_t width, std::size_t count, bool is_float, std::uint8_t* out) {
    switch (width) {
        case 1: return join<std::uint8_t>(planes, count, is_float, out);
        case 2: return join<std::uint16_t>(planes, count, is_float, out);
        case 4: return join<std::uint32_t>(planes, count, is_float, out);
        default: return join<std::uint64_t>(planes, count, is_float, out);
    }
}

}  // namespace metaq::planes
