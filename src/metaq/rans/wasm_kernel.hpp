// The inner loop of rANS decoding with WebAssembly's vectors: 32 lanes, narrow tables. It is that of AVX2 in kernels.hpp, four
// lanes at a time, whose slots are looked up one by one.
#pragma once

#ifdef __wasm__

#include <cstddef>
#include <cstdint>

#include "metaq/rans/lanes.hpp"
#include "metaq/rans/taken_words.hpp"

#ifdef __wasm_simd128__
#include <wasm_simd128.h>
#endif

namespace metaq::rans {

#ifdef __wasm_simd128__

inline v128_t look_up(const std::uint32_t* slots, v128_t at) {
    v128_t found = wasm_v128_load32_zero(slots + wasm_u32x4_extract_lane(at, 0));
    found = wasm_v128_load32_lane(slots + wasm_u32x4_extract_lane(at, 1), found, 1);
    found = wasm_v128_load32_lane(slots + wasm_u32x4_extract_lane(at, 2), found, 2);
    return wasm_v128_load32_lane(slots + wasm_u32x4_extract_lane(at, 3), found, 3);
}

inline void enter_due_units(Lanes& lanes, std::size_t step) {
    const v128_t now = wasm_u32x4_splat(static_cast<std::uint32_t>(step));
    v128_t is_due = wasm_i32x4_const_splat(0);
    for (std::size_t lane = 0; lane < kLaneLimit; lane += 4)
        is_due = wasm_v128_or(is_due, wasm_i32x4_eq(wasm_v128_load(&lanes.due[lane]), now));
    if (!wasm_v128_any_true(is_due)) return;
    for (std::size_t lane = 0; lane < kLaneLimit; ++lane) {
        if (lanes.due[lane] == step) lanes.next_unit(lane, static_cast<std::uint32_t>(step));
    }
}

template <bool kHasContexts>
std::size_t decode_vectors(Lanes& lanes, const std::uint32_t* slots, std::uint8_t* entries, std::size_t steps) {
    constexpr std::size_t kParts = kLaneLimit / 4;
    const unsigned precision = lanes.precision;
    const v128_t mask = wasm_u32x4_splat((1u << precision) - 1), one = wasm_i32x4_const_splat(1),
                 least = wasm_u32x4_splat(kLeastState), context_mask = wasm_u32x4_splat(kContexts - 1);
    v128_t x[kParts], context[kParts], found[kParts];
    for (std::size_t i = 0; i < kParts; ++i) {
        x[i] = wasm_v128_load(&lanes.state[4 * i]);
        context[i] = wasm_v128_load(&lanes.context[4 * i]);
    }
    const std::uint8_t* words = lanes.words;
    std::size_t step = 0;
    for (; step < steps && lanes.end - words >= kReadAhead; ++step) {
        enter_due_units(lanes, step);
        for (std::size_t i = 0; i < kParts; ++i) {
            v128_t at = wasm_i32x4_add(wasm_v128_load(&lanes.table[4 * i]), wasm_v128_and(x[i], mask));
            if constexpr (kHasContexts) at = wasm_i32x4_add(at, context[i]);
            found[i] = look_up(slots, at);
        }
        for (std::size_t i = 0; i < kParts; ++i) {
            const v128_t frequency = wasm_i32x4_add(wasm_v128_and(wasm_u32x4_shr(found[i], precision), mask), one);
            const v128_t scaled = wasm_i32x4_mul(frequency, wasm_u32x4_shr(x[i], precision));
            const v128_t next = wasm_i32x4_add(scaled, wasm_v128_and(found[i], mask));
            const v128_t takes = wasm_u32x4_lt(next, least);
            const std::size_t set = wasm_i32x4_bitmask(takes);
            const v128_t word = wasm_i8x16_swizzle(wasm_v128_load64_zero(words),
                                                   wasm_v128_load(kTakenWords.bytes[set].data()));
            x[i] = wasm_v128_or(wasm_v128_bitselect(wasm_i32x4_shl(next, 16), next, takes), word);
            words += kTakenWords.size[set];
            if constexpr (kHasContexts) {
                const v128_t follows = wasm_v128_and(wasm_u32x4_shr(found[i], 2 * precision), context_mask);
                context[i] = wasm_i32x4_shl(follows, precision);
            }
            found[i] = wasm_u32x4_shr(found[i], Narrow::kEntryShift);
        }
        for (std::size_t i = 0; i < kParts; i += 4) {
            const v128_t low = wasm_u16x8_narrow_i32x4(found[i], found[i + 1]);
            const v128_t high = wasm_u16x8_narrow_i32x4(found[i + 2], found[i + 3]);
            wasm_v128_store(entries + step * kLaneLimit + 4 * i, wasm_u8x16_narrow_i16x8(low, high));
        }
    }
    for (std::size_t i = 0; i < kParts; ++i) {
        wasm_v128_store(&lanes.state[4 * i], x[i]);
        wasm_v128_store(&lanes.context[4 * i], context[i]);
    }
    lanes.words = words;
    return step;
}

#endif

// Steps of all 32 lanes, as many as vectors decode, which is none where there are none.
inline std::size_t decode_wasm([[maybe_unused]] Lanes& lanes, [[maybe_unused]] const std::uint32_t* slots,
                               [[maybe_unused]] std::uint8_t* entries, [[maybe_unused]] std::size_t steps) {
#ifdef __wasm_simd128__
    return lanes.context_mask != 0 ? decode_vectors<true>(lanes, slots, entries, steps)
                                   : decode_vectors<false>(lanes, slots, entries, steps);
#else
    return 0;
#endif
}

}  // namespace metaq::rans

#endif
