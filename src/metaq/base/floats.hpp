// A float32's bits as those of shorter floats, rounded to nearest even. The value is no NaN.
#pragma once

#include <cstdint>

namespace metaq {

// value / 2^shift, rounded to nearest even; shift is 1 to 31.
inline std::uint32_t rounded_shift(std::uint32_t value, unsigned shift) {
    return (value + (1u << (shift - 1)) - 1 + (value >> shift & 1)) >> shift;
}

inline std::uint16_t to_float16(std::uint32_t bits) {
    const std::uint32_t sign = bits >> 16 & 0x8000;
    const std::uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x47800000) return static_cast<std::uint16_t>(sign | 0x7c00);  // 2^16 and above
    if (magnitude < 0x33000000) return static_cast<std::uint16_t>(sign);            // below 2^-25
    if (magnitude >= 0x38800000) return static_cast<std::uint16_t>(sign | rounded_shift(magnitude - (112u << 23), 13));
    const std::uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;  // below 2^-14: in units of 2^-24
    return static_cast<std::uint16_t>(sign | rounded_shift(mantissa, 126 - (magnitude >> 23)));
}

inline std::uint16_t to_bfloat16(std::uint32_t bits) {
    return static_cast<std::uint16_t>((bits >> 31) << 15 | rounded_shift(bits & 0x7fffffff, 16));
}

}  // namespace metaq
