// The inner loops of rANS decoding: a portable one for any number of lanes, and for 32 lanes and narrow tables AVX2 and
// AVX-512, chosen when the program runs, or the vectors of ARM or WebAssembly, unless METAQ_NO_SIMD is defined. All give the
// same symbols from the same words.
//
// A step decodes one symbol in each lane: x is a lane's state, p the precision, t its table (of its unit's class and
// its context): slot = x mod 2^p; x = frequency(t, slot) * floor(x / 2^p) + offset(t, slot); below 2^16, x takes in the
// next 16-bit word, x = 2^16 x + word, in the order of the lanes.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "metaq/base/replaceable.hpp"
#include "metaq/rans/lanes.hpp"
#include "metaq/rans/neon_kernel.hpp"
#include "metaq/rans/tables.hpp"
#include "metaq/rans/wasm_kernel.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(METAQ_NO_SIMD)
#define METAQ_RANS_X86 1
#include <immintrin.h>
#endif

namespace metaq::rans {

// Steps of a tile in all 32 lanes, from 0 while the words for the next one surely lie within the data; returns how many.
template <class Layout>
std::size_t decode_all_lanes(Lanes& lanes, const typename Layout::Slot* slots, typename Layout::Entry* entries,
                             std::size_t steps) {
    const unsigned precision = lanes.precision;
    const unsigned field = Layout::field(precision);
    const std::uint32_t mask = (1u << precision) - 1;
    const std::uint32_t field_mask = (1u << field) - 1;
    const std::uint32_t context_mask = lanes.context_mask;
    std::array<std::uint32_t, kLaneLimit> state = lanes.state, context = lanes.context, table = lanes.table;
    const std::uint8_t* words = lanes.words;
    std::size_t step = 0;
    while (step < steps && lanes.end - words >= kReadAhead) {
        std::size_t due = steps;  // the next step with which a unit begins
        for (std::size_t lane = 0; lane < kLaneLimit; ++lane) {
            if (lanes.due[lane] == step) lanes.next_unit(lane, static_cast<std::uint32_t>(step));
            due = std::min<std::size_t>(due, lanes.due[lane]);
        }
        table = lanes.table;
        for (; step < due && lanes.end - words >= kReadAhead; ++step) {
            for (std::size_t lane = 0; lane < kLaneLimit; ++lane) {
                std::uint32_t x = state[lane];
                const auto slot = slots[table[lane] + context[lane] + (x & mask)];
                const auto frequency = (static_cast<std::uint32_t>(slot >> field) & field_mask) + 1;
                x = frequency * (x >> precision) + (static_cast<std::uint32_t>(slot) & field_mask);
                // Without a branch, which would be mispredicted often.
                const std::uint32_t takes = 0u - static_cast<std::uint32_t>(x < kLeastState);
                const std::uint32_t word = words[0] | std::uint32_t{words[1]} << 8;
                state[lane] = x << (16 & takes) | (word & takes);
                words += 2 & takes;
                context[lane] = (static_cast<std::uint32_t>(slot >> field >> field) & context_mask) << precision;
                entries[step * kLaneLimit + lane] = static_cast<typename Layout::Entry>(slot >> Layout::kEntryShift);
            }
        }
    }
    lanes.state = state;
    lanes.context = context;
    lanes.words = words;
    return step;
}

// Steps `first` to `steps` of the tile in the first `active` lanes, of which few wait for each symbol, so that branches cost
// less than what avoids them; the entries step by step.
template <class Layout>
void decode_portable(Lanes& lanes, const typename Layout::Slot* slots, typename Layout::Entry* entries,
                     std::size_t active, std::size_t first, std::size_t steps) {
    const unsigned precision = lanes.precision;
    const unsigned field = Layout::field(precision);
    const std::uint32_t mask = (1u << precision) - 1;
    const std::uint32_t field_mask = (1u << field) - 1;
    for (std::size_t step = first; step < steps; ++step) {
        for (std::size_t lane = 0; lane < active; ++lane) {
            if (lanes.due[lane] == step) lanes.next_unit(lane, static_cast<std::uint32_t>(step));
            std::uint32_t x = lanes.state[lane];
            const auto slot = slots[lanes.table[lane] + lanes.context[lane] + (x & mask)];
            const auto frequency = (static_cast<std::uint32_t>(slot >> field) & field_mask) + 1;
            x = frequency * (x >> precision) + (static_cast<std::uint32_t>(slot) & field_mask);
            if (x < kLeastState) {
                std::uint32_t word = 0;
                if (lanes.end - lanes.words >= 2) {
                    word = lanes.words[0] | std::uint32_t{lanes.words[1]} << 8;
                    lanes.words += 2;
                } else {
                    lanes.is_truncated = true;
                }
                x = x << 16 | word;
            }
            lanes.state[lane] = x;
            const auto context = static_cast<std::uint32_t>(slot >> field >> field) & lanes.context_mask;
            lanes.context[lane] = context << precision;
            entries[step * active + lane] = static_cast<typename Layout::Entry>(slot >> Layout::kEntryShift);
        }
    }
}

enum class Path { best, portable, avx2, avx512, neon };

#ifdef METAQ_RANS_X86

// For each set of lanes that take in a word, which word each takes.
inline constexpr auto kWordOfLane = [] {
    std::array<std::uint64_t, 256> result{};
    for (unsigned set = 0; set < 256; ++set) {
        std::uint64_t word = 0;
        for (unsigned lane = 0; lane < 8; ++lane) {
            if ((set >> lane & 1) == 0) continue;
            result[set] |= word++ << (8 * lane);
        }
    }
    return result;
}();

// Entries step by step to entries lane by lane: 16 of each at a time, by four perfect shuffles of what 16 steps hold.
inline void turn(const std::uint8_t* entries, std::size_t lanes, std::size_t steps, std::uint8_t* turned) {
    constexpr std::size_t kSide = 16;
    __m128i rows[kSide];
    __m128i shuffled[kSide];
    for (std::size_t lane = 0; lane < lanes; lane += kSide) {
        for (std::size_t step = 0; step < steps; step += kSide) {
            for (std::size_t i = 0; i < kSide; ++i) {
                rows[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries + (step + i) * lanes + lane));
            }
            for (int round = 0; round < 4; ++round) {
                for (std::size_t i = 0; i < kSide / 2; ++i) {
                    shuffled[2 * i] = _mm_unpacklo_epi8(rows[i], rows[i + kSide / 2]);
                    shuffled[2 * i + 1] = _mm_unpackhi_epi8(rows[i], rows[i + kSide / 2]);
                }
                std::copy(std::begin(shuffled), std::end(shuffled), std::begin(rows));
            }
            for (std::size_t i = 0; i < kSide; ++i) {
                _mm_storeu_si128(reinterpret_cast<__m128i*>(turned + (lane + i) * steps + step), rows[i]);
            }
        }
    }
}

template <bool kHasContexts>
[[gnu::target("avx2,popcnt")]] inline std::size_t decode_avx2(Lanes& lanes, const std::uint32_t* slots,
                                                              std::uint8_t* entries, std::size_t steps) {
    constexpr int kParts = 4;
    const auto precision = static_cast<int>(lanes.precision);
    const __m128i shift = _mm_cvtsi32_si128(precision);
    const __m128i twice = _mm_cvtsi32_si128(2 * precision);
    const __m256i mask = _mm256_set1_epi32((1 << precision) - 1);
    const __m256i context_mask = _mm256_set1_epi32(kContexts - 1);
    const __m256i one = _mm256_set1_epi32(1);
    const __m256i zero = _mm256_setzero_si256();
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i x[kParts];
    __m256i context[kParts];
    __m256i found[kParts];
    const std::uint8_t* words = lanes.words;
    for (int i = 0; i < kParts; ++i) {
        x[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes.state.data()) + i);
        context[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes.context.data()) + i);
    }
    std::size_t step = 0;
    for (; step < steps && lanes.end - words >= kReadAhead; ++step) {
        const __m256i now = _mm256_set1_epi32(static_cast<int>(step));
        std::uint32_t due = 0;
        for (int i = 0; i < kParts; ++i) {
            const __m256i at = _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes.due.data()) + i);
            const __m256i hits = _mm256_cmpeq_epi32(at, now);
            due |= static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(hits))) << (8 * i);
        }
        for (; due != 0; due &= due - 1) {
            lanes.next_unit(static_cast<std::size_t>(std::countr_zero(due)), static_cast<std::uint32_t>(step));
        }
        for (int i = 0; i < kParts; ++i) {
            __m256i at = _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes.table.data()) + i);
            if constexpr (kHasContexts) at = _mm256_add_epi32(at, context[i]);
            at = _mm256_add_epi32(at, _mm256_and_si256(x[i], mask));
            found[i] = _mm256_i32gather_epi32(reinterpret_cast<const int*>(slots), at, 4);
        }
        for (int i = 0; i < kParts; ++i) {
            const __m256i frequency = _mm256_add_epi32(_mm256_and_si256(_mm256_srl_epi32(found[i], shift), mask), one);
            const __m256i scaled = _mm256_mullo_epi32(frequency, _mm256_srl_epi32(x[i], shift));
            const __m256i next = _mm256_add_epi32(scaled, _mm256_and_si256(found[i], mask));
            const __m256i takes = _mm256_cmpeq_epi32(_mm256_srli_epi32(next, 16), zero);
            const auto set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(takes)));
            const __m128i read = _mm_loadu_si128(reinterpret_cast<const __m128i*>(words));
            const __m128i places = _mm_cvtsi64_si128(static_cast<long long>(kWordOfLane[set]));
            const __m256i word = _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(read), _mm256_cvtepu8_epi32(places));
            const __m256i longer = _mm256_or_si256(_mm256_slli_epi32(next, 16), word);
            x[i] = _mm256_blendv_epi8(next, longer, takes);
            words += 2 * std::popcount(set);
            if constexpr (kHasContexts) {
                context[i] = _mm256_sll_epi32(_mm256_and_si256(_mm256_srl_epi32(found[i], twice), context_mask), shift);
            }
            found[i] = _mm256_srli_epi32(found[i], Narrow::kEntryShift);
        }
        const __m256i low = _mm256_packus_epi32(found[0], found[1]);
        const __m256i high = _mm256_packus_epi32(found[2], found[3]);
        const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), in_order);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(entries + step * kLaneLimit), packed);
    }
    for (int i = 0; i < kParts; ++i) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes.state.data()) + i, x[i]);
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes.context.data()) + i, context[i]);
    }
    lanes.words = words;
    return step;
}

#ifndef __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC 12's own header (GCC bug 105593)
#endif
template <bool kHasContexts>
[[gnu::target("avx512f,avx512bw,avx512vl,popcnt")]] inline std::size_t decode_avx512(Lanes& lanes,
                                                                                     const std::uint32_t* slots,
                                                                                     std::uint8_t* entries,
                                                                                     std::size_t steps) {
    constexpr int kParts = 2;
    const auto precision = static_cast<int>(lanes.precision);
    const __m128i shift = _mm_cvtsi32_si128(precision);
    const __m128i twice = _mm_cvtsi32_si128(2 * precision);
    const __m512i mask = _mm512_set1_epi32((1 << precision) - 1);
    const __m512i context_mask = _mm512_set1_epi32(kContexts - 1);
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i least = _mm512_set1_epi32(static_cast<int>(kLeastState));
    __m512i x[kParts];
    __m512i context[kParts];
    __m512i found[kParts];
    const std::uint8_t* words = lanes.words;
    for (int i = 0; i < kParts; ++i) {
        x[i] = _mm512_load_si512(lanes.state.data() + 16 * i);
        context[i] = _mm512_load_si512(lanes.context.data() + 16 * i);
    }
    std::size_t step = 0;
    for (; step < steps && lanes.end - words >= kReadAhead; ++step) {
        const __m512i now = _mm512_set1_epi32(static_cast<int>(step));
        std::uint32_t due = 0;
        for (int i = 0; i < kParts; ++i) {
            const __mmask16 hits = _mm512_cmpeq_epi32_mask(_mm512_load_si512(lanes.due.data() + 16 * i), now);
            due |= std::uint32_t{hits} << (16 * i);
        }
        for (; due != 0; due &= due - 1) {
            lanes.next_unit(static_cast<std::size_t>(std::countr_zero(due)), static_cast<std::uint32_t>(step));
        }
        for (int i = 0; i < kParts; ++i) {
            __m512i at = _mm512_load_si512(lanes.table.data() + 16 * i);
            if constexpr (kHasContexts) at = _mm512_add_epi32(at, context[i]);
            at = _mm512_add_epi32(at, _mm512_and_si512(x[i], mask));
            found[i] = _mm512_mask_i32gather_epi32(at, 0xffff, at, slots, 4);
        }
        for (int i = 0; i < kParts; ++i) {
            const __m512i frequency = _mm512_add_epi32(_mm512_and_si512(_mm512_srl_epi32(found[i], shift), mask), one);
            const __m512i scaled = _mm512_mullo_epi32(frequency, _mm512_srl_epi32(x[i], shift));
            const __m512i next = _mm512_add_epi32(scaled, _mm512_and_si512(found[i], mask));
            const __mmask16 takes = _mm512_cmplt_epu32_mask(next, least);
            const __m256i read = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
            const __m512i word = _mm512_maskz_expand_epi32(takes, _mm512_cvtepu16_epi32(read));
            x[i] = _mm512_mask_or_epi32(next, takes, _mm512_slli_epi32(next, 16), word);
            words += 2 * std::popcount(static_cast<unsigned>(takes));
            if constexpr (kHasContexts) {
                context[i] = _mm512_sll_epi32(_mm512_and_si512(_mm512_srl_epi32(found[i], twice), context_mask), shift);
            }
            const __m128i packed = _mm512_cvtepi32_epi8(_mm512_srli_epi32(found[i], Narrow::kEntryShift));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(entries + step * kLaneLimit + 16 * i), packed);
        }
    }
    for (int i = 0; i < kParts; ++i) {
        _mm512_store_si512(lanes.state.data() + 16 * i, x[i]);
        _mm512_store_si512(lanes.context.data() + 16 * i, context[i]);
    }
    lanes.words = words;
    return step;
}

#ifndef __clang__
#pragma GCC diagnostic pop
#endif

#endif  // METAQ_RANS_X86

// Whether this machine has what a path needs.
inline bool is_available(Path path) {
#ifdef METAQ_RANS_X86
    if (path == Path::avx2) return __builtin_cpu_supports("avx2");
    if (path == Path::avx512) return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
#ifdef METAQ_RANS_NEON
    if (path == Path::neon) return true;
#endif
    return path == Path::best || path == Path::portable;
}

inline Path resolved(Path path) {
    if (path != Path::best) return is_available(path) ? path : Path::portable;
    if (is_available(Path::neon)) return Path::neon;
    return is_available(Path::avx512) ? Path::avx512 : is_available(Path::avx2) ? Path::avx2 : Path::portable;
}

// A tile's steps in the first `active` lanes, on the fastest of the ways that `path` (a resolved one) allows.
template <class Layout>
void decode_steps(Path path, Lanes& lanes, const typename Layout::Slot* slots, typename Layout::Entry* entries,
                  std::size_t active, std::size_t steps) {
    std::size_t done = 0;
#ifdef METAQ_RANS_X86
    if constexpr (sizeof(typename Layout::Entry) == 1) {
        const bool is_order_1 = lanes.context_mask != 0;
        if (active == kLaneLimit && path == Path::avx512) {
            done = is_order_1 ? decode_avx512<true>(lanes, slots, entries, steps)
                              : decode_avx512<false>(lanes, slots, entries, steps);
        } else if (active == kLaneLimit && path == Path::avx2) {
            done = is_order_1 ? decode_avx2<true>(lanes, slots, entries, steps)
                              : decode_avx2<false>(lanes, slots, entries, steps);
        }
    }
#elif defined(METAQ_RANS_NEON)
    if constexpr (sizeof(typename Layout::Entry) == 1) {
        if (active == kLaneLimit && path == Path::neon) {
            done = lanes.context_mask != 0 ? neon::decode<true>(lanes, slots, entries, steps)
                                           : neon::decode<false>(lanes, slots, entries, steps);
        }
    }
#elif defined(__wasm__)
    if constexpr (sizeof(typename Layout::Entry) == 1) {
        if (active == kLaneLimit) done = replaceable<&decode_wasm>(lanes, slots, entries, steps);
    }
#endif
    (void)path;
#ifndef __wasm__  // where size counts
    if (active == kLaneLimit && done == 0) done = decode_all_lanes<Layout>(lanes, slots, entries, steps);
#endif
    decode_portable<Layout>(lanes, slots, entries, active, done, steps);
}

}  // namespace metaq::rans
