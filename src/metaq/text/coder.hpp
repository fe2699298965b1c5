// Context mixing of short byte strings in the form of a file's header, primed with typical ones (priming.hpp).
//
// While a match is followed, one decision says whether the next byte is the one that the match predicts. Any other byte is
// coded bit by bit from the highest, as a path in a binary tree. For each decision a mixer adds the logits of eight counters:
// of hashed tables, one for each number of bytes before and one for the word so far, and of the match's length and failures.
// The model first learns the priming text as if it had coded it, so that names and shapes like those cost little.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/base/binary_coder.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/logistic.hpp"
#include "metaq/base/memory.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/text/arithmetic.hpp"
#include "metaq/text/match.hpp"
#include "metaq/text/priming.hpp"

namespace metaq::text {

inline constexpr std::size_t kOrders = 6;  // bytes before: 0 to 4; then the word so far
static_assert(kOrders + 2 == kCounters);   // the others: the match's, alone and with the node
inline constexpr std::size_t kTableBits = 14;
inline constexpr std::size_t kMatchStates = 2 + 8 * kLengthClasses;
inline constexpr std::uint32_t kMatchSalt = 77777;
inline constexpr std::int32_t kFirstWeight = logistic::kWeightOne / 1000 * 112;
inline constexpr std::uint32_t kLeastShare = 128;  // of 2^16: bounds how few bits a byte takes

// A coder that takes decisions as they are and writes nothing, for priming.
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
    }

    // To be called once, before all else: makes room for `size` bytes and learns the priming text. False if there is no memory.
    [[nodiscard]] bool prepare(std::size_t size) {
        if (!history_.resize_for_overwrite(kPriming.size() + size)) return false;
        Listener listener;
        for (const char c : kPriming) code(listener, static_cast<std::uint8_t>(c));
        return true;
    }

    // Codes the next byte, one of those that `prepare` made room for, and returns it.
    template <class Coder>
    std::uint8_t code(Coder& coder, std::uint8_t byte) {
        Basis basis{0, 0, 0};
        if (match_.following()) {
            const std::uint8_t expected = match_.predicted(history());
            const std::uint32_t length_class = match_.length_class(), state = 2 + 8 * length_class + match_.failures();
            if (decide(coder, byte == expected, 256u + expected, {state, state, 1 + length_class})) {
                append(expected);
                return expected;
            }
            basis = {1, 512u + expected, 0};
        }
        std::uint32_t path = 1;
        while (path < 256) {
            const int shift = 8 - static_cast<int>(std::bit_width(path));
            path = path << 1 | static_cast<std::uint32_t>(decide(coder, byte >> shift & 1, path, basis));
        }
        append(static_cast<std::uint8_t>(path));
        return static_cast<std::uint8_t>(path);
    }

private:
    // What the match says of a decision.
    struct Basis {
        std::uint32_t state;  // 0: there is none; 1: it was wrong about this byte; above: its length class and failures
        std::uint32_t value;  // selects the node's counter: the state, or the predicted byte if that was wrong
        std::uint32_t mixer;
    };

    static std::uint32_t slot(std::uint32_t context, std::uint32_t node) {
        return hashed(context, node) >> (32 - kTableBits);
    }

    template <class Coder>
    bool decide(Coder& coder, bool bit, std::uint32_t node, const Basis& basis) {
        Counters used;
        for (std::size_t i = 0; i < kOrders; ++i) used[i] = &counters_[i][slot(context_[i], node)];
        used[kOrders] = &match_counters_[basis.state];
        used[kOrders + 1] = &counters_[0][slot(basis.value + kMatchSalt, node)];
        Mixer& mixer = mixers_[basis.mixer];
        Arithmetic arithmetic;
        const int logit = arithmetic.mix(mixer, used);
        bit = coder.code(bit, std::clamp<std::uint32_t>(logistic::squash(logit), kLeastShare, 65536 - kLeastShare));
        arithmetic.learn(mixer, used, logit, bit);
        return bit;
    }

    void append(std::uint8_t byte) {
        history_[length_++] = byte;
        match_.advance(history());
        last_ = last_ << 8 | byte;
        const bool letter = (byte | 32) >= 'a' && (byte | 32) <= 'z';
        word_ = letter ? hashed(word_, byte + 1u) : 0;
        context_ = {0, last_ & 0xff, last_ & 0xffff, last_ & 0xffffff, last_, word_ + (last_ & 0xff)};
    }

    std::span<const std::uint8_t> history() const { return {history_.data(), length_}; }

    std::array<std::array<logistic::Counter, 1 << kTableBits>, kOrders> counters_;
    std::array<logistic::Counter, kMatchStates> match_counters_;
    std::array<Mixer, 1 + kLengthClasses> mixers_;
    std::array<std::uint32_t, kOrders> context_{};
    Buffer<std::uint8_t> history_;
    std::size_t length_ = 0;  // of the history so far
    Match match_;
    std::uint32_t last_ = 0;
    std::uint32_t word_ = 0;
};

// Returns null if there is no memory.
template <class Arithmetic>
Owned<Model<Arithmetic>> make_model(std::size_t size) {
    Owned<Model<Arithmetic>> model = make_owned<Model<Arithmetic>>();
    if (model != nullptr && !model->prepare(size)) model.reset();
    return model;
}

// Appends the code of `bytes` to `out`. The status is ok, or there is no memory.
[[nodiscard]] inline Status encode(std::span<const std::uint8_t> bytes, std::vector<std::uint8_t>& out) {
    const Owned<Model<Portable>> model = make_model<Portable>(bytes.size());
    if (model == nullptr) return Status::no_memory;
    BinaryEncoder coder(out);
    for (const std::uint8_t byte : bytes) model->code(coder, byte);
    coder.finish(0);
    return Status::ok;
}

template <class Arithmetic>
Status decode_with(std::span<const std::uint8_t> data, std::span<std::uint8_t> bytes) {
    const Owned<Model<Arithmetic>> model = make_model<Arithmetic>(bytes.size());
    if (model == nullptr) return Status::no_memory;
    BinaryDecoder coder(data);
    for (std::uint8_t& byte : bytes) {
        byte = model->code(coder, 0);
        if (coder.truncated()) return Status::truncated;
    }
    return coder.finish(0);
}

#ifdef METAQ_TEXT_X86
[[gnu::target("avx2"), gnu::flatten]] inline Status decode_avx2(std::span<const std::uint8_t> data,
                                                                std::span<std::uint8_t> bytes) {
    return decode_with<Avx2>(data, bytes);
}
#endif

// Fills `bytes`, as many as were encoded, from exactly `data`. Allocates 0.9 MB, and as much as `bytes`.
[[nodiscard]] inline Status decode(std::span<const std::uint8_t> data, std::span<std::uint8_t> bytes) {
#ifdef METAQ_TEXT_X86
    if (__builtin_cpu_supports("avx2")) return decode_avx2(data, bytes);
#endif
    return decode_with<Portable>(data, bytes);
}

}  // namespace metaq::text
