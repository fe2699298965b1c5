// A float32's bits as those of shorter floats, rounded to nearest even, and of longer ones. The value is no NaN. There are no
// branches, so that compilers vectorize.
#pragma once

#include <bit>
#include <cfloat>
#include <cstdint>

// Values are products, each rounded to float32, and no sum is of a product, so that it does not matter whether compilers
// contract those (-ffp-contract). These two change what is decoded.
#ifdef __FAST_MATH__
#error "metaq: expected IEEE 754 arithmetic, found -ffast-math; compile without it what includes the decoder"
#endif
static_assert(FLT_EVAL_METHOD != 2,
              "metaq: expected floats to be rounded, found those of the x87; add -msse2 -mfpmath=sse");

namespace metaq {

// value / 2^shift, rounded to nearest even; shift is 1 to 31.
inline std::uint32_t rounded_shift(std::uint32_t value, unsigned shift) {
    return (value + (1u << (shift - 1)) - 1 + (value >> shift & 1)) >> shift;
}

inline std::uint16_t to_float16(std::uint32_t bits) {
    const std::uint32_t magnitude = bits & 0x7fffffff;
    // Below 2^-14 units are 2^-24, which are those of 0.5 in float32 too: adding it rounds.
    const std::uint32_t small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
    const std::uint32_t normal = rounded_shift(magnitude - (112u << 23), 13);
    const std::uint32_t is_small = 0u - (magnitude < 0x38800000), is_finite = 0u - (magnitude < 0x47800000);
    const std::uint32_t finite = (small & is_small) | (normal & ~is_small);
    const std::uint32_t rounded = (finite & is_finite) | (0x7c00 & ~is_finite);  // 2^16 and above are infinite
    return static_cast<std::uint16_t>((bits >> 16 & 0x8000) | rounded);
}

inline std::uint64_t to_float64(std::uint32_t bits) {
#ifdef METAQ_SMALL  // a processor without floats of 64 bits would bring all their arithmetic
    const std::uint32_t magnitude = bits & 0x7fffffff;
    const unsigned missing = magnitude < 0x00800000 ? 24 - static_cast<unsigned>(std::bit_width(magnitude)) : 0;
    const unsigned exponent = magnitude == 0 ? 0 : magnitude < 0x7f800000 ? 896 - missing : 2 * 896;
    return std::uint64_t{bits >> 31} << 63 |
           ((std::uint64_t{magnitude} << (29 + missing)) + (std::uint64_t{exponent} << 52));
#else
    return std::bit_cast<std::uint64_t>(static_cast<double>(std::bit_cast<float>(bits)));
#endif
}

inline std::uint16_t to_bfloat16(std::uint32_t bits) {
    return static_cast<std::uint16_t>((bits >> 31) << 15 | rounded_shift(bits & 0x7fffffff, 16));
}

}  // namespace metaq
