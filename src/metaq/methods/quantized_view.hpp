// Training kernels: quantized values in place of the weights that an optimizer trains, and those again with their gradients.
//
// Both make one pass over a piece of a parameter, for which they wait on memory: write_quantized reads 4 bytes a weight and
// writes 8, restore_latent reads 8 and writes 8. Pieces may be worked on at once, on any threads. A symbol is the nearest
// multiple of the step, ties to even; results do not depend on the processor.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#if (defined(__x86_64__) || defined(__i386__)) && !defined(METAQ_NO_SIMD)
#define METAQ_QUANTIZED_VIEW_X86
#include <immintrin.h>
#endif

namespace metaq::quantized_view {

inline constexpr int kMostReach = 1 << 22;      // symbols beyond are no float32 integers
inline constexpr int kMostRadius = 1 << 12;     // of a table of counts or slopes
inline constexpr std::size_t kBlock = 1 << 12;  // weights that are counted while they are in the nearest cache

struct Piece {
    float* weights;   // the network's, quantized or latent ones
    float* latent;    // what the optimizer trains, while the weights are quantized
    float* gradient;  // of the loss with respect to the quantized weights
    std::size_t size;
    float step;
};

// w / step, clipped to the limit; NaN becomes the limit, so that its symbol is an index like any other.
inline float clipped(float scaled, float limit) {
    const float from_above = scaled <= limit ? scaled : limit;
    return from_above >= -limit ? from_above : -limit;
}

// Adding and taking away 1.5 * 2^23 rounds to nearest even, without a call, and never gives a negative zero.
inline constexpr float kNearestShift = 12582912.0f;
inline float nearest(float clipped) { return (clipped + kNearestShift) - kNearestShift; }

// Adds how often each symbol occurs; those beyond the radius count as the last.
inline void count(const float* latent, std::size_t size, float step, int radius, std::span<std::int64_t> counts) {
    const float limit = static_cast<float>(radius);
    std::array<std::int32_t, kBlock> places;
    for (std::size_t i = 0; i < size; ++i) {
        places[i] = static_cast<std::int32_t>(nearest(clipped(latent[i] / step, limit))) + radius;
    }
    for (std::size_t i = 0; i < size; ++i) ++counts[static_cast<std::size_t>(places[i])];
}

namespace detail {

inline void write_quantized(const Piece& piece, int reach, int radius, std::span<std::int64_t> counts) {
    const float limit = static_cast<float>(reach);
    for (std::size_t begin = 0; begin < piece.size; begin += kBlock) {
        const std::size_t size = std::min(kBlock, piece.size - begin);
        float* const weights = piece.weights + begin;
        float* const latent = piece.latent + begin;
        for (std::size_t i = 0; i < size; ++i) {
            const float weight = weights[i];
            latent[i] = weight;
            weights[i] = nearest(clipped(weight / piece.step, limit)) * piece.step;
        }
        if (!counts.empty()) count(latent, size, piece.step, radius, counts);
    }
}

// From the weight at `first` on.
inline void restore_latent(const Piece& piece, std::size_t first, int radius, const float* slopes, float strength) {
    const float limit = static_cast<float>(radius);
    for (std::size_t i = first; i < piece.size; ++i) {
        const float weight = piece.latent[i];
        const float scaled = weight / piece.step;
        const float symbol = nearest(clipped(scaled, limit));
        const int is_above = scaled > symbol;
        const float slope = slopes[2 * (static_cast<int>(symbol) + radius) + is_above];
        // Outside the levels the regulariser is flat. A product, since no processor predicts a branch on that.
        const bool is_inside = (scaled >= -limit) & (scaled <= limit);
        piece.gradient[i] += strength * (slope * static_cast<float>(is_inside));
        piece.weights[i] = weight;
    }
}

#ifdef METAQ_QUANTIZED_VIEW_X86
// Without FMA, which would round once where the portable form rounds twice.
[[gnu::target("avx2"), gnu::flatten]] inline void write_quantized_avx2(const Piece& piece, int reach, int radius,
                                                                       std::span<std::int64_t> counts) {
    write_quantized(piece, reach, radius, counts);
}

// Eight weights at a time, of which slopes are gathered; step by step what the portable form does.
[[gnu::target("avx2")]] inline void restore_latent_avx2(const Piece& piece, int radius, const float* slopes,
                                                        float strength) {
    const __m256 step = _mm256_set1_ps(piece.step);
    const __m256 factor = _mm256_set1_ps(strength);
    const __m256 most = _mm256_set1_ps(static_cast<float>(radius));
    const __m256 least = _mm256_set1_ps(static_cast<float>(-radius));
    const __m256 shift = _mm256_set1_ps(kNearestShift);
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256i offset = _mm256_set1_epi32(radius);
    std::size_t i = 0;
    for (; i + 8 <= piece.size; i += 8) {
        const __m256 weight = _mm256_loadu_ps(piece.latent + i);
        const __m256 scaled = _mm256_div_ps(weight, step);
        // The minimum with NaN is its second operand.
        const __m256 inner = _mm256_max_ps(_mm256_min_ps(scaled, most), least);
        const __m256 symbol = _mm256_sub_ps(_mm256_add_ps(inner, shift), shift);
        const __m256i is_above = _mm256_castps_si256(_mm256_cmp_ps(scaled, symbol, _CMP_GT_OQ));  // -1 where it is
        const __m256i level = _mm256_add_epi32(_mm256_cvttps_epi32(symbol), offset);
        const __m256i at = _mm256_sub_epi32(_mm256_add_epi32(level, level), is_above);
        const __m256 slope = _mm256_i32gather_ps(slopes, at, 4);
        const __m256 is_inside = _mm256_and_ps(_mm256_cmp_ps(scaled, least, _CMP_GE_OQ),
                                               _mm256_cmp_ps(scaled, most, _CMP_LE_OQ));
        const __m256 added = _mm256_mul_ps(factor, _mm256_mul_ps(slope, _mm256_and_ps(is_inside, one)));
        _mm256_storeu_ps(piece.gradient + i, _mm256_add_ps(_mm256_loadu_ps(piece.gradient + i), added));
        _mm256_storeu_ps(piece.weights + i, weight);
    }
    restore_latent(piece, i, radius, slopes, strength);
}
#endif

}  // namespace detail

// latent <- weights, weights <- their quantized values, clipped to `reach` steps. `counts` (2 * radius + 1 of them, or none)
// get every symbol added, those beyond the radius to the last.
inline void write_quantized(const Piece& piece, int reach, int radius, std::span<std::int64_t> counts) {
#ifdef METAQ_QUANTIZED_VIEW_X86
    if (__builtin_cpu_supports("avx2")) return detail::write_quantized_avx2(piece, reach, radius, counts);
#endif
    detail::write_quantized(piece, reach, radius, counts);
}

// weights <- latent, gradient += strength * slope. Slopes: for every level up to the radius, that below it and that above it.
inline void restore_latent(const Piece& piece, int radius, const float* slopes, float strength) {
#ifdef METAQ_QUANTIZED_VIEW_X86
    if (__builtin_cpu_supports("avx2")) return detail::restore_latent_avx2(piece, radius, slopes, strength);
#endif
    detail::restore_latent(piece, 0, radius, slopes, strength);
}

}  // namespace metaq::quantized_view
