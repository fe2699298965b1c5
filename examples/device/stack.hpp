// What a program takes of its stack: it is filled before, and looked at afterwards.
#pragma once

#include <cstddef>
#include <cstdint>

constexpr std::size_t kStackBytes = 1u << 16;
constexpr std::uint8_t kUntouched = 0xa5;

[[gnu::noinline]] inline void fill_stack() {
    [[maybe_unused]] volatile std::uint8_t stack[kStackBytes];
    for (std::size_t i = 0; i < kStackBytes; ++i) stack[i] = kUntouched;
}

[[gnu::noinline]] inline std::size_t used_stack() {
    [[maybe_unused]] volatile std::uint8_t stack[kStackBytes];
    std::size_t untouched = 0;
    while (untouched < kStackBytes && stack[untouched] == kUntouched) ++untouched;
    return kStackBytes - untouched;
}
