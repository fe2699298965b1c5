// Context mixing of short byte strings in the form of a file's header, primed with typical ones (text_priming.hpp).
//
// Each byte is coded from its high bit down, as a path in a binary tree. Counters in hashed tables, one table for each
// number of bytes before and one for the word so far, and the continuation of the longest match give logits to one mixer.
// The model first learns the priming text as if it had coded it, so that names and shapes like those cost little.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "metaq/binary_coder.hpp"
#include "metaq/logistic.hpp"
#include "metaq/symbols.hpp"
#include "metaq/text_arithmetic.hpp"
#include "metaq/text_match.hpp"
#include "metaq/text_priming.hpp"

// GCC unrolls short loops before it would make vectors of them.
#if defined(__GNUC__) && !defined(__clang__)
#define METAQ_TEXT_AS_VECTOR _Pragma("GCC unroll 1")
#else
#define METAQ_TEXT_AS_VECTOR
#endif

namespace metaq::text {

inline constexpr std::size_t kOrders = 6;                  // bytes before: 0 to 4; then the word so far
static_assert(kOrders + 2 == kCounters);                   // the others: the match's, alone and with the path
inline constexpr std::size_t kTableBits = 16;
inline constexpr std::size_t kMatchStates = 384;
inline constexpr std::size_t kMixers = kMatchStates / 32;  // one for each class of the match's length
inline constexpr std::uint32_t kMatchSalt = 77777;
inline constexpr std::int32_t kFirstWeight = logistic::kWeightOne / 1000 * 112;

// Takes decisions as given, at no cost: for priming.
struct Listener {
    bool code(bool bit, std::uint32_t) { return bit; }
};

template <class Arithmetic>
class Model {
public:
    Model() {
        for (auto& table : counters_) {
            for (auto& counter : table) logistic::set_probability(counter, 32768, 0);
        }
        for (auto& counter : match_counters_) logistic::set_probability(counter, 32768, 0);
        for (auto& mixer : mixers_) mixer.reset(kFirstWeight);
        Listener listener;
        for (const char c : kPriming) code(listener, static_cast<std::uint8_t>(c));
    }

    template <class Coder>
    std::uint8_t code(Coder& coder, std::uint8_t byte) {
        std::uint32_t path = match_.following() ? follow(coder, byte) : 1;
        while (path < 256) {
            const int shift = 8 - static_cast<int>(std::bit_width(path));
            path = path << 1 | static_cast<std::uint32_t>(code_bit(coder, byte >> shift & 1, path, match_.following()));
        }
        append(static_cast<std::uint8_t>(path));
        return static_cast<std::uint8_t>(path);
    }

private:
    using OfEachBit = std::array<std::uint32_t, 8>;

    static std::uint32_t slot(std::uint32_t context, std::uint32_t salt) { return finished(context + salt) >> (32 - kTableBits); }
    static std::uint32_t bounded(int logit) { return std::clamp<std::uint32_t>(logistic::squash(logit), 16, 65536 - 16); }

    static void find_slots(std::uint32_t context, const OfEachBit& salts, OfEachBit& slots) {
        METAQ_TEXT_AS_VECTOR
        for (std::size_t k = 0; k < 8; ++k) slots[k] = slot(context, salts[k]);
    }

    // A byte's decisions as long as they are the match's: the path behind the first that is not, or behind the last. All is
    // looked up, and learned, before the decisions are known, so that processors need not wait for one to begin the next.
    template <class Coder>
    std::uint32_t follow(Coder& coder, std::uint8_t byte) {
        const std::uint32_t expected = match_.predicted(history_) | 256u;
        OfEachBit states, salts, match_slots;  // a state is the bit, whether it is the byte's first, and the match's worth
        METAQ_TEXT_AS_VECTOR
        for (std::uint32_t k = 0; k < 8; ++k) {
            states[k] = 32 + trust_ * 4 + (k == 0) * 2 + (expected >> (7 - k) & 1);
            salts[k] = spread_salt(expected >> (8 - k));
            match_slots[k] = slot(spread(states[k] + kMatchSalt), salts[k]);
        }
        std::array<OfEachBit, kOrders> slots;
        for (std::size_t i = 0; i < kOrders; ++i) find_slots(context_[i], salts, slots[i]);

        Mixer& mixer = mixers_[states[0] / 32];  // all the states'
        Arithmetic arithmetic(mixer);
        std::uint32_t path = expected;
        for (std::size_t k = 0; k < 8; ++k) {
            Counters used;
            for (std::size_t i = 0; i < kOrders; ++i) used[i] = &counters_[i][slots[i][k]];
            used[kOrders] = &match_counters_[states[k]];
            used[kOrders + 1] = &counters_[0][match_slots[k]];
            const bool next = expected >> (7 - k) & 1;
            const int logit = arithmetic.mix(used);
            arithmetic.learn(used, logit, next);
            if (coder.code(byte >> (7 - k) & 1, bounded(logit)) != next) {
                arithmetic.learn(used, logit, !next);
                path = expected >> (7 - k) ^ 1;
                break;
            }
        }
        arithmetic.finish(mixer);
        return path;
    }

    // `state` is what the match says of the bit: 0, there is none; 1, it was wrong about this byte.
    template <class Coder>
    bool code_bit(Coder& coder, bool bit, std::uint32_t path, std::uint32_t state) {
        const std::uint32_t salt = spread_salt(path);
        Counters used;
        for (std::size_t i = 0; i < kOrders; ++i) used[i] = &counters_[i][slot(context_[i], salt)];
        used[kOrders] = &match_counters_[state];
        used[kOrders + 1] = &counters_[0][slot(spread(state + kMatchSalt), salt)];
        Arithmetic arithmetic(mixers_[0]);
        const int logit = arithmetic.mix(used);
        bit = coder.code(bit, bounded(logit));
        arithmetic.learn(used, logit, bit);
        arithmetic.finish(mixers_[0]);
        return bit;
    }

    void append(std::uint8_t byte) {
        history_.push_back(byte);
        match_.advance(history_);
        trust_ = match_.trust();
        last_ = last_ << 8 | byte;
        const bool letter = (byte | 32) >= 'a' && (byte | 32) <= 'z';
        word_ = letter ? hashed(word_, byte + 1u) : 0;
        const std::array<std::uint32_t, kOrders> contexts{
            0, last_ & 0xff, last_ & 0xffff, last_ & 0xffffff, last_, word_ + (last_ & 0xff)};
        for (std::size_t i = 0; i < kOrders; ++i) context_[i] = spread(contexts[i]);
    }

    std::array<std::array<logistic::Counter, 1 << kTableBits>, kOrders> counters_;
    std::array<logistic::Counter, kMatchStates> match_counters_;
    std::array<Mixer, kMixers> mixers_;
    std::array<std::uint32_t, kOrders> context_{};  // spread
    std::vector<std::uint8_t> history_;
    Match match_;
    std::uint32_t last_ = 0;
    std::uint32_t word_ = 0;
    std::uint32_t trust_ = 0;
};

inline void encode(std::span<const std::uint8_t> bytes, std::vector<std::uint8_t>& out) {
    const auto model = std::make_unique<Model<Portable>>();
    BinaryEncoder coder(out);
    for (const std::uint8_t byte : bytes) model->code(coder, byte);
    coder.finish(0);
}

template <class Arithmetic>
Status decode_with(std::span<const std::uint8_t> data, std::span<std::uint8_t> bytes) {
    const auto model = std::make_unique<Model<Arithmetic>>();
    BinaryDecoder coder(data);
    for (std::uint8_t& byte : bytes) {
        byte = model->code(coder, 0);
        if (coder.truncated()) return Status::truncated;
    }
    return coder.finish(0);
}

#ifdef METAQ_TEXT_X86
[[gnu::target("avx2"), gnu::flatten]] inline Status decode_avx2(std::span<const std::uint8_t> data, std::span<std::uint8_t> bytes) {
    return decode_with<Avx2>(data, bytes);
}
#endif

inline Status decode(std::span<const std::uint8_t> data, std::span<std::uint8_t> bytes) {
#ifdef METAQ_TEXT_X86
    if (__builtin_cpu_supports("avx2")) return decode_avx2(data, bytes);
#endif
    return decode_with<Portable>(data, bytes);
}

}  // namespace metaq::text
