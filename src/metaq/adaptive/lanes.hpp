// Four rows at a time, and eight values before each: what the adaptive coder's expectations spend their time on.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "metaq/base/sse2.hpp"

namespace metaq::adaptive {

inline constexpr std::size_t kLanes = 4;           // rows
inline constexpr std::size_t kTaps = 8;            // values that one is predicted from
inline constexpr int kUsedShift = 3;               // bits of a weight that take no part in predictions
inline constexpr int kLevelShift = 12;             // bits of a level that take no part in what is expected
inline constexpr int kLevels = 320;                // without them
inline constexpr std::int16_t kValueLimit = 4095;  // larger ones count as this, so that no sum overflows
inline constexpr std::int16_t kMissLimit = 32767, kMissMore = 64;
inline constexpr std::int16_t kMostExcess = 700;

using Int32Lanes = std::array<std::int32_t, kLanes>;
using Int16Lanes = std::array<std::int16_t, kLanes>;
using Limits = std::array<std::int16_t, 8>;  // the first six count; aligned to 16 bytes
inline constexpr std::size_t kLimits = 6;

struct Weights {
    alignas(16) std::array<std::int32_t, kTaps> exact{};  // of the first value ... the last, in units of 2^-16
    alignas(16) std::array<std::int16_t, kTaps> used{};   // without their last bits, within 16 bits
};

// What the values of a band's rows are at one place.
struct Noted {
    Int16Lanes known;     // in a unit, within kValueLimit
    Int16Lanes misses;    // what they are more than expected, in 1/256 of the unit, within kMissLimit
    Int16Lanes excess;    // by their scales, how many times more than expected they are, in 1/256, at most kMostExcess
    std::int32_t energy;  // the sum of known values' squares
};

// Modulo 2^32.
inline std::int32_t plus(std::int32_t first, std::int32_t second) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(first) + static_cast<std::uint32_t>(second));
}

// Adds to a level the sum over the lanes of its excess, times the rate, shifted down, modulo 2^32.
inline void learn_one(std::int32_t& level, const Int16Lanes& excess, int rate) {
    int sum = 0;
    for (const int of_lane : excess) sum += of_lane;
    level = plus(level, sum * rate >> 8);
}

#ifdef METAQ_SSE2

inline __m128i load(const Int32Lanes& numbers) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(numbers.data()));
}
inline __m128i load(const Int16Lanes& values) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values.data()));
}
inline void store(Int32Lanes& numbers, __m128i bits) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(numbers.data()), bits);
}
inline void store(Int16Lanes& values, __m128i bits) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(values.data()), bits);
}

inline Int32Lanes int32_lanes(std::int32_t first, std::int32_t second, std::int32_t third, std::int32_t fourth) {
    Int32Lanes numbers;
    store(numbers, _mm_set_epi32(fourth, third, second, first));
    return numbers;
}

// The numbers, negated where a value is negative.
inline Int32Lanes turned(const Int32Lanes& numbers, const Int32Lanes& values) {
    const __m128i sign = _mm_srai_epi32(load(values), 31);
    Int32Lanes turned;
    store(turned, _mm_sub_epi32(_mm_xor_si128(load(numbers), sign), sign));
    return turned;
}

inline Int32Lanes plus(const Int32Lanes& numbers, std::int32_t other) {
    Int32Lanes sums;
    store(sums, _mm_add_epi32(load(numbers), _mm_set1_epi32(other)));
    return sums;
}

inline Int32Lanes plus(const Int32Lanes& numbers, const Int32Lanes& others) {
    Int32Lanes sums;
    store(sums, _mm_add_epi32(load(numbers), load(others)));
    return sums;
}

// Adds to each number some times its lane's excess, and takes away 2^-shift of what it was.
inline void follow(Int32Lanes& numbers, const Int16Lanes& excess, int times, int shift) {
    const __m128i more = _mm_madd_epi16(_mm_unpacklo_epi16(load(excess), _mm_setzero_si128()), _mm_set1_epi32(times));
    const __m128i less = _mm_sra_epi32(load(numbers), _mm_cvtsi32_si128(shift));
    store(numbers, _mm_add_epi32(load(numbers), _mm_sub_epi32(more, less)));
}

// Whether all lie strictly between -limit and limit.
inline bool are_within(const Int32Lanes& numbers, std::int32_t limit) {
    const __m128i above = _mm_cmpgt_epi32(load(numbers), _mm_set1_epi32(limit - 1));
    const __m128i below = _mm_cmplt_epi32(load(numbers), _mm_set1_epi32(1 - limit));
    return _mm_movemask_epi8(_mm_or_si128(above, below)) == 0;
}

inline bool all_below(const Int16Lanes& values, std::int16_t limit) {
    return (_mm_movemask_epi8(_mm_cmplt_epi16(load(values), _mm_set1_epi16(limit))) & 0xff) == 0xff;
}

// For each lane how many of its limits, of which each is at least the one before, a value's magnitude reaches.
inline std::array<std::uint32_t, kLanes> reached(const Int32Lanes& values,
                                                 const std::array<const Limits*, kLanes>& limits) {
    const __m128i zero = _mm_setzero_si128(), value = _mm_packs_epi32(load(values), zero);
    const __m128i magnitude = _mm_max_epi16(value, _mm_subs_epi16(zero, value));
    const __m128i early = _mm_unpacklo_epi16(magnitude, magnitude);  // each twice
    const auto count = [](const Limits* of_lane, __m128i of_value) {
        const __m128i beyond = _mm_cmpgt_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(of_lane->data())),
                                               of_value);
        return static_cast<std::uint32_t>(
                   std::countr_zero(static_cast<unsigned>(_mm_movemask_epi8(beyond)) | 1u << 2 * kLimits)) /
               2;
    };
    return {count(limits[0], _mm_shuffle_epi32(early, 0x00)), count(limits[1], _mm_shuffle_epi32(early, 0x55)),
            count(limits[2], _mm_shuffle_epi32(early, 0xaa)), count(limits[3], _mm_shuffle_epi32(early, 0xff))};
}

// Levels of rows, and another, without their last bits, from 0 to below kLevels.
inline Int16Lanes shortened(const Int32Lanes& levels, std::int32_t other) {
    const __m128i sums = _mm_srai_epi32(_mm_add_epi32(load(levels), _mm_set1_epi32(other)), kLevelShift);
    const __m128i least = _mm_max_epi16(_mm_packs_epi32(sums, sums), _mm_setzero_si128());
    Int16Lanes values;
    store(values, _mm_min_epi16(least, _mm_set1_epi16(kLevels - 1)));
    return values;
}

// For each lane the sum of a value and seven others times their weights, less its last bits.
inline Int32Lanes weighted(const Int16Lanes& first, const Int16Lanes* others, const Weights& weights, int shift) {
    const __m128i used = _mm_load_si128(reinterpret_cast<const __m128i*>(weights.used.data()));
    const auto pair = [](const Int16Lanes& one, const Int16Lanes& other, __m128i factors) {
        return _mm_madd_epi16(_mm_unpacklo_epi16(load(one), load(other)), factors);
    };
    const __m128i early = _mm_add_epi32(pair(first, others[0], _mm_shuffle_epi32(used, 0x00)),
                                        pair(others[1], others[2], _mm_shuffle_epi32(used, 0x55)));
    const __m128i late = _mm_add_epi32(pair(others[3], others[4], _mm_shuffle_epi32(used, 0xaa)),
                                       pair(others[5], others[6], _mm_shuffle_epi32(used, 0xff)));
    Int32Lanes sums;
    store(sums, _mm_srai_epi32(_mm_add_epi32(early, late), shift));
    return sums;
}

// Adds to each exact weight the sum over the lanes of value times miss, shifted down, modulo 2^32.
inline void learn(Weights& weights, const Int16Lanes& first, const Int16Lanes* others, const Int16Lanes& misses,
                  int shift) {
    const __m128i count = _mm_cvtsi32_si128(shift);
    const __m128i miss = _mm_unpacklo_epi64(load(misses), load(misses));
    const auto two = [&](__m128i values) {  // of each of two taps, two halves of the sum
        return _mm_castsi128_ps(_mm_madd_epi16(values, miss));
    };
    const auto behind = [&](std::size_t tap) {
        return two(_mm_loadu_si128(reinterpret_cast<const __m128i*>(others + tap - 1)));
    };
    const auto four = [&](std::size_t tap, __m128 early, __m128 late) {
        const __m128i sums = _mm_add_epi32(_mm_castps_si128(_mm_shuffle_ps(early, late, 0x88)),
                                           _mm_castps_si128(_mm_shuffle_ps(early, late, 0xdd)));
        auto* exact = reinterpret_cast<__m128i*>(weights.exact.data() + tap);
        const __m128i learned = _mm_add_epi32(_mm_load_si128(exact), _mm_sra_epi32(sums, count));
        _mm_store_si128(exact, learned);
        return _mm_srai_epi32(learned, kUsedShift);
    };
    const __m128i early = four(0, two(_mm_unpacklo_epi64(load(first), load(others[0]))), behind(2));
    const __m128i late = four(4, behind(4), behind(6));
    _mm_store_si128(reinterpret_cast<__m128i*>(weights.used.data()), _mm_packs_epi32(early, late));
}

// For each lane the sum of some values.
inline Int32Lanes sums_of_lanes(const Int16Lanes* values, std::size_t size) {
    const __m128i zero = _mm_setzero_si128(), ones = _mm_set1_epi16(1);
    __m128i sums = zero;
    for (std::size_t i = 0; i < size; ++i)
        sums = _mm_add_epi32(sums, _mm_madd_epi16(_mm_unpacklo_epi16(load(values[i]), zero), ones));
    Int32Lanes found;
    store(found, sums);
    return found;
}

// `learn_one` for each of some levels. The rate is below 2^15.
inline void learn(std::int32_t* levels, const Int16Lanes* excess, std::size_t size, int rate) {
    const __m128i ones = _mm_set1_epi16(1), rates = _mm_set1_epi32(rate);
    std::size_t i = 0;
    for (; i + 4 <= size; i += 4) {
        const auto two = [&](std::size_t at) {  // of each of two, two halves of the sum
            return _mm_castsi128_ps(
                _mm_madd_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(excess + at)), ones));
        };
        const __m128 first = two(i), second = two(i + 2);
        const __m128i sums = _mm_add_epi32(_mm_castps_si128(_mm_shuffle_ps(first, second, 0x88)),
                                           _mm_castps_si128(_mm_shuffle_ps(first, second, 0xdd)));
        const __m128i learned = _mm_srai_epi32(_mm_madd_epi16(_mm_and_si128(sums, _mm_set1_epi32(0xffff)), rates), 8);
        auto* four = reinterpret_cast<__m128i*>(levels + i);
        _mm_storeu_si128(four, _mm_add_epi32(_mm_loadu_si128(four), learned));
    }
    for (; i < size; ++i) learn_one(levels[i], excess[i], rate);
}

// Of values in units of 2^-shift of the unit; scales are the inverse expected magnitudes, a quarter more, times
// 2^(scale_shift + 8). Lanes whose mask is zero rather than -1 count for nothing.
inline Noted noted(const Int32Lanes& values, int shift, const Int32Lanes& expected, const Int32Lanes& scales,
                   int scale_shift, const Int16Lanes& mask) {
    const __m128i zero = _mm_setzero_si128(), active = load(mask);
    const __m128i units = _mm_sra_epi32(load(values), _mm_cvtsi32_si128(shift));
    __m128i known = _mm_min_epi16(_mm_packs_epi32(units, units), _mm_set1_epi16(kValueLimit));
    known = _mm_and_si128(_mm_max_epi16(known, _mm_set1_epi16(-kValueLimit)), active);
    const __m128i miss = _mm_sub_epi32(_mm_srai_epi32(_mm_unpacklo_epi16(zero, known), 8), load(expected));
    const __m128i short_miss = _mm_and_si128(_mm_max_epi16(_mm_packs_epi32(miss, miss), _mm_set1_epi16(-kMissLimit)),
                                             active);
    const __m128i magnitude = _mm_adds_epi16(_mm_max_epi16(short_miss, _mm_sub_epi16(zero, short_miss)),
                                             _mm_set1_epi16(kMissMore));
    const __m128i wide = _mm_unpacklo_epi16(magnitude, zero), scale = load(scales),
                  count = _mm_cvtsi32_si128(scale_shift);
    const __m128i even = _mm_srl_epi64(_mm_mul_epu32(wide, scale), count);
    const __m128i odd = _mm_srl_epi64(_mm_mul_epu32(_mm_srli_epi64(wide, 32), _mm_srli_epi64(scale, 32)), count);
    __m128i times = _mm_or_si128(even, _mm_slli_epi64(odd, 32));
    times = _mm_sub_epi16(_mm_packs_epi32(times, times), _mm_set1_epi16(256));
    const __m128i squares = _mm_madd_epi16(known, known);
    Noted noted;
    store(noted.known, known);
    store(noted.misses, short_miss);
    store(noted.excess, _mm_and_si128(_mm_min_epi16(times, _mm_set1_epi16(kMostExcess)), active));
    noted.energy = _mm_cvtsi128_si32(_mm_add_epi32(squares, _mm_srli_si128(squares, 4)));
    return noted;
}

#else

inline Int32Lanes int32_lanes(std::int32_t first, std::int32_t second, std::int32_t third, std::int32_t fourth) {
    return {first, second, third, fourth};
}

inline Int32Lanes turned(const Int32Lanes& numbers, const Int32Lanes& values) {
    Int32Lanes turned;
    for (std::size_t lane = 0; lane < kLanes; ++lane)
        turned[lane] = plus(numbers[lane] ^ values[lane] >> 31, values[lane] < 0);
    return turned;
}

inline Int32Lanes plus(const Int32Lanes& numbers, std::int32_t other) {
    Int32Lanes sums;
    for (std::size_t lane = 0; lane < kLanes; ++lane) sums[lane] = plus(numbers[lane], other);
    return sums;
}

inline Int32Lanes plus(const Int32Lanes& numbers, const Int32Lanes& others) {
    Int32Lanes sums;
    for (std::size_t lane = 0; lane < kLanes; ++lane) sums[lane] = plus(numbers[lane], others[lane]);
    return sums;
}

inline void follow(Int32Lanes& numbers, const Int16Lanes& excess, int times, int shift) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) numbers[lane] += excess[lane] * times - (numbers[lane] >> shift);
}

inline bool are_within(const Int32Lanes& numbers, std::int32_t limit) {
    return std::all_of(numbers.begin(), numbers.end(),
                       [&](std::int32_t number) { return -limit < number && number < limit; });
}

inline bool all_below(const Int16Lanes& values, std::int16_t limit) {
    return std::all_of(values.begin(), values.end(), [&](std::int16_t value) { return value < limit; });
}

inline std::array<std::uint32_t, kLanes> reached(const Int32Lanes& values,
                                                 const std::array<const Limits*, kLanes>& limits) {
    std::array<std::uint32_t, kLanes> counts{};
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const std::int32_t value = std::clamp<std::int32_t>(values[lane], -INT16_MAX, INT16_MAX);
        for (std::size_t i = 0; i < kLimits; ++i) counts[lane] += (*limits[lane])[i] <= (value < 0 ? -value : value);
    }
    return counts;
}

inline Int16Lanes shortened(const Int32Lanes& levels, std::int32_t other) {
    Int16Lanes values;
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
        values[lane] = static_cast<std::int16_t>(
            std::clamp<std::int32_t>(plus(levels[lane], other) >> kLevelShift, 0, kLevels - 1));
    }
    return values;
}

inline Int32Lanes weighted(const Int16Lanes& first, const Int16Lanes* others, const Weights& weights, int shift) {
    Int32Lanes sums{};
    for (std::size_t tap = 0; tap < kTaps; ++tap) {
        const Int16Lanes& values = tap == 0 ? first : others[tap - 1];
        for (std::size_t lane = 0; lane < kLanes; ++lane) sums[lane] += std::int32_t{values[lane]} * weights.used[tap];
    }
    for (std::int32_t& sum : sums) sum >>= shift;
    return sums;
}

inline void learn(Weights& weights, const Int16Lanes& first, const Int16Lanes* others, const Int16Lanes& misses,
                  int shift) {
    for (std::size_t tap = 0; tap < kTaps; ++tap) {
        const Int16Lanes& values = tap == 0 ? first : others[tap - 1];
        std::int32_t sum = 0;
        for (std::size_t lane = 0; lane < kLanes; ++lane) sum += std::int32_t{values[lane]} * misses[lane];
        std::int32_t& exact = weights.exact[tap];
        exact = static_cast<std::int32_t>(static_cast<std::uint32_t>(exact) + static_cast<std::uint32_t>(sum >> shift));
        weights.used[tap] =
            static_cast<std::int16_t>(std::clamp<std::int32_t>(exact >> kUsedShift, INT16_MIN, INT16_MAX));
    }
}

inline Int32Lanes sums_of_lanes(const Int16Lanes* values, std::size_t size) {
    Int32Lanes sums{};
    for (std::size_t i = 0; i < size; ++i) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) sums[lane] += values[i][lane];
    }
    return sums;
}

inline void learn(std::int32_t* levels, const Int16Lanes* excess, std::size_t size, int rate) {
    for (std::size_t i = 0; i < size; ++i) learn_one(levels[i], excess[i], rate);
}

inline Noted noted(const Int32Lanes& values, int shift, const Int32Lanes& expected, const Int32Lanes& scales,
                   int scale_shift, const Int16Lanes& mask) {
    Noted noted{};
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
        if (mask[lane] == 0) continue;
        const std::int32_t known = std::clamp<std::int32_t>(values[lane] >> shift, -kValueLimit, kValueLimit);
        const std::int32_t miss = std::clamp<std::int32_t>(known * 256 - expected[lane], -kMissLimit, kMissLimit);
        const auto magnitude =
            static_cast<std::uint64_t>(std::min<std::int32_t>((miss < 0 ? -miss : miss) + kMissMore, INT16_MAX));
        const std::uint64_t times = magnitude * static_cast<std::uint32_t>(scales[lane]) >> scale_shift;
        noted.known[lane] = static_cast<std::int16_t>(known);
        noted.misses[lane] = static_cast<std::int16_t>(miss);
        noted.excess[lane] =
            static_cast<std::int16_t>(std::min<std::int32_t>(static_cast<std::int32_t>(times) - 256, kMostExcess));
        noted.energy += known * known;
    }
    return noted;
}

#endif

}  // namespace metaq::adaptive
