// Binary decisions of the mixing coder: each is predicted in several contexts, mixed, refined, coded, and learned from.
//
// A symbol, relative to its block's centre, is a flag (not zero), a sign, then one flag per magnitude class ("is it above
// this class?"), then its place in the class. Classes are 1, 2, 3, 4, 5, 6-7, 8-9, 10-12, ...: they grow by about a
// quarter, so that large magnitudes take few decisions and each decision is seen often enough to be learned.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "metaq/base/buffer.hpp"
#include "metaq/base/logistic.hpp"

namespace metaq::mixing {

inline constexpr std::size_t kContexts = 6;
inline constexpr std::size_t kInputs = 2 * kContexts;  // each context speaks at two rates
inline constexpr std::size_t kContextValues = 4096;

// Decisions: not zero, above class 1 ... 22 (the last for all later ones too), sign.
inline constexpr std::size_t kDecisions = 24;
inline constexpr std::size_t kNotZero = 0;
inline constexpr std::size_t kLastClass = 22;
inline constexpr std::size_t kSign = 23;

inline constexpr std::size_t kLeans = 21;   // how the predicted value leans: Contexts::lean
inline constexpr std::size_t kScales = 32;  // expected magnitude, two steps an octave: Contexts::scale

// Context 0 is the expected magnitude in quarter octaves; it is known what that says, so its counters start there.
inline constexpr std::size_t kEstimateBins = 80;
inline constexpr std::size_t kFilledBase = 1000;  // where its bins for the later decisions begin
inline constexpr std::uint32_t kPriorCount = 3;   // what that knowledge counts for

inline constexpr logistic::CounterRates kRates{1000, 22};
inline constexpr logistic::CounterRates kPlainRates{255, 30};
inline constexpr std::int32_t kFirstWeight = logistic::kWeightOne / 1000 * 67;
// Rates of the mixers; the encoder names one. Large networks are served best by the first, sparse ones by faster ones.
inline constexpr std::array<int, 4> kMixerRates{10000, 20000, 30000, 5000};
inline constexpr int kRefinementShift = 6;

inline constexpr std::size_t kPlainBits = 64;  // counters of a plain number
inline constexpr std::size_t kPlainNumbers = 2;
inline constexpr std::size_t kPlacedClasses = 64;  // classes whose places have counters, for their first three halvings
inline constexpr std::size_t kPlaceNodes = 8;
inline constexpr std::size_t kPlainCounters = kPlainNumbers * kPlainBits + kPlacedClasses * kPlaceNodes;

constexpr std::int64_t class_width(std::int64_t lower) { return std::max<std::int64_t>(1, (lower + 2) / 4); }

struct Contexts {
    std::array<std::size_t, kContexts> value;
    std::size_t lean;
    std::size_t scale;
};

// m / (1 + m): what a geometric distribution of mean m gives every decision. m is 2^(bin/4 - 11).
inline std::uint32_t prior(std::size_t bin) {
    constexpr std::array<std::uint64_t, 4> kQuarters{65536, 77936, 92682, 110218};  // 2^16 times 2^(i/4)
    const std::uint64_t mean = kQuarters[bin % 4] << (bin / 4);                     // in units of 2^-27
    return static_cast<std::uint32_t>(std::clamp<std::uint64_t>((mean << 16) / ((1u << 27) + mean), 32, 65000));
}

// A counter before it has learned anything. The number of a context is that of its value, and of kContextValues for each context
// before it.
inline logistic::Counter fresh_counter(std::size_t context, std::size_t decision) {
    logistic::Counter counter;
    const std::size_t bin = context < kFilledBase ? context : context - kFilledBase;
    const bool has_prior = bin < kEstimateBins && decision < kSign;
    logistic::set_probability(counter, has_prior ? prior(bin) : 32768, has_prior ? kPriorCount : 0);
    return counter;
}

// The counters of every context, one for each decision. A short stream meets few of the contexts, so that a context's
// counters are made when it is first met; for a long one all are there from the start, where they need not be looked for.
class ContextCounters {
public:
    using Counters = std::array<logistic::Counter, kDecisions>;
    using Places = std::array<std::uint32_t, kContexts>;  // of the first counter of each context

    // Has to be called once, before all else, with about the length of the stream. Returns false if there is no memory.
    [[nodiscard]] bool allocate(std::size_t symbols) {
        if (symbols < kManySymbols) return counters_.append(fresh(kSpareContext));
        if (!counters_.resize_for_overwrite(kContexts * kContextValues)) return false;
        for (std::size_t context = 0; context < counters_.size(); ++context) counters_[context] = fresh(context);
        has_all_ = true;
        return true;
    }

    // Returns where the counters of the contexts are; those of a context that is new are made.
    Places find(const Contexts& contexts) {
        Places places;
        if (has_all_) {
            for (std::size_t i = 0; i < kContexts; ++i) {
                places[i] = static_cast<std::uint32_t>((i * kContextValues + contexts.value[i]) * kDecisions);
            }
            return places;
        }
        bool are_known = true;
        for (std::size_t i = 0; i < kContexts; ++i) {
            const std::uint16_t place = place_[i * kContextValues + contexts.value[i]];
            are_known &= place != kNowhere;
            places[i] = place * std::uint32_t{kDecisions};
        }
        if (!are_known) [[unlikely]]
            make(contexts, places);
        return places;
    }

    // The counters by place. The pointer is valid until the next call of `find`.
    logistic::Counter* data() { return counters_.data()->data(); }

    // Whether there was no memory for some context: what was predicted after that means nothing.
    bool is_out_of_memory() const { return is_out_of_memory_; }

private:
    static constexpr std::size_t kManySymbols = 1u << 17;  // they take longer to code than all counters to be made
    static constexpr std::uint16_t kNowhere = 0;  // the counters there serve contexts for which there is no memory
    static constexpr std::size_t kSpareContext = kContexts * kContextValues - 1;
    static_assert(kContexts * kContextValues < UINT16_MAX);

    [[gnu::noinline]] void make(const Contexts& contexts, Places& places) {
        for (std::size_t i = 0; i < kContexts; ++i) {
            const std::size_t context = i * kContextValues + contexts.value[i];
            if (place_[context] == kNowhere) {
                if (counters_.append(fresh(context))) {
                    place_[context] = static_cast<std::uint16_t>(counters_.size() - 1);
                } else {
                    is_out_of_memory_ = true;
                }
            }
            places[i] = place_[context] * std::uint32_t{kDecisions};
        }
    }

    static Counters fresh(std::size_t context) {
        Counters counters;
        for (std::size_t decision = 0; decision < kDecisions; ++decision)
            counters[decision] = fresh_counter(context, decision);
        return counters;
    }

    std::array<std::uint16_t, kContexts * kContextValues> place_{};  // in counters_
    Buffer<Counters> counters_;
    bool has_all_ = false;
    bool is_out_of_memory_ = false;
};

// All that is learned, each at its place. SparseMemory (sparse_memory.hpp) has the same face.
class DenseMemory {
public:
    using Places = ContextCounters::Places;

    DenseMemory() {
        for (auto& counter : plain_) logistic::set_probability(counter, 32768, 0);
        for (auto& mixer : mixers_) mixer.reset(kFirstWeight);
        for (auto& mixer : scale_mixers_) mixer.reset(kFirstWeight);
        for (auto& refinement : refinements_) refinement.reset();
    }

    // Has to be called once, before all else, with about the length of the stream. Returns false if there is no memory.
    [[nodiscard]] bool allocate(std::size_t symbols) { return counters_.allocate(symbols); }
    // Whether memory ran out: what was predicted after that means nothing.
    bool is_out_of_memory() const { return counters_.is_out_of_memory(); }

    Places find(const Contexts& contexts) { return counters_.find(contexts); }
    // A decision's counters by place, valid until the next call of `find`.
    logistic::Counter* counters(std::size_t decision) { return counters_.data() + decision; }
    logistic::Counter& plain(std::size_t index) { return plain_[index]; }
    logistic::Mixer<kInputs>& mixer(std::size_t decision) { return mixers_[decision]; }
    logistic::Mixer<kInputs>& scale_mixer(std::size_t index) { return scale_mixers_[index]; }
    logistic::Refinement& refinement(std::size_t index) { return refinements_[index]; }

private:
    ContextCounters counters_;
    std::array<logistic::Mixer<kInputs>, kDecisions> mixers_;
    std::array<logistic::Mixer<kInputs>, kDecisions * kScales> scale_mixers_;
    std::array<logistic::Refinement, kDecisions * kLeans> refinements_;
    std::array<logistic::Counter, kPlainCounters> plain_;
};

// Contexts, and where their counters are.
template <class Memory>
struct PlacedContexts {
    typename Memory::Places places;
    std::size_t lean;
    std::size_t scale;
};

template <class Memory>
class BasicModel {
public:
    using Placed = PlacedContexts<Memory>;

    // Has to be called once, before all else, with about the length of the stream. Returns false if there is no memory.
    [[nodiscard]] bool allocate(std::size_t symbols) { return memory_.allocate(symbols); }

    // Whether memory ran out: what was coded after that means nothing.
    bool is_out_of_memory() const { return memory_.is_out_of_memory(); }

    void set_mixer_rate(std::size_t rate) { mixer_rate_ = kMixerRates[rate]; }

    // Finds the counters of contexts, for as many decisions as have the same.
    Placed place(const Contexts& contexts) { return {memory_.find(contexts), contexts.lean, contexts.scale}; }

    // Codes one decision; the bit is the encoder's, the one returned is what a decoder finds.
    template <class Coder>
    bool code(Coder& coder, bool bit, std::size_t decision, const Placed& contexts) {
        const Prediction found = predict(decision, contexts);
        bit = coder.code(bit, found.probability);
        for (auto* counter : found.used) logistic::update(*counter, bit, kRates);
        memory_.mixer(decision).update(found.input, found.logit, bit, mixer_rate_);
        memory_.scale_mixer(decision * kScales + contexts.scale)
            .update(found.input, found.scale_logit, bit, mixer_rate_);
        memory_.refinement(decision * kLeans + contexts.lean).update(found.mean, bit, kRefinementShift);
        return bit;
    }

    // The probability, in units of 2^-16, that a decision's bit is set. Nothing is learned.
    std::uint32_t probability(std::size_t decision, const Placed& contexts) {
        return predict(decision, contexts).probability;
    }

    // A number of a block's header: Elias gamma code of number + 1 with adaptive bits, one set of counters for each `kind`.
    template <class Coder>
    std::uint32_t code_number(Coder& coder, std::uint32_t number, std::size_t kind) {
        const std::size_t first = kind * kPlainBits;
        const std::uint64_t raised = std::uint64_t{number} + 1;
        const int length = static_cast<int>(std::bit_width(raised)) - 1;
        int bits = 0;
        while (bits < 31 && code_plain(coder, bits < length, first + static_cast<std::size_t>(bits))) ++bits;
        std::uint64_t value = 1;
        for (int i = bits - 1; i >= 0; --i) {
            const std::size_t counter = first + 32 + static_cast<std::size_t>(i == bits - 1 ? bits : 0);
            value = value << 1 | static_cast<std::uint64_t>(code_plain(coder, raised >> i & 1, counter));
        }
        return static_cast<std::uint32_t>(value - 1);
    }

    // The place of `magnitude` in its class, which begins at `lower`: halvings, the first three of them learned.
    template <class Coder>
    std::int64_t code_place(Coder& coder, std::int64_t magnitude, std::int64_t lower, std::size_t number) {
        std::size_t node = 1;
        for (std::int64_t width = class_width(lower); width > 1;) {
            const std::int64_t half = width / 2;
            bool upper = magnitude - lower >= half;
            if (node < kPlaceNodes && number < kPlacedClasses) {
                upper = code_plain(coder, upper, kPlainNumbers * kPlainBits + number * kPlaceNodes + node);
            } else {
                upper = coder.code(upper, static_cast<std::uint32_t>(((width - half) << 16) / width));
            }
            node = 2 * node + upper;
            if (upper) lower += half;
            width = upper ? width - half : half;
        }
        return lower;
    }

private:
    static constexpr std::uint32_t kProbabilityLast = (1 << 16) - 1;

    struct Prediction {
        std::array<logistic::Counter*, kContexts> used;
        std::array<std::int16_t, kInputs> input;
        int logit, scale_logit, mean;
        std::uint32_t probability;
    };

    [[gnu::always_inline]] inline Prediction predict(std::size_t decision, const Placed& contexts) {
        Prediction found;
        find(contexts.places, decision, found.used, found.input);
        found.logit = memory_.mixer(decision).logit(found.input);
        found.scale_logit = memory_.scale_mixer(decision * kScales + contexts.scale).logit(found.input);
        found.mean = (found.logit + found.scale_logit) >> 1;
        const std::uint32_t refined = memory_.refinement(decision * kLeans + contexts.lean).refined(found.mean);
        const std::uint32_t mixed = (3 * logistic::squash(found.mean) + refined) >> 2;
        found.probability = std::clamp<std::uint32_t>(mixed, 1, kProbabilityLast);
        return found;
    }

    // A counter that was never used takes the probability of context 0, and learns from that.
    void find(const typename Memory::Places& places, std::size_t decision,
              std::array<logistic::Counter*, kContexts>& used, std::array<std::int16_t, kInputs>& input) {
        const auto counters = memory_.counters(decision);
        const std::uint32_t base = counters[places[0]].slow & ~logistic::kCountMask;
        for (std::size_t i = 0; i < kContexts; ++i) {
            logistic::Counter& counter = counters[places[i]];
            if ((counter.slow & logistic::kCountMask) == 0) counter = {base, base};
            used[i] = &counter;
            input[2 * i] = logistic::kStretch[counter.slow >> 20];
            input[2 * i + 1] = logistic::kStretch[counter.fast >> 20];
        }
    }

    template <class Coder>
    bool code_plain(Coder& coder, bool bit, std::size_t index) {
        logistic::Counter& counter = memory_.plain(index);
        bit = coder.code(bit, std::clamp<std::uint32_t>(counter.slow >> 16, 32, 65536 - 32));
        logistic::update(counter, bit, kPlainRates);
        return bit;
    }

    Memory memory_;
    int mixer_rate_ = kMixerRates[0];
};

using Model = BasicModel<DenseMemory>;

}  // namespace metaq::mixing
