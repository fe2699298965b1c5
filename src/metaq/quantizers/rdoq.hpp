// Rate-distortion quantization: weights to symbols, each the cheapest in error and in what the mixing coder asks for it.
//
// In coding order, every weight takes argmin_q F (w - q)^2 + rate_weight * R(q), w in units of the step, R the bits that
// the coder's model, having learned from all choices before, would spend. The choice is then learned like any symbol.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/base/memory.hpp"
#include "metaq/mixing/coder.hpp"

namespace metaq::rdoq {

struct Weights {
    const float* values;      // in units of the step
    const float* importance;  // F of each, or null for 1
    Block nearest;            // the nearest symbols, which are replaced
};

// Takes the coder's place where `code_block` codes a block that it fills.
struct Chooser {
    const float* values;
    const float* importance;
    double rate_weight;
    std::int32_t centre = 0;
    double bits = 0;

    bool code(bool bit, std::uint32_t probability) {
        const std::uint32_t of_bit = bit ? probability : kProbabilityOne - probability;
        bits -= std::log2(of_bit / static_cast<double>(kProbabilityOne));
        return bit;
    }
    bool truncated() const { return false; }
};

inline double bits_of(std::uint32_t probability) { return 16 - std::log2(static_cast<double>(probability)); }

// The choice among zero and the three magnitudes around a weight's, on the weight's side of the centre.
class Candidates {
public:
    // `size` is the weight's distance from the centre, at most kSymbolLimit.
    Candidates(double size, double importance, double rate_weight)
        : size_(size), importance_(importance), rate_weight_(rate_weight), least_(error(0)) {}

    // What a magnitude costs if coded in `bits`.
    void offer(std::int64_t magnitude, double bits) {
        const double cost = error(magnitude) + rate_weight_ * bits;
        if (magnitude > 0 && cost >= least_) return;
        least_ = cost;
        best_ = magnitude;
    }

    std::int64_t first() const { return std::max<std::int64_t>(1, static_cast<std::int64_t>(size_) - 1); }
    std::int64_t last() const {
        return std::min(static_cast<std::int64_t>(std::ceil(size_)), std::int64_t{kSymbolLimit} - 1);
    }
    std::int64_t best() const { return best_; }

private:
    double error(std::int64_t magnitude) const {
        const double miss = size_ - static_cast<double>(magnitude);
        return importance_ * miss * miss;
    }

    double size_, importance_, rate_weight_, least_;
    std::int64_t best_ = 0;
};

inline std::int64_t choose(mixing::State& state, Candidates candidates, bool negative,
                           const mixing::Expectation& expected, const mixing::Neighbours& near,
                           const mixing::Position& at) {
    mixing::Contexts contexts = state.history.zero_contexts(expected, near, 0);
    const std::uint32_t not_zero = state.model.probability(mixing::kNotZero, state.model.place(contexts));
    candidates.offer(0, bits_of(kProbabilityOne - not_zero));
    const std::uint32_t minus = state.model.probability(
        mixing::kSign, state.model.place(state.history.sign_contexts(expected, near, at)));
    double bits = bits_of(not_zero) + bits_of(negative ? minus : kProbabilityOne - minus);
    state.history.turn_to_magnitude(contexts, expected, negative, 0);
    const auto placed = state.model.place(contexts);
    std::size_t number = 1;
    for (std::int64_t lower = 1; lower <= candidates.last(); ++number) {
        const std::int64_t width = mixing::class_width(lower);
        const std::uint32_t above = state.model.probability(std::min(number, mixing::kLastClass), placed);
        const double of_class = bits + bits_of(kProbabilityOne - above) + std::log2(static_cast<double>(width));
        const std::int64_t last = std::min(candidates.last(), lower + width - 1);
        for (std::int64_t k = std::max(lower, candidates.first()); k <= last; ++k) candidates.offer(k, of_class);
        bits += bits_of(above);
        lower += width;
    }
    return candidates.best();
}

// Stands for mixing::code_symbol where the coder is a Chooser: the symbol passed is not known yet, but chosen.
inline mixing::Sized code_symbol(mixing::State& state, Chooser& chooser, const mixing::Sized&,
                                 const mixing::Expectation& expected, const mixing::Neighbours& near,
                                 const mixing::Position& at, std::size_t quantizer) {
    const double value = static_cast<double>(*chooser.values++) - chooser.centre;
    const double importance = chooser.importance ? static_cast<double>(*chooser.importance++) : 1;
    const bool negative = value < 0;
    const double size = std::abs(value) <= kSymbolLimit ? std::abs(value) : kSymbolLimit;  // also of what is no number
    const Candidates candidates(size, importance, chooser.rate_weight);
    const mixing::Sized chosen{choose(state, candidates, negative, expected, near, at), negative};
    return mixing::code_symbol<Chooser>(state, chooser, chosen, expected, near, at, quantizer);
}

// Replaces the symbols of blocks that follow each other in a file, and tells the bits that they take. The status is ok, or
// there is no memory.
[[nodiscard]] inline Status quantize(std::span<const Weights> blocks, double rate_weight, double& bits) {
    std::size_t symbols = 0;
    for (const Weights& weights : blocks) symbols += weights.nearest.size();
    const Owned<mixing::State> state = mixing::make_state(symbols);
    if (state == nullptr) return Status::no_memory;
    bits = 0;
    for (const Weights& weights : blocks) {
        const Block& block = weights.nearest;
        if (block.size() == 0) continue;
        mixing::BlockHeader header = mixing::make_header({block.symbols, block.rows, block.channels, block.kernel});
        header.machine = 0;
        Chooser chooser{weights.values, weights.importance, rate_weight, header.centre};
        mixing::code_header(state->model, chooser, header);
        if (!header.constant) {
            const Status status = mixing::code_symbols(*state, chooser, block, header.centre, mixing::FreeSymbols{});
            if (status != Status::ok) return status;
        }
        bits += chooser.bits;
    }
    return Status::ok;
}

}  // namespace metaq::rdoq
