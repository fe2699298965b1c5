// Eight numbers at a time: what the adaptive coder's expectations spend their time on. All arithmetic is modulo 2^32.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#if defined(__SSE2__) && !defined(METAQ_NO_SIMD)
#include <emmintrin.h>
#endif

namespace metaq::adaptive {

inline constexpr std::size_t kLanes = 8;
inline constexpr int kUsedShift = 3;  // bits of a weight that take no part in predictions

#if defined(__SSE2__) && !defined(METAQ_NO_SIMD)

struct Lanes {
    __m128i bits = _mm_setzero_si128();

    std::int16_t first() const { return static_cast<std::int16_t>(_mm_cvtsi128_si32(bits)); }

    // The first goes, the others move up. Kept in a register: what was just written by parts is slow to read as a whole.
    void push(std::int16_t last) { bits = _mm_insert_epi16(_mm_srli_si128(bits, 2), last, kLanes - 1); }

    std::int32_t dot(const Lanes& other) const {
        __m128i sums = _mm_madd_epi16(bits, other.bits);
        sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
        sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1));
        return _mm_cvtsi128_si32(sums);
    }

    // Adds factor * lane, shifted down, to eight sums.
    void add_to(std::int32_t* sums, std::int16_t factor, int shift) const {
        const __m128i factors = _mm_set1_epi16(factor), count = _mm_cvtsi32_si128(shift);
        const __m128i low = _mm_mullo_epi16(bits, factors), high = _mm_mulhi_epi16(bits, factors);
        const auto add = [&](std::int32_t* to, __m128i products) {
            const __m128i old = _mm_loadu_si128(reinterpret_cast<const __m128i*>(to));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_add_epi32(old, _mm_sra_epi32(products, count)));
        };
        add(sums, _mm_unpacklo_epi16(low, high));
        add(sums + 4, _mm_unpackhi_epi16(low, high));
    }
};

inline Lanes load(const std::int16_t* from) { return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))}; }

// Weights without their last bits, within 16 bits.
inline Lanes shortened(const std::int32_t* weights) {
    const auto part = [&](std::size_t first) {
        return _mm_srai_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights + first)), kUsedShift);
    };
    return {_mm_packs_epi32(part(0), part(4))};
}

#else

struct Lanes {
    std::array<std::int16_t, kLanes> lanes{};

    std::int16_t first() const { return lanes[0]; }

    void push(std::int16_t last) {
        std::copy(lanes.begin() + 1, lanes.end(), lanes.begin());
        lanes.back() = last;
    }

    std::int32_t dot(const Lanes& other) const {
        std::int32_t sum = 0;
        for (std::size_t n = 0; n < kLanes; ++n) sum += std::int32_t{lanes[n]} * other.lanes[n];
        return sum;
    }

    void add_to(std::int32_t* sums, std::int16_t factor, int shift) const {
        for (std::size_t n = 0; n < kLanes; ++n) {
            const auto product = static_cast<std::uint32_t>(std::int32_t{lanes[n]} * factor >> shift);
            sums[n] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[n]) + product);
        }
    }
};

inline Lanes load(const std::int16_t* from) {
    Lanes loaded;
    std::copy_n(from, kLanes, loaded.lanes.begin());
    return loaded;
}

inline Lanes shortened(const std::int32_t* weights) {
    Lanes used;
    for (std::size_t n = 0; n < kLanes; ++n) {
        used.lanes[n] = static_cast<std::int16_t>(std::clamp<std::int32_t>(weights[n] >> kUsedShift, INT16_MIN, INT16_MAX));
    }
    return used;
}

#endif

}  // namespace metaq::adaptive
