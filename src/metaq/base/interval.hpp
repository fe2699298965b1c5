// What a symbol is to the encoder of a static rANS code with states of 32 bits, without divisions.
#pragma once

#include <cstdint>

namespace metaq {

// The interval of a symbol among 2^precision slots, of 1 to 16 bits. A state is divided by the frequency by multiplication
// with 2^(32 + precision) over it, rounded up to r. That is exact, and fits into 64 bits: a state x that has given off its
// word is below f 2^(32 - precision), and r exceeds what it rounds by e / f with e < f <= 2^precision, so that
// x e < 2^(32 + precision) and x r < 2^64.
struct Interval {
    std::uint64_t reciprocal = 0;
    std::uint32_t greatest = 0;  // state that gives off no word before
    std::uint32_t start = 0;
    std::uint32_t complement = 0;  // of the frequency

    Interval() = default;

    // Nothing is coded as a symbol whose `count` is 0.
    Interval(std::uint32_t first, std::uint32_t count, unsigned precision)
        : reciprocal(count > 0 ? ((std::uint64_t{1} << (32 + precision)) + count - 1) / count : 0),
          greatest(static_cast<std::uint32_t>((std::uint64_t{count} << (32 - precision)) - 1)),
          start(first),
          complement((1u << precision) - count) {}

    // state / frequency * 2^precision + state % frequency + first, of a state that is not above `greatest`.
    [[gnu::always_inline]] void add_to(std::uint32_t& state, unsigned precision) const {
        state += static_cast<std::uint32_t>(state * reciprocal >> (32 + precision)) * complement + start;
    }

    // Writes a word that the state gives off in front of `words`. There is no branch, which would be mispredicted often.
    [[gnu::always_inline]] void push(std::uint32_t& state, unsigned precision, std::uint16_t*& words) const {
        words[-1] = static_cast<std::uint16_t>(state);
        const std::uint32_t mask = 0u - static_cast<std::uint32_t>(state > greatest);
        words -= 1 & mask;
        state >>= 16 & mask;
        add_to(state, precision);
    }
};

}  // namespace metaq
