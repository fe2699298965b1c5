// Pieces of logistic mixing in integers: probabilities and their logits, adaptive counters, a mixer, a final refinement.
//
// A probability p is held in 16 bits (p / 2^16), its logit ln(p / (1 - p)) in steps of 1/256. Counters learn p for one
// context each; the mixer adds their logits, weighted, and learns the weights by the gradient of the code length.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "metaq/base/table.hpp"

namespace metaq::logistic {

inline constexpr int kLogitLimit = 2880;  // 11.25: beyond it a 16-bit probability cannot follow

// ---- Tables, all derived from integers so that every machine has the same ones.

// Entry kLogitLimit + x is 2^16 / (1 + e^(-x/256)), within 1 .. 2^16 - 1.
METAQ_MAKES_TABLE std::array<std::uint16_t, 2 * kLogitLimit + 1> make_squash() {
    constexpr std::uint64_t kOne = std::uint64_t{1} << 39;
    constexpr std::uint64_t kStep = 16711808;  // e^(-1/256) in units of 2^-24
    std::array<std::uint16_t, 2 * kLogitLimit + 1> table{};
    std::uint64_t power = kOne;  // e^(-x/256)
    for (int x = 0; x <= kLogitLimit; ++x) {
        const std::uint64_t low = std::max<std::uint64_t>(1, (power << 16) / (kOne + power));
        table[kLogitLimit - x] = static_cast<std::uint16_t>(low);
        table[kLogitLimit + x] = static_cast<std::uint16_t>(65536 - low);
        power = power * kStep >> 24;
    }
    return table;
}
inline METAQ_TABLE auto kSquash = make_squash();

// Entry i is the least logit whose probability reaches (i + 1/2) / 4096.
METAQ_MAKES_TABLE std::array<std::int16_t, 4096> make_stretch() {
    std::array<std::int16_t, 4096> table{};
    int x = 0;
    for (int i = 0; i < 4096; ++i) {
        while (kSquash[x] < 16 * i + 8) ++x;
        table[i] = static_cast<std::int16_t>(x - kLogitLimit);
    }
    return table;
}
inline METAQ_TABLE auto kStretch = make_stretch();

// Entry i is log2(1 + i/256) in units of 1/256, rounded down: eight squarings give its eight bits.
METAQ_MAKES_TABLE std::array<std::uint8_t, 256> make_log2() {
    std::array<std::uint8_t, 256> table{};
    for (std::uint64_t i = 0; i < 256; ++i) {
        std::uint64_t x = (256 + i) << 22;  // in units of 2^-30
        for (int bit = 7; bit >= 0; --bit) {
            x = x * x >> 30;
            if (x >> 31) {
                table[i] = static_cast<std::uint8_t>(table[i] | 1 << bit);
                x >>= 1;
            }
        }
    }
    return table;
}
inline METAQ_TABLE auto kLog2 = make_log2();

inline std::uint32_t squash(int logit) {
    return kSquash[static_cast<std::size_t>(std::clamp(logit, -kLogitLimit, kLogitLimit) + kLogitLimit)];
}

// log2(value) in units of 1/256; value is not zero.
inline int log2_fixed(std::uint64_t value) {
    const int top = 63 - std::countl_zero(value);
    const std::uint64_t mantissa = top >= 8 ? value >> (top - 8) : value << (8 - top);
    return top * 256 + kLog2[mantissa & 255];
}

// 2^16 / (n + 1.5), by which the n-th observation moves a mean.
constexpr std::uint32_t reciprocal(std::uint32_t n) { return 131072 / (2 * n + 3); }

METAQ_MAKES_TABLE std::array<std::uint32_t, 1024> make_reciprocals() {
    std::array<std::uint32_t, 1024> table{};
    for (std::uint32_t n = 0; n < 1024; ++n) table[n] = reciprocal(n);
    return table;
}
inline METAQ_TABLE auto kReciprocals = make_reciprocals();

// ---- Counter: the probability of a set bit in one context, at two rates.

struct Counter {
    std::uint32_t slow;  // 22 bits of probability, 10 of count
    std::uint32_t fast;  // 22 bits of probability, the rest zero
};

inline constexpr std::uint32_t kCountMask = 1023;

struct CounterRates {
    std::uint32_t slow_limit;  // counts at which the rates stop falling
    std::uint32_t fast_limit;
};

inline void set_probability(Counter& counter, std::uint32_t probability, std::uint32_t count) {
    counter.slow = probability << 16 | count;
    counter.fast = probability << 16;
}

inline std::uint32_t moved(std::uint32_t state, bool bit, std::uint32_t rate) {
    const auto now = static_cast<std::int64_t>(state >> 10);
    const std::int64_t target = -std::int64_t{bit} & ((1 << 22) - 1);
    return static_cast<std::uint32_t>(now + ((target - now) * rate >> 16)) << 10;
}

inline void update(Counter& counter, bool bit, const CounterRates& rates) {
    const std::uint32_t count = counter.slow & kCountMask;
    counter.slow = moved(counter.slow, bit, kReciprocals[count]) | std::min(count + 1, rates.slow_limit);
    counter.fast = moved(counter.fast, bit, kReciprocals[std::min(count, rates.fast_limit)]);
}

// ---- Mixer: a weighted sum of logits; the weights follow the gradient of the code length.

// Weights are in units of 2^-20; 2^-8 of that takes part in the sum, so that a sum is one of 16-bit products.
inline constexpr std::int32_t kWeightOne = 1 << 20;
inline constexpr std::int32_t kWeightLimit = (1 << 23) - 1;

template <std::size_t inputs>
struct Mixer {
    std::array<std::int32_t, inputs> weight;

    void reset(std::int32_t first_weight) { weight.fill(first_weight); }

    int logit(const std::array<std::int16_t, inputs>& input) const {
        std::int32_t sum = 0;
        for (std::size_t i = 0; i < inputs; ++i)
            sum += std::int32_t{input[i]} * static_cast<std::int16_t>(weight[i] >> 8);
        return std::clamp<std::int32_t>(sum >> 12, -kLogitLimit, kLogitLimit);
    }

    // The factor by which an input moves its weight, in units of 2^-9 of a weight's unit.
    static std::int16_t factor(int logit, bool bit, int rate) {
        const int error = ((static_cast<int>(bit) << 16) - static_cast<int>(squash(logit))) >> 1;
        return static_cast<std::int16_t>(std::int64_t{error} * rate >> 16);
    }

    // Learns that `bit` followed the `logit` given for `input`; `rate` is below 2^16, and 2^16 stands for a rate of 1/64.
    void update(const std::array<std::int16_t, inputs>& input, int logit, bool bit, int rate) {
        const std::int16_t by = factor(logit, bit, rate);
        for (std::size_t i = 0; i < inputs; ++i) {
            const std::int32_t moved = weight[i] + ((std::int32_t{input[i]} * by + 256) >> 9);
            weight[i] = std::clamp(moved, -kWeightLimit, kWeightLimit);
        }
    }
};

// ---- Refinement: a final probability as a function of the mixed one, learned per context, straight between 33 knots.

struct Refinement {
    static constexpr int kKnots = 33;
    static constexpr int kKnotStep = 180;  // 2 * kLogitLimit / (kKnots - 1)
    std::array<std::uint16_t, kKnots> knot;

    static std::uint16_t fresh_knot(int i) { return static_cast<std::uint16_t>(squash(i * kKnotStep - kLogitLimit)); }

    void reset() {
        for (int i = 0; i < kKnots; ++i) knot[i] = fresh_knot(i);
    }
    std::uint32_t refined(int logit) const {
        return between_knots(logit, [&](int i) { return knot[i]; });
    }
    void update(int logit, bool bit, int shift) { move_knot(knot[nearest_knot(logit)], bit, shift); }

    // The same, for knots that are elsewhere.
    template <class KnotAt>
    static std::uint32_t between_knots(int logit, const KnotAt& knot_at) {
        const int at = std::clamp(logit, -kLogitLimit, kLogitLimit - 1) + kLogitLimit;
        const int low = at / kKnotStep, part = at % kKnotStep;
        return static_cast<std::uint32_t>((knot_at(low) * (kKnotStep - part) + knot_at(low + 1) * part) / kKnotStep);
    }
    static int nearest_knot(int logit) {
        const int at = std::clamp(logit, -kLogitLimit, kLogitLimit - 1) + kLogitLimit;
        return (at + kKnotStep / 2) / kKnotStep;
    }
    static void move_knot(std::uint16_t& nearest, bool bit, int shift) {
        const int target = -int{bit} & 65535;
        nearest = static_cast<std::uint16_t>(nearest + ((target - nearest) >> shift));
    }
};

}  // namespace metaq::logistic
