// The inner loop of rANS decoding with the vectors of 64-bit ARM: 32 lanes, narrow tables. It is that of AVX2 in kernels.hpp,
// four lanes at a time, whose slots are looked up one by one.
#pragma once

#if defined(__aarch64__) && defined(__ORDER_LITTLE_ENDIAN__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && \
    !defined(METAQ_NO_SIMD)
#define METAQ_RANS_NEON 1

#include <cstddef>
#include <cstdint>

#include <arm_neon.h>

#include "metaq/rans/lanes.hpp"
#include "metaq/rans/taken_words.hpp"

namespace metaq::rans::neon {

inline uint32x4_t look_up(const std::uint32_t* slots, uint32x4_t at) {
    uint32x4_t found = vdupq_n_u32(0);
    found = vld1q_lane_u32(slots + vgetq_lane_u32(at, 0), found, 0);
    found = vld1q_lane_u32(slots + vgetq_lane_u32(at, 1), found, 1);
    found = vld1q_lane_u32(slots + vgetq_lane_u32(at, 2), found, 2);
    return vld1q_lane_u32(slots + vgetq_lane_u32(at, 3), found, 3);
}

inline void enter_due_units(Lanes& lanes, std::size_t step) {
    const uint32x4_t now = vdupq_n_u32(static_cast<std::uint32_t>(step));
    uint32x4_t is_due = vdupq_n_u32(0);
    for (std::size_t lane = 0; lane < kLaneLimit; lane += 4)
        is_due = vorrq_u32(is_due, vceqq_u32(vld1q_u32(&lanes.due[lane]), now));
    if (vmaxvq_u32(is_due) == 0) return;
    for (std::size_t lane = 0; lane < kLaneLimit; ++lane) {
        if (lanes.due[lane] == step) lanes.next_unit(lane, static_cast<std::uint32_t>(step));
    }
}

template <bool kHasContexts>
std::size_t decode(Lanes& lanes, const std::uint32_t* slots, std::uint8_t* entries, std::size_t steps) {
    constexpr std::size_t kParts = kLaneLimit / 4;
    const auto precision = static_cast<std::int32_t>(lanes.precision);
    const int32x4_t down = vdupq_n_s32(-precision), twice_down = vdupq_n_s32(-2 * precision);
    const int32x4_t up = vdupq_n_s32(precision);
    const uint32x4_t mask = vdupq_n_u32((1u << precision) - 1), one = vdupq_n_u32(1);
    const uint32x4_t least = vdupq_n_u32(kLeastState), context_mask = vdupq_n_u32(kContexts - 1);
    const uint32x4_t bits = {1, 2, 4, 8};
    uint32x4_t x[kParts], context[kParts], found[kParts];
    for (std::size_t i = 0; i < kParts; ++i) {
        x[i] = vld1q_u32(&lanes.state[4 * i]);
        context[i] = vld1q_u32(&lanes.context[4 * i]);
    }
    const std::uint8_t* words = lanes.words;
    std::size_t step = 0;
    for (; step < steps && lanes.end - words >= kReadAhead; ++step) {
        enter_due_units(lanes, step);
        for (std::size_t i = 0; i < kParts; ++i) {
            uint32x4_t at = vaddq_u32(vld1q_u32(&lanes.table[4 * i]), vandq_u32(x[i], mask));
            if constexpr (kHasContexts) at = vaddq_u32(at, context[i]);
            found[i] = look_up(slots, at);
        }
        for (std::size_t i = 0; i < kParts; ++i) {
            const uint32x4_t frequency = vaddq_u32(vandq_u32(vshlq_u32(found[i], down), mask), one);
            const uint32x4_t next = vmlaq_u32(vandq_u32(found[i], mask), frequency, vshlq_u32(x[i], down));
            const uint32x4_t takes = vcltq_u32(next, least);
            const std::uint32_t set = vaddvq_u32(vandq_u32(takes, bits));
            const uint8x16_t read = vcombine_u8(vld1_u8(words), vdup_n_u8(0));
            const uint8x16_t word = vqtbl1q_u8(read, vld1q_u8(kTakenWords.bytes[set].data()));
            x[i] = vorrq_u32(vbslq_u32(takes, vshlq_n_u32(next, 16), next), vreinterpretq_u32_u8(word));
            words += kTakenWords.size[set];
            if constexpr (kHasContexts)
                context[i] = vshlq_u32(vandq_u32(vshlq_u32(found[i], twice_down), context_mask), up);
        }
        for (std::size_t i = 0; i < kParts; i += 2) {
            static_assert(Narrow::kEntryShift == 24);
            const uint16x8_t high = vcombine_u16(vshrn_n_u32(found[i], 16), vshrn_n_u32(found[i + 1], 16));
            vst1_u8(entries + step * kLaneLimit + 4 * i, vshrn_n_u16(high, 8));
        }
    }
    for (std::size_t i = 0; i < kParts; ++i) {
        vst1q_u32(&lanes.state[4 * i], x[i]);
        vst1q_u32(&lanes.context[4 * i], context[i]);
    }
    lanes.words = words;
    return step;
}

}  // namespace metaq::rans::neon

#endif
