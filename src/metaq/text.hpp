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
#include "metaq/text_priming.hpp"

namespace metaq::text {

inline constexpr std::size_t kOrders = 6;                  // bytes before: 0 to 4; then the word so far
inline constexpr std::size_t kInputs = 2 * (kOrders + 2);  // two rates of each, and of the match, alone and with the path
inline constexpr std::size_t kTableBits = 16;
inline constexpr std::size_t kMatchStates = 384;
inline constexpr std::size_t kMixers = kMatchStates / 32;  // one for each class of the match's length
inline constexpr std::size_t kMatchMinimum = 3;            // bytes that must agree before a match is followed
inline constexpr std::size_t kMatchEnough = 16;            // no longer one is looked for beyond
inline constexpr std::size_t kMatchTableBits = 14;
inline constexpr std::uint32_t kMatchSalt = 77777;
inline constexpr logistic::CounterRates kRates{250, 10};
inline constexpr std::int32_t kFirstWeight = logistic::kWeightOne / 1000 * 112;
inline constexpr int kMixerRate = 13000;

inline std::uint32_t hashed(std::uint32_t value, std::uint32_t salt) {
    value = (value + salt * 0x9e3779b1u) * 0x85ebca6bu;
    return (value ^ value >> 15) * 0xc2b2ae35u;
}

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
    // 0 ... 10.
    std::uint32_t length_class() const {
        return length_ < 8 ? static_cast<std::uint32_t>(length_) : length_ < 16 ? 8 : length_ < 32 ? 9 : 10;
    }
    std::uint32_t misses() const { return misses_; }

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
        while (path < 256) {
            const int shift = 8 - static_cast<int>(std::bit_width(path));
            path = path << 1 | static_cast<std::uint32_t>(code_bit(coder, byte >> shift & 1, path));
        }
        append(static_cast<std::uint8_t>(path));
        return static_cast<std::uint8_t>(path);
    }

private:
    template <class Coder>
    bool code_bit(Coder& coder, bool bit, std::uint32_t path) {
        std::array<logistic::Counter*, kOrders + 2> used;
        for (std::size_t i = 0; i < kOrders; ++i) used[i] = &counters_[i][hashed(context_[i], path) >> (32 - kTableBits)];
        const std::uint32_t state = match_state(path);
        used[kOrders] = &match_counters_[state];
        used[kOrders + 1] = &counters_[0][hashed(state + kMatchSalt, path) >> (32 - kTableBits)];
        std::array<std::int16_t, kInputs> input;
        for (std::size_t i = 0; i < used.size(); ++i) {
            input[2 * i] = logistic::kStretch[used[i]->slow >> 20];
            input[2 * i + 1] = logistic::kStretch[used[i]->fast >> 20];
        }
        auto& mixer = mixers_[state / 32];
        const int logit = mixer.logit(input);
        bit = coder.code(bit, std::clamp<std::uint32_t>(logistic::squash(logit), 16, 65536 - 16));
        for (auto* counter : used) logistic::update(*counter, bit, kRates);
        mixer.update(input, logit, bit, kMixerRate);
        return bit;
    }

    // What the match says of the next bit: nothing, or the bit with its length and its recent failures.
    std::uint32_t match_state(std::uint32_t path) const {
        if (!match_.following()) return 0;
        const std::uint32_t expected = match_.predicted(history_) | 256u;
        const int known = static_cast<int>(std::bit_width(path)) - 1;
        if (expected >> (8 - known) != path) return 1;
        const std::uint32_t bit = expected >> (7 - known) & 1;
        const auto recent = std::min<std::uint32_t>(static_cast<std::uint32_t>(std::popcount(match_.misses())), 7);
        return 32 + (match_.length_class() * 8 + recent) * 4 + (known == 0) * 2 + bit;
    }

    void append(std::uint8_t byte) {
        history_.push_back(byte);
        match_.advance(history_);
        last_ = last_ << 8 | byte;
        const bool letter = (byte | 32) >= 'a' && (byte | 32) <= 'z';
        word_ = letter ? hashed(word_, byte + 1u) : 0;
        context_[0] = 0;
        context_[1] = last_ & 0xff;
        context_[2] = last_ & 0xffff;
        context_[3] = last_ & 0xffffff;
        context_[4] = last_;
        context_[5] = word_ + (last_ & 0xff);
    }

    std::array<std::array<logistic::Counter, 1 << kTableBits>, kOrders> counters_;
    std::array<logistic::Counter, kMatchStates> match_counters_;
    std::array<logistic::Mixer<kInputs>, kMixers> mixers_;
    std::array<std::uint32_t, kOrders> context_{};
    std::vector<std::uint8_t> history_;
    Match match_;
    std::uint32_t last_ = 0;
    std::uint32_t word_ = 0;
};

inline void encode(std::span<const std::uint8_t> bytes, std::vector<std::uint8_t>& out) {
    const auto model = std::make_unique<Model>();
    BinaryEncoder coder(out);
    for (const std::uint8_t byte : bytes) model->code(coder, byte);
    coder.finish(0);
}

inline Status decode(std::span<const std::uint8_t> data, std::span<std::uint8_t> bytes) {
    const auto model = std::make_unique<Model>();
    BinaryDecoder coder(data);
    for (std::uint8_t& byte : bytes) {
        byte = model->code(coder, 0);
        if (coder.truncated()) return Status::truncated;
    }
    return coder.finish(0);
}

}  // namespace metaq::text
