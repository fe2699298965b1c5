// Columns that make up for those before them, against the same done column by column.
#include "metaq/quantizers/second_order.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"

namespace {

using metaq::second_order::ColumnQuantizer;
using metaq::second_order::Columns;

constexpr std::size_t kColumns = 6, kRows = 10, kMatrices = 2;
constexpr float kMost = 1e9f;

struct Problem {
    std::vector<float> targets = std::vector<float>(kColumns * kRows);
    std::vector<float> shares = std::vector<float>(kMatrices * kColumns * kColumns);
    std::vector<float> scales = std::vector<float>(kColumns, 0.5f);
    std::vector<float> importances = std::vector<float>(kColumns * kRows, 1.0f);
    std::vector<float> row_levels = std::vector<float>(kRows);
    std::vector<std::int32_t> symbols = std::vector<std::int32_t>(kColumns * kRows);
    std::vector<float> errors = std::vector<float>(kColumns * kRows);

    Problem() {
        std::mt19937 generator(1);
        std::normal_distribution<float> normal;
        for (float& target : targets) target = 3 * normal(generator);
        for (float& share : shares) share = normal(generator);
    }

    Columns columns() {
        return {kColumns,
                kRows,
                kMatrices,
                targets.data(),
                shares.data(),
                scales.data(),
                importances.data(),
                row_levels.data(),
                symbols.data(),
                errors.data(),
                kMost};
    }

    // Some of the columns from `first` on, of which nothing moves another.
    Columns alone(std::size_t first, const float* no_shares) {
        Columns found = columns();
        found.columns = 1;
        found.shares = no_shares;
        found.targets += first * kRows;
        found.importances += first * kRows;
        found.symbols += first * kRows;
        found.errors += first * kRows;
        return found;
    }
};

}  // namespace

TEST(columns_make_up_for_those_before_them) {
    const auto& machine = metaq::dependent::kMachine[1];
    Problem together, by_hand;
    ColumnQuantizer(machine, 0).quantize(together.columns());
    const std::vector<float> no_shares(kMatrices);
    for (std::size_t j = 0; j < kColumns; ++j) {
        ColumnQuantizer(machine, 0).quantize(by_hand.alone(j, no_shares.data()));
        for (std::size_t k = j + 1; k < kColumns; ++k) {
            for (std::size_t i = 0; i < kRows; ++i) {
                const std::size_t matrix = i / (kRows / kMatrices);
                const float share = by_hand.shares[(matrix * kColumns + j) * kColumns + k];
                by_hand.targets[k * kRows + i] -= share * by_hand.errors[j * kRows + i];
            }
        }
    }
    CHECK(together.symbols == by_hand.symbols);
    for (std::size_t i = 0; i < together.errors.size(); ++i) {
        const float value = static_cast<float>(together.symbols[i]) * 0.5f;
        CHECK(std::abs(together.targets[i] - value - together.errors[i]) < 1e-5f);
    }
}

TEST(targets_that_are_no_numbers_are_told_by_their_errors) {
    Problem problem;
    problem.targets[3] = std::numeric_limits<float>::quiet_NaN();
    problem.targets[4] = std::numeric_limits<float>::infinity();
    ColumnQuantizer(metaq::dependent::kMachine[0], 0.4f).quantize(problem.columns());
    CHECK(!std::isfinite(problem.errors[3]));
    CHECK(!std::isfinite(problem.errors[4]));
}
