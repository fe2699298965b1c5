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
#include "metaq/text_priming.hpp"

namespace metaq::text {

inline constexpr std::size_t kOrders = 6;                  // bytes before: 0 to 4; then the word so far
static_assert(kOrders + 2 == kCounters);                   // the others: the match's, alone and with the path
inline constexpr std::size_t kTableBits = 16;
inline constexpr std::size_t kMatchStates = 384;
inline constexpr std::size_t kMixers = kMatchStates / 32;  // one for each class of the match's length
inline constexpr std::size_t kMatchMinimum = 3;            // bytes that must agree before a match is followed
inline constexpr std::size_t kMatchEnough = 16;            // no longer one is looked for beyond
inline constexpr std::size_t kMatchTableBits = 14;
inline constexpr std::uint32_t kMatchSalt = 77777;
inline constexpr std::int32_t kFirstWeight = logistic::kWeightOne / 1000 * 112;

// A hash is finished(spread(value) + spread_salt(salt)): for many values with one salt, or the reverse, each is spread once.
inline std::uint32_t spread(std::uint32_t value) { return value * 0x85ebca6bu; }
inline std::uint32_t spread_salt(std::uint32_t salt) { return spread(salt * 0x9e3779b1u); }
inline std::uint32_t finished(std::uint32_t sum) { return (sum ^ sum >> 15) * 0xc2b2ae35u; }
inline std::uint32_t hashed(std::uint32_t value, std::uint32_t salt) { return finished(spread(value) + spread_salt(salt)); }

// A byte of the past that follows the same bytes as the one to come. A match is followed beyond a byte that differs (a header
// goes on as the last one did after a number of its own), until another agrees on more bytes.
class Match {
public:
    // After a byte was appended to `history`: follow it, or look for a longer match.
    void advance(const std::vector<std::uint8_t>& history) {
        if (at_ > 0) {
            const bool hit = history[at_] == history.back();
            length_ = hit ? length_ + 1 : 0;
            misses_ = (misses_ << 1 | static_cast<std::uint32_t>(!hit)) & 255u;
            ++at_;
        }
        if (history.size() < kMatchMinimum) return;
        std::uint32_t last = 0;
        for (std::size_t i = history.size() - kMatchMinimum; i < history.size(); ++i) last = last << 8 | history[i];
        std::uint32_t& slot = table_[hashed(last, 0) >> (32 - kMatchTableBits)];
        if (length_ < kMatchEnough && slot > 0) consider(history, slot);
        slot = static_cast<std::uint32_t>(history.size());
    }

    bool following() const { return at_ > 0; }
    std::uint8_t predicted(const std::vector<std::uint8_t>& history) const { return history[at_]; }
    // How much a prediction is worth, 0 ... 87: by the match's length and the failures among the last eight predictions.
    std::uint32_t trust() const {
        const std::uint32_t length_class = length_ < 8 ? static_cast<std::uint32_t>(length_) : length_ < 16 ? 8 : length_ < 32 ? 9 : 10;
        return length_class * 8 + std::min<std::uint32_t>(static_cast<std::uint32_t>(std::popcount(misses_)), 7);
    }

private:
    void consider(const std::vector<std::uint8_t>& history, std::size_t candidate) {
        std::size_t length = 0;
        while (length < 32 && length < candidate && history[candidate - 1 - length] == history[history.size() - 1 - length]) ++length;
        if (length < kMatchMinimum || length <= length_) return;
        if (candidate != at_) misses_ = 0;
        at_ = candidate;
        length_ = length;
    }

    std::array<std::uint32_t, 1 << kMatchTableBits> table_{};
    std::size_t at_ = 0;  // 0: no match
    std::size_t length_ = 0;
    std::uint32_t misses_ = 0;  // the last eight predictions, a set bit for each that failed
};

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
        std::uint32_t path = 1;
        if (match_.following()) {
            // While the bits are the match's, processors go on to the next path before they have decoded the last bit.
            const std::uint32_t expected = match_.predicted(history_) | 256u;
            bool hit = true;
            int shift = 8;
            while (hit && shift > 0) {
                const std::uint32_t state = 32 + trust_ * 4 + (shift == 8) * 2;
                path = expected >> shift--;
                const bool next = expected >> shift & 1;
                hit = code_bit(coder, byte >> shift & 1, path, state + next) == next;
            }
            path = (expected >> shift) ^ static_cast<std::uint32_t>(!hit);
        }
        while (path < 256) {
            const int shift = 8 - static_cast<int>(std::bit_width(path));
            path = path << 1 | static_cast<std::uint32_t>(code_bit(coder, byte >> shift & 1, path, match_.following()));
        }
        append(static_cast<std::uint8_t>(path));
        return static_cast<std::uint8_t>(path);
    }

private:
    // `state` is what the match says of the bit: 0, there is none; 1, it was wrong about this byte; or from 32 on the bit,
    // whether it is a byte's first, and the match's worth.
    template <class Coder>
    bool code_bit(Coder& coder, bool bit, std::uint32_t path, std::uint32_t state) {
        const std::uint32_t salt = spread_salt(path);
        Counters used;
        for (std::size_t i = 0; i < kOrders; ++i) used[i] = &counters_[i][finished(context_[i] + salt) >> (32 - kTableBits)];
        used[kOrders] = &match_counters_[state];
        used[kOrders + 1] = &counters_[0][finished(spread(state + kMatchSalt) + salt) >> (32 - kTableBits)];
        auto& mixer = mixers_[state / 32];
        Arithmetic arithmetic;
        const int logit = arithmetic.mix(used, mixer);
        bit = coder.code(bit, std::clamp<std::uint32_t>(logistic::squash(logit), 16, 65536 - 16));
        arithmetic.learn(used, mixer, logit, bit);
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
