// A trellis down the columns of a matrix, error feedback across them.
//
// Columns are quantized one after the other, each by Viterbi's algorithm (metaq/quantizers/trellis.hpp) from its first row
// to its last. What is then missing of it moves the columns behind it: with a row's error of e in column j, the target of
// column k > j moves by -e * shares[j][k]. Columns are seen some at a time; the caller moves those behind these.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/base/dependent.hpp"
#include "metaq/quantizers/trellis.hpp"
#include "metaq/quantizers/trellis_rates.hpp"

namespace metaq::second_order {

// Columns, one after the other; of matrices on top of each other, whose rows are as many and whose shares differ.
struct Columns {
    std::size_t columns, rows, matrices;  // rows: of all matrices together
    float* targets;                       // in units of the rows' steps; moved
    const float* shares;                  // of each matrix, by column and column
    const float* scales;                  // of columns: their steps in units of the rows'
    const float* importances;             // of a squared error in units of its step, in the order of targets
    const float* row_levels;              // base-2 logarithms of how much larger a row is expected to be than others
    std::int32_t* symbols;                // to be filled
    float* errors;                        // to be filled: targets less values, in units of the rows' steps
    float most;                           // the largest value that may be, in units of the rows' steps
};

class ColumnQuantizer {
public:
    ColumnQuantizer(const dependent::Machine& machine, float rate_weight) : viterbi_(machine, rate_weight) {}

    void quantize(const Columns& block) {
        in_steps_.resize(block.rows);
        bins_.resize(block.rows);
        for (std::size_t j = 0; j < block.columns; ++j) {
            quantize_column(block, j);
            feed(block, j);
        }
        rates_.learn_from(counted_);
    }

private:
    void quantize_column(const Columns& block, std::size_t j) {
        const float* const target = block.targets + j * block.rows;
        const float scale = block.scales[j];
        double sum = 0;
        for (std::size_t i = 0; i < block.rows; ++i) {
            const float in_steps = target[i] / scale;
            in_steps_[i] = std::isfinite(in_steps) ? in_steps : 0;  // the error is as little finite as the target
            sum += std::abs(static_cast<double>(in_steps_[i]));
        }
        const auto level = static_cast<float>(std::log2(sum / static_cast<double>(block.rows) + 1e-6));
        for (std::size_t i = 0; i < block.rows; ++i) {
            bins_[i] = trellis::bin_at(4 * (level + block.row_levels[i] - trellis::kLowestOctave));
        }
        std::int32_t* const symbols = block.symbols + j * block.rows;
        const float in_steps = block.most / scale;
        const auto most = static_cast<std::int32_t>(in_steps > 0 ? std::min(in_steps, kSymbolLimit - 65.0f) : 0);
        const float* const importances = block.importances + j * block.rows;
        viterbi_.run({in_steps_.data(), importances, symbols, bins_, most}, rates_, counted_);
        float* const error = block.errors + j * block.rows;
        for (std::size_t i = 0; i < block.rows; ++i) error[i] = target[i] - static_cast<float>(symbols[i]) * scale;
    }

    void feed(const Columns& block, std::size_t j) {
        const std::size_t rows = block.rows / block.matrices;
        for (std::size_t m = 0; m < block.matrices; ++m) {
            const float* const share = block.shares + (m * block.columns + j) * block.columns;
            const float* const error = block.errors + j * block.rows + m * rows;
            for (std::size_t k = j + 1; k < block.columns; ++k) {
                float* const moved = block.targets + k * block.rows + m * rows;
                for (std::size_t i = 0; i < rows; ++i) moved[i] -= share[k] * error[i];
            }
        }
    }

    trellis::Viterbi viterbi_;
    trellis::Rates rates_, counted_;
    std::vector<float> in_steps_;
    std::vector<std::uint8_t> bins_;
};

}  // namespace metaq::second_order
