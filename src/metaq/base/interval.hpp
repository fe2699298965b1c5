// What a symbol is to the encoder of a static rANS code with states of 32 bits, without divisions.
#pragma once

#include <cstdint>

namespace metaq {

// The upper half of a product.
inline std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
#ifdef __SIZEOF_INT128__
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>(static_cast<Wide>(a) * b >> 64);
#else
    const std::uint64_t low = (a & UINT32_MAX) * (b & UINT32_MAX), middle = (a >> 32) * (b & UINT32_MAX) + (low >> 32);
    return (a >> 32) * (b >> 32) + (middle >> 32) + (((a & UINT32_MAX) * (b >> 32) + (middle & UINT32_MAX)) >> 32);
#endif
}

// The interval of a symbol among 2^precision slots, of 1 to 16 bits. A state is divided by the frequency by multiplication
// with 2^64 over it, which is exact for 32 bits but for a frequency of one; then the quotient is one less, for which `start`
// makes up.
struct Interval {
    std::uint64_t reciprocal = 0;
    std::uint32_t greatest = 0;  // state that gives off no word before
    std::uint32_t start = 0;
    std::uint32_t complement = 0;  // of the frequency

    Interval() = default;
    Interval(std::uint32_t first, std::uint32_t count, unsigned precision)
        : reciprocal(count > 1 ? UINT64_MAX / count + 1 : UINT64_MAX),
          greatest(static_cast<std::uint32_t>((std::uint64_t{count} << (32 - precision)) - 1)),
          start(count > 1 ? first : first + (1u << precision) - 1),
          complement((1u << precision) - count) {}

    // state / frequency * 2^precision + state % frequency + first
    [[gnu::always_inline]] void add_to(std::uint32_t& state) const {
        state += static_cast<std::uint32_t>(multiply_high(state, reciprocal)) * complement + start;
    }

    // Writes a word that the state gives off in front of `words`. There is no branch, which would be mispredicted often.
    [[gnu::always_inline]] void push(std::uint32_t& state, std::uint16_t*& words) const {
        words[-1] = static_cast<std::uint16_t>(state);
        const std::uint32_t mask = 0u - static_cast<std::uint32_t>(state > greatest);
        words -= 1 & mask;
        state >>= 16 & mask;
        add_to(state);
    }
};

}  // namespace metaq
