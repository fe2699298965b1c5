// Words as the bytes of a file.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace metaq {

template <class Word>
void write_little_endian(std::uint8_t* out, Word word) {
    if constexpr (std::endian::native == std::endian::little) {
        std::memcpy(out, &word, sizeof(Word));
        return;
    }
    for (std::size_t i = 0; i < sizeof(Word); ++i) out[i] = static_cast<std::uint8_t>(word >> 8 * i);
}

}  // namespace metaq
