// How four lanes of vectors take in words, where vectors are of 16 bytes: those of ARM and of WebAssembly.
#pragma once

#include <array>
#include <cstdint>

namespace metaq::rans {

// For each set of four lanes that take in a word, which bytes of the next words each lane takes, zeros for none; and how
// many bytes that is.
struct TakenWords {
    alignas(16) std::array<std::array<std::uint8_t, 16>, 16> bytes{};
    std::array<std::uint8_t, 16> size{};
};
inline constexpr TakenWords kTakenWords = [] {
    constexpr std::uint8_t kZero = 0xff;
    TakenWords result;
    for (unsigned set = 0; set < 16; ++set) {
        result.bytes[set].fill(kZero);
        std::uint8_t next = 0;
        for (unsigned lane = 0; lane < 4; ++lane) {
            if ((set >> lane & 1) == 0) continue;
            for (unsigned byte = 0; byte < 2; ++byte) result.bytes[set][4 * lane + byte] = next++;
        }
        result.size[set] = next;
    }
    return result;
}();

}  // namespace metaq::rans
