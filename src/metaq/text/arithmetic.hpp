// The arithmetic of one decision of the text model: it makes a logit of eight counters, and teaches them and the mixer the bit.
// There is a portable one and one for AVX2, chosen when the program runs, unless METAQ_NO_SIMD is defined. Both give the same.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "metaq/base/logistic.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(METAQ_NO_SIMD)
#define METAQ_TEXT_X86 1
#include <immintrin.h>
#endif

namespace metaq::text {

inline constexpr std::size_t kCounters = 8;
inline constexpr std::size_t kInputs = 2 * kCounters;  // two rates of each
inline constexpr logistic::CounterRates kRates{250, 2};
inline constexpr int kMixerRate = 30000;

using Counters = std::array<logistic::Counter*, kCounters>;  // only the first and the last may be the same
using Mixer = logistic::Mixer<kInputs>;

class Portable {
public:
    int mix(const Mixer& mixer, const Counters& used) {
        std::array<std::uint32_t, kCounters> pairs;  // of inputs: compilers make vectors of these without stalls
        for (std::size_t i = 0; i < kCounters; ++i) {
            pairs[i] = static_cast<std::uint16_t>(logistic::kStretch[used[i]->slow >> 20]) |
                       static_cast<std::uint32_t>(logistic::kStretch[used[i]->fast >> 20]) << 16;
        }
        input_ = std::bit_cast<std::array<std::int16_t, kInputs>>(pairs);
        return mixer.logit(input_);
    }

    // After `mix` of the same.
    void learn(Mixer& mixer, const Counters& used, int logit, bool bit) const {
        for (logistic::Counter* counter : used) logistic::update(*counter, bit, kRates);
        mixer.update(input_, logit, bit, kMixerRate);
    }

private:
    std::array<std::int16_t, kInputs> input_;
};

#ifdef METAQ_TEXT_X86

static_assert(sizeof(logistic::Counter) == 8);

// Quotients of floats, truncated, equal logistic::kReciprocals: none is so near to an integer that rounding, in whatever
// direction, could reach it.
consteval bool floats_give_reciprocals() {
    for (std::uint32_t n = 0; n < logistic::kReciprocals.size(); ++n) {
        const float quotient = 131072.0f / static_cast<float>(2 * n + 3), most = quotient + quotient / (1 << 22);
        if (static_cast<std::uint32_t>(quotient) != logistic::reciprocal(n)) return false;
        if (static_cast<std::uint32_t>(most) != logistic::reciprocal(n)) return false;
    }
    return true;
}
static_assert(floats_give_reciprocals());

// A counter's two inputs side by side, the slow one first, and the weights of all slow ones before those of all fast ones.
class Avx2 {
public:
    [[gnu::target("avx2")]] int mix(const Mixer& mixer, const Counters& used) {
        for (std::size_t i = 0; i < 2; ++i) {
            weight_[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mixer.weight.data()) + i);
            state_[i] = _mm256_setr_epi64x(bits(used[4 * i]), bits(used[4 * i + 1]), bits(used[4 * i + 2]),
                                           bits(used[4 * i + 3]));
        }
        input_ = _mm256_setr_m128i(inputs(used, 0), inputs(used, 4));
        const __m256i weights = _mm256_blend_epi16(_mm256_srli_epi32(weight_[0], 8), _mm256_slli_epi32(weight_[1], 8),
                                                   0b10101010);
        const __m256i sums = _mm256_madd_epi16(input_, weights);
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0b01001110));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0b10110001));
        const __m128i limit = _mm_set1_epi32(logistic::kLogitLimit);
        return _mm_cvtsi128_si32(
            _mm_max_epi32(_mm_min_epi32(_mm_srai_epi32(sum, 12), limit), _mm_sub_epi32(_mm_setzero_si128(), limit)));
    }

    // After `mix` of the same.
    [[gnu::target("avx2")]] void learn(Mixer& mixer, const Counters& used, int logit, bool bit) const {
        const __m256i slow_half = _mm256_set1_epi32(65535);
        const __m256i factor = _mm256_set1_epi16(Mixer::factor(logit, bit, kMixerRate));
        learn_weights(mixer, 0, _mm256_madd_epi16(_mm256_and_si256(slow_half, input_), factor));
        learn_weights(mixer, 1, _mm256_madd_epi16(_mm256_andnot_si256(slow_half, input_), factor));
        // A probability goes towards one as its complement goes towards zero, but is rounded the other way.
        const __m256i set = _mm256_set1_epi32(-static_cast<int>(bit));
        const __m256i flip = _mm256_srli_epi32(set, 10);
        const __m256i rounding = _mm256_andnot_si256(set, _mm256_set1_epi32(65535));
        for (std::size_t i = 0; i < 2; ++i) {
            const __m256i count = _mm256_and_si256(state_[i], _mm256_set1_epi64x(logistic::kCountMask));
            const __m256i rate = rates(count);
            const __m256i away = _mm256_xor_si256(_mm256_srli_epi32(state_[i], 10), flip);
            const __m256i high = _mm256_mullo_epi32(_mm256_srli_epi32(away, 16), rate);
            const __m256i low = _mm256_mullo_epi32(_mm256_and_si256(away, _mm256_set1_epi32(65535)), rate);
            const __m256i moved = _mm256_add_epi32(high, _mm256_srli_epi32(_mm256_add_epi32(low, rounding), 16));
            const __m256i next = _mm256_slli_epi32(_mm256_xor_si256(_mm256_sub_epi32(away, moved), flip), 10);
            const __m256i counts = _mm256_min_epi32(_mm256_add_epi64(count, _mm256_set1_epi64x(1)),
                                                    _mm256_set1_epi64x(kRates.slow_limit));
            alignas(32) std::array<logistic::Counter, 4> learned;
            _mm256_store_si256(reinterpret_cast<__m256i*>(learned.data()), _mm256_or_si256(next, counts));
            for (std::size_t k = 0; k < 4; ++k) *used[4 * i + k] = learned[k];
        }
        if (used.front() == used.back()) logistic::update(*used.back(), bit, kRates);
    }

private:
    static long long bits(const logistic::Counter* counter) { return std::bit_cast<long long>(*counter); }

    // The values are looked up one by one, since a gather takes longer on some processors.
    [[gnu::target("avx2")]] static __m128i inputs(const Counters& used, std::size_t first) {
        const auto slow = [&](std::size_t i) { return logistic::kStretch[used[first + i]->slow >> 20]; };
        const auto fast = [&](std::size_t i) { return logistic::kStretch[used[first + i]->fast >> 20]; };
        return _mm_setr_epi16(slow(0), fast(0), slow(1), fast(1), slow(2), fast(2), slow(3), fast(3));
    }

    [[gnu::target("avx2")]] void learn_weights(Mixer& mixer, std::size_t i, __m256i products) const {
        const __m256i limit = _mm256_set1_epi32(logistic::kWeightLimit);
        const __m256i step = _mm256_srai_epi32(_mm256_add_epi32(products, _mm256_set1_epi32(256)), 9);
        const __m256i weight = _mm256_min_epi32(_mm256_add_epi32(weight_[i], step), limit);
        const __m256i learned = _mm256_max_epi32(weight, _mm256_sub_epi32(_mm256_setzero_si256(), limit));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(mixer.weight.data()) + i, learned);
    }

    // logistic::kReciprocals of both halves of counters by their `count`, in the slow halves.
    [[gnu::target("avx2")]] static __m256i rates(__m256i count) {
        const __m256i most =
            _mm256_set1_epi64x(std::int64_t{kRates.fast_limit} << 32 | std::int64_t{logistic::kCountMask});
        const __m256i counts = _mm256_min_epi32(_mm256_shuffle_epi32(count, 0b10100000), most);
        const __m256i divisor = _mm256_add_epi32(_mm256_add_epi32(counts, counts), _mm256_set1_epi32(3));
        return _mm256_cvttps_epi32(_mm256_div_ps(_mm256_set1_ps(131072), _mm256_cvtepi32_ps(divisor)));
    }

    __m256i state_[2];  // slow and fast halves by turns, of four counters each
    __m256i input_;
    __m256i weight_[2];
};

#endif

}  // namespace metaq::text
