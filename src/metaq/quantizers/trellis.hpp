// Trellis-coded quantization: rows of weights to dependent symbols, by the path of least error and rate.
//
// For each row, Viterbi's algorithm finds the path through the states of metaq/base/dependent.hpp with the least sum of
// F_i (w_i - r_i)^2 + rate_weight * R(k_i), w in units of the step, r_i the symbol of index k_i in the quantizer of the
// state. R comes from tables by quantizer and expected magnitude, which the mean magnitudes of a weight's row, column,
// channel and kernel position tell, much as the mixing coder's running means do. What the tables hold is first a guess,
// then what the paths of the pass before show.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/base/dependent.hpp"
#include "metaq/mixing/model.hpp"
#include "metaq/quantizers/trellis_rates.hpp"

namespace metaq::trellis {

struct Weights {
    const float* values;      // in units of the step
    const float* importance;  // F of each, or null for 1
    Block symbols;            // which are found
    std::int32_t most;        // the largest symbol that may be
};

struct Row {
    const float* values;
    const float* importance;
    std::int32_t* symbols;
    std::span<const std::uint8_t> bins;  // expected magnitudes
    std::int32_t most;
};

class Viterbi {
public:
    Viterbi(const dependent::Machine& machine, float rate_weight) : machine_(machine), rate_weight_(rate_weight) {
        std::array<std::size_t, dependent::kMostStates> known{};
        for (std::size_t way = 0; way < 2 * machine.states; ++way) {
            const std::size_t reached = machine.next[way / 2][way % 2];
            ways_[reached][known[reached]++] = static_cast<std::uint8_t>(way);
        }
    }

    // Fills the symbols of a row, and counts their indices for the next tables.
    void run(const Row& row, const Rates& rates, Rates& counted) {
        steps_.resize(row.bins.size());
        std::array<float, dependent::kMostStates> cost;
        cost.fill(kNever);
        cost[0] = 0;
        for (std::size_t i = 0; i < steps_.size(); ++i) {
            const Choices cheapest = choices(row, i, rates, steps_[i]);
            cost = advance(cost, cheapest, steps_[i]);
        }
        auto state = static_cast<std::size_t>(std::min_element(cost.begin(), cost.end()) - cost.begin());
        for (std::size_t i = steps_.size(); i-- > 0;) {
            const std::size_t from = steps_[i].from[state] / 2, parity = steps_[i].from[state] % 2;
            const std::size_t quantizer = dependent::quantizer_of(from);
            const std::int64_t index = steps_[i].index[quantizer][parity];
            counted.count(quantizer, row.bins[i], index);
            const auto symbol = static_cast<std::int32_t>(dependent::symbol_of(index, quantizer));
            row.symbols[i] = row.values[i] < 0 ? -symbol : symbol;
            state = from;
        }
    }

private:
    static constexpr float kNever = 1e30f;

    using Choices = std::array<std::array<float, 2>, 2>;  // costs by quantizer and parity

    struct Step {
        std::array<std::array<std::int32_t, 2>, 2> index;       // the cheapest by quantizer and parity
        std::array<std::uint8_t, dependent::kMostStates> from;  // to each state: twice the one before, and the parity
    };

    // The indices just below and just above the weight; one below them, or zero, where that is cheaper.
    Choices choices(const Row& row, std::size_t i, const Rates& rates, Step& step) const {
        const float limit = static_cast<float>(row.most), exact = std::abs(row.values[i]);
        const float size = exact <= limit ? exact : limit;  // also of what is no number
        const float importance = row.importance ? row.importance[i] : 1;
        Choices cost{{{kNever, kNever}, {kNever, kNever}}};
        step.index = {};
        for (std::size_t quantizer = 0; quantizer < 2; ++quantizer) {
            const auto offer = [&](std::int32_t index) {
                const std::int64_t symbol = dependent::symbol_of(index, quantizer);
                const float miss = size - static_cast<float>(symbol);
                const float sum = importance * miss * miss + rate_weight_ * rates.bits(quantizer, row.bins[i], index);
                float& least = cost[quantizer][index & 1];
                std::int32_t& best = step.index[quantizer][index & 1];
                const bool is_cheaper = (sum < least) & (symbol <= row.most);
                best = is_cheaper ? index : best;
                least = is_cheaper ? sum : least;
            };
            const std::int32_t below = (static_cast<std::int32_t>(size) + static_cast<std::int32_t>(quantizer)) / 2;
            offer(below);
            offer(below + 1);
            if (below > 0) offer(below - 1);
            if (below > 1) offer(0);
        }
        return cost;
    }

    // Costs of reaching each state, less the least of them.
    std::array<float, dependent::kMostStates> advance(const std::array<float, dependent::kMostStates>& cost,
                                                      const Choices& cheapest, Step& step) const {
        std::array<float, dependent::kMostStates> next;
        next.fill(kNever);
        float least = kNever;
        for (std::size_t state = 0; state < machine_.states; ++state) {
            std::array<float, 2> sum;
            for (std::size_t way = 0; way < 2; ++way) {
                const std::size_t from = ways_[state][way] / 2, parity = ways_[state][way] % 2;
                sum[way] = cost[from] + cheapest[dependent::quantizer_of(from)][parity];
            }
            const bool second = sum[1] < sum[0];  // a branch would often be guessed wrong
            next[state] = second ? sum[1] : sum[0];
            step.from[state] = second ? ways_[state][1] : ways_[state][0];
            least = std::min(least, next[state]);
        }
        for (float& sum : next) sum = std::min(sum - least, kNever);
        return next;
    }

    const dependent::Machine& machine_;
    float rate_weight_;
    std::array<std::array<std::uint8_t, 2>, dependent::kMostStates> ways_;  // to each state, as in Step::from
    std::vector<Step> steps_;
};

// Fills the symbols of blocks that follow each other in a file.
inline void quantize(std::span<const Weights> blocks, double rate_weight, const dependent::Machine& machine) {
    constexpr std::array<std::size_t, 3> kStrides{4, 4, 1};  // of rows; the first passes are for the tables
    const std::vector<Scales> scales(blocks.begin(), blocks.end());
    Viterbi viterbi(machine, static_cast<float>(rate_weight));
    Rates rates;
    std::vector<std::uint8_t> bins;
    for (const std::size_t stride : kStrides) {
        Rates counted;
        for (std::size_t b = 0; b < blocks.size(); ++b) {
            const Weights& block = blocks[b];
            bins.resize(block.symbols.channels * block.symbols.kernel);
            for (std::size_t y = 0; y < block.symbols.rows; y += stride) {
                scales[b].bins_of_row(y, bins);
                const std::size_t first = y * bins.size();
                const float* importance = block.importance ? block.importance + first : nullptr;
                viterbi.run({block.values + first, importance, block.symbols.symbols + first, bins, block.most}, rates,
                            counted);
            }
        }
        counted.learn();
        rates = counted;
    }
}

}  // namespace metaq::trellis
