// What the mixing coder learns, in memory for what a stream meets alone: for devices. A small network meets a hundredth of the
// counters. It is many times as slow as DenseMemory, and comes to the same.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "metaq/base/logistic.hpp"
#include "metaq/mixing/model.hpp"
#include "metaq/mixing/packed_counters.hpp"
#include "metaq/mixing/packed_mixers.hpp"
#include "metaq/mixing/predictors.hpp"
#include "metaq/mixing/sparse_table.hpp"

namespace metaq::mixing {

class SparseMemory {
public:
    using Places = std::array<std::uint32_t, kContexts>;  // the numbers of the contexts

    [[nodiscard]] bool allocate(std::size_t) { return true; }
    bool is_out_of_memory() const { return is_out_of_memory_; }

    Places find(const Contexts& contexts) const {
        Places places;
        for (std::size_t i = 0; i < kContexts; ++i)
            places[i] = static_cast<std::uint32_t>(i * kContextValues + contexts.value[i]);
        return places;
    }

    // A decision's counters by place.
    class DecisionCounters {
    public:
        DecisionCounters(SparseMemory& memory, std::size_t decision) : memory_(memory), decision_(decision) {}

        logistic::Counter& operator[](std::uint32_t context) const {
            const auto key = static_cast<std::uint32_t>(context * kDecisions + decision_);
            return memory_.counter(key, [&] { return fresh_counter(context, decision_); });
        }

    private:
        SparseMemory& memory_;
        std::size_t decision_;
    };

    // What was given for the decision before is not valid any more.
    DecisionCounters counters(std::size_t decision) {
        is_out_of_memory_ |= !counters_.pack();
        is_out_of_memory_ |= !mixers_.pack();
        return {*this, decision};
    }

    logistic::Counter& plain(std::size_t index) {
        is_out_of_memory_ |= !counters_.pack();
        return counter(static_cast<std::uint32_t>(kContextCounters + index), [] {
            logistic::Counter counter;
            logistic::set_probability(counter, 32768, 0);
            return counter;
        });
    }

    logistic::Mixer<kInputs>& mixer(std::size_t decision) { return mixer_of(kDecisions * kScales + decision); }
    logistic::Mixer<kInputs>& scale_mixer(std::size_t index) { return mixer_of(index); }

    // A logistic::Refinement, of which those knots are there that have moved.
    class SparseRefinement {
    public:
        SparseRefinement(SparseMemory& memory, std::size_t index) : memory_(memory), first_(key_of(index)) {}

        std::uint32_t refined(int logit) const {
            return logistic::Refinement::between_knots(logit, [&](int i) {
                const std::uint16_t* const found = memory_.knots_.find(first_ + static_cast<std::uint32_t>(i));
                return found != nullptr ? *found : logistic::Refinement::fresh_knot(i);
            });
        }

        void update(int logit, bool bit, int shift) const {
            const int i = logistic::Refinement::nearest_knot(logit);
            std::uint16_t& knot = memory_.get(memory_.knots_, first_ + static_cast<std::uint32_t>(i),
                                              memory_.spare_knot_, [&] { return logistic::Refinement::fresh_knot(i); });
            logistic::Refinement::move_knot(knot, bit, shift);
        }

    private:
        static std::uint32_t key_of(std::size_t index) {
            return static_cast<std::uint32_t>(index * logistic::Refinement::kKnots);
        }

        SparseMemory& memory_;
        std::uint32_t first_;
    };

    SparseRefinement refinement(std::size_t index) { return {*this, index}; }

private:
    static constexpr std::size_t kContextCounters = kContexts * kContextValues * kDecisions;
    static_assert(kDecisions * (kScales + 1) <= 1 << 10);
    static_assert(kDecisions * kLeans * logistic::Refinement::kKnots <= 1 << 15);

    template <class Make>
    logistic::Counter& counter(std::uint32_t key, const Make& make) {
        logistic::Counter* const found = counters_.get(key, make);
        is_out_of_memory_ |= found == nullptr;
        return found != nullptr ? *found : spare_counter_;
    }

    logistic::Mixer<kInputs>& mixer_of(std::size_t index) {
        logistic::Mixer<kInputs>* const found = mixers_.get(static_cast<std::uint32_t>(index));
        is_out_of_memory_ |= found == nullptr;
        return found != nullptr ? *found : spare_mixer_;
    }

    // What is in a table; the spare one if there is no memory.
    template <class Table, class T, class Make>
    T& get(Table& table, std::uint32_t key, T& spare, const Make& make) {
        T* const found = table.get(key, make);
        is_out_of_memory_ |= found == nullptr;
        return found != nullptr ? *found : spare;
    }

    PackedCounters<kContextCounters + kPlainCounters, kContexts> counters_;
    PackedMixers<2> mixers_;  // by scale, and behind them by decision
    SparseTable<std::uint16_t, 15, 6, 32> knots_;
    logistic::Counter spare_counter_{};
    logistic::Mixer<kInputs> spare_mixer_{};
    std::uint16_t spare_knot_ = 0;
    bool is_out_of_memory_ = false;
};

// Weights that are not zero, which are those of inputs that were not: fewer than 2^20, for the first column has none.
class SparseWeights {
public:
    [[nodiscard]] bool start(std::size_t) {
        weights_.clear();
        return true;
    }
    bool is_out_of_memory() const { return is_out_of_memory_; }

    std::int32_t sum(std::size_t first, const std::int16_t* input, std::size_t count) {
        std::int32_t sum = 0;
        for (std::size_t n = 0; n < count; ++n) {
            const std::int32_t* const weight = input[n] == 0 ? nullptr : weights_.find(key_of(first + n));
            if (weight != nullptr) sum += std::int32_t{input[n]} * static_cast<std::int16_t>(*weight >> 8);
        }
        return sum;
    }

    void learn(std::size_t first, const std::int16_t* input, std::size_t count, std::int16_t factor) {
        for (std::size_t n = 0; n < count; ++n) {
            if (input[n] == 0 || factor == 0) continue;
            std::int32_t* const weight = weights_.get(key_of(first + n), [] { return std::int32_t{0}; });
            is_out_of_memory_ |= weight == nullptr;
            if (weight != nullptr) *weight = DenseWeights::moved(*weight, input[n], factor);
        }
    }

private:
    static std::uint32_t key_of(std::size_t place) { return static_cast<std::uint32_t>(place); }

    SparseTable<std::int32_t, 20, 8, 32> weights_;
    bool is_out_of_memory_ = false;
};

}  // namespace metaq::mixing
