// The arithmetic of a decision of the text model: eight counters to a logit, and what they and the mixer learn of the bit.
// A portable one, and one for AVX2, chosen when the program runs, unless METAQ_NO_SIMD is defined. Both give the same.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "metaq/logistic.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(METAQ_NO_SIMD)
#define METAQ_TEXT_X86 1
#include <immintrin.h>
#endif

namespace metaq::text {

inline constexpr std::size_t kCounters = 8;
inline constexpr std::size_t kInputs = 2 * kCounters;  // two rates of each
inline constexpr logistic::CounterRates kRates{250, 10};
inline constexpr int kMixerRate = 13000;

using Counters = std::array<logistic::Counter*, kCounters>;  // only the first and the last may be one
using Mixer = logistic::Mixer<kInputs>;

struct Portable {
    std::array<std::int16_t, kInputs> input;

    int mix(const Counters& used, const Mixer& mixer) {
        std::array<std::uint32_t, kCounters> pairs;  // of inputs: compilers make vectors of these without stalls
        for (std::size_t i = 0; i < kCounters; ++i) {
            pairs[i] = static_cast<std::uint16_t>(logistic::kStretch[used[i]->slow >> 20]) |
                       static_cast<std::uint32_t>(logistic::kStretch[used[i]->fast >> 20]) << 16;
        }
        input = std::bit_cast<std::array<std::int16_t, kInputs>>(pairs);
        return mixer.logit(input);
    }

    void learn(const Counters& used, Mixer& mixer, int logit, bool bit) const {
        for (auto* counter : used) logistic::update(*counter, bit, kRates);
        mixer.update(input, logit, bit, kMixerRate);
    }
};

#ifdef METAQ_TEXT_X86

static_assert(sizeof(logistic::Counter) == 8);

// logistic::kStretch in words, and the rates of both halves of a counter by its count.
constexpr std::array<std::int32_t, 4096> make_wide_stretch() {
    std::array<std::int32_t, 4096> table{};
    for (std::size_t i = 0; i < table.size(); ++i) table[i] = logistic::kStretch[i];
    return table;
}
constexpr std::array<logistic::Counter, 1024> make_rates() {
    std::array<logistic::Counter, 1024> table{};
    for (std::uint32_t n = 0; n < 1024; ++n) {
        table[n] = {logistic::kReciprocals[n], logistic::kReciprocals[std::min(n, kRates.fast_limit)]};
    }
    return table;
}
inline constexpr auto kWideStretch = make_wide_stretch();
inline constexpr auto kRatesByCount = make_rates();

// Vectors hold slow and fast halves by turns, of four counters each.
struct Avx2 {
    __m256i state[2];
    __m256i input[2];

    [[gnu::target("avx2")]] int mix(const Counters& used, const Mixer& mixer) {
        __m256i weight[2];
        for (std::size_t i = 0; i < 2; ++i) {
            state[i] = _mm256_setr_epi64x(bits(used[4 * i]), bits(used[4 * i + 1]), bits(used[4 * i + 2]), bits(used[4 * i + 3]));
            input[i] = _mm256_setr_epi64x(stretched(used[4 * i]), stretched(used[4 * i + 1]), stretched(used[4 * i + 2]),
                                          stretched(used[4 * i + 3]));
            weight[i] = _mm256_srai_epi32(_mm256_loadu_si256(weights(mixer) + i), 8);
        }
        const __m256i sums = _mm256_madd_epi16(_mm256_packs_epi32(input[0], input[1]), _mm256_packs_epi32(weight[0], weight[1]));
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0b01001110));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0b10110001));
        return std::clamp(_mm_cvtsi128_si32(sum) >> 12, -logistic::kLogitLimit, logistic::kLogitLimit);
    }

    [[gnu::target("avx2")]] void learn(const Counters& used, Mixer& mixer, int logit, bool bit) const {
        const __m256i limit = _mm256_set1_epi32(logistic::kWeightLimit);
        const __m256i factor = _mm256_set1_epi32(static_cast<std::uint16_t>(Mixer::factor(logit, bit, kMixerRate)));
        // A probability goes towards one as its complement goes towards zero, but is rounded the other way.
        const __m256i flip = _mm256_set1_epi32(bit ? (1 << 22) - 1 : 0);
        const __m256i rounding = _mm256_set1_epi32(bit ? 0 : 65535);
        for (std::size_t i = 0; i < 2; ++i) {
            const __m256i step = _mm256_srai_epi32(_mm256_add_epi32(_mm256_madd_epi16(input[i], factor), _mm256_set1_epi32(256)), 9);
            const __m256i weight = _mm256_add_epi32(_mm256_loadu_si256(weights(mixer) + i), step);
            const __m256i clamped = _mm256_max_epi32(_mm256_min_epi32(weight, limit), _mm256_sub_epi32(_mm256_setzero_si256(), limit));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(mixer.weight.data()) + i, clamped);

            const __m256i count = _mm256_and_si256(state[i], _mm256_set1_epi64x(logistic::kCountMask));
            const __m256i rate =
                _mm256_setr_epi64x(rates(used[4 * i]), rates(used[4 * i + 1]), rates(used[4 * i + 2]), rates(used[4 * i + 3]));
            const __m256i away = _mm256_xor_si256(_mm256_srli_epi32(state[i], 10), flip);
            const __m256i high = _mm256_mullo_epi32(_mm256_srli_epi32(away, 16), rate);
            const __m256i low = _mm256_mullo_epi32(_mm256_and_si256(away, _mm256_set1_epi32(65535)), rate);
            const __m256i moved = _mm256_add_epi32(high, _mm256_srli_epi32(_mm256_add_epi32(low, rounding), 16));
            const __m256i next = _mm256_slli_epi32(_mm256_xor_si256(_mm256_sub_epi32(away, moved), flip), 10);
            const __m256i counts = _mm256_min_epi32(_mm256_add_epi64(count, _mm256_set1_epi64x(1)), _mm256_set1_epi64x(kRates.slow_limit));
            alignas(32) std::array<logistic::Counter, 4> learned;
            _mm256_store_si256(reinterpret_cast<__m256i*>(learned.data()), _mm256_or_si256(next, counts));
            for (std::size_t k = 0; k < 4; ++k) *used[4 * i + k] = learned[k];
        }
        if (used.front() == used.back()) logistic::update(*used.back(), bit, kRates);
    }

private:
    // One by one: some processors take longer to gather.
    static long long stretched(const logistic::Counter* counter) {
        const auto slow = static_cast<std::uint32_t>(kWideStretch[counter->slow >> 20]);
        return static_cast<long long>(slow) | static_cast<long long>(kWideStretch[counter->fast >> 20]) << 32;
    }
    static long long rates(const logistic::Counter* counter) { return bits(&kRatesByCount[counter->slow & logistic::kCountMask]); }
    static long long bits(const logistic::Counter* counter) { return std::bit_cast<long long>(*counter); }
    static const __m256i* weights(const Mixer& mixer) { return reinterpret_cast<const __m256i*>(mixer.weight.data()); }
};

#endif

}  // namespace metaq::text
