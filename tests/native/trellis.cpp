// The trellis against all paths there are, and the mixing coder's eye for what comes out of it.
#include "metaq/quantizers/trellis.hpp"

#include <cmath>
#include <limits>

#include "check.hpp"
#include "coder_suite.hpp"
#include "metaq/mixing/coder.hpp"

namespace {

using namespace metaq;

std::vector<float> laplacian(std::size_t count, float scale, std::uint64_t seed) {
    check::Random random(seed);
    std::vector<float> values;
    for (std::size_t i = 0; i < count; ++i) {
        const double uniform = (static_cast<double>(random.below(1 << 20)) + 0.5) / (1 << 20);
        values.push_back(static_cast<float>((random.below(2) == 0 ? -1 : 1) * scale * std::log(uniform)));
    }
    return values;
}

struct Problem {
    const dependent::Machine& machine;
    float rate_weight;
    const trellis::Rates& rates;
    trellis::Row row;
};

// The least cost of the row from weight `i` on.
float least_cost(const Problem& problem, std::size_t i, std::size_t state) {
    if (i == problem.row.bins.size()) return 0;
    const std::size_t quantizer = dependent::quantizer_of(state);
    const float size = std::abs(problem.row.values[i]);
    float least = std::numeric_limits<float>::infinity();
    for (std::int64_t index = 0; index < 5; ++index) {
        const std::int64_t symbol = dependent::symbol_of(index, quantizer);
        if (symbol > problem.row.most) continue;
        const float miss = size - static_cast<float>(symbol);
        const float cost = problem.row.importance[i] * miss * miss +
                           problem.rate_weight * problem.rates.bits(quantizer, problem.row.bins[i], index);
        least = std::min(least, cost + least_cost(problem, i + 1, problem.machine.next[state][index & 1]));
    }
    return least;
}

// What the row's symbols cost; infinity if they are no path.
float cost_of(const Problem& problem) {
    float sum = 0;
    std::size_t state = 0;
    for (std::size_t i = 0; i < problem.row.bins.size(); ++i) {
        const std::int64_t magnitude = std::abs(problem.row.symbols[i]);
        const std::size_t quantizer = dependent::quantizer_of(state);
        const std::int64_t index = dependent::index_of(magnitude);
        if (dependent::symbol_of(index, quantizer) != magnitude || magnitude > problem.row.most)
            return std::numeric_limits<float>::infinity();
        const float miss = problem.row.values[i] - static_cast<float>(problem.row.symbols[i]);
        sum += problem.row.importance[i] * miss * miss +
               problem.rate_weight * problem.rates.bits(quantizer, problem.row.bins[i], index);
        state = problem.machine.next[state][index & 1];
    }
    return sum;
}

}  // namespace

TEST(trellis_finds_the_cheapest_path) {
    const trellis::Rates rates;
    for (std::uint64_t seed = 0; seed < 24; ++seed) {
        std::vector<float> values = laplacian(7, 1.5f, seed);
        for (float& value : values) value = std::clamp(value, -3.0f, 3.0f);  // small, so that no index is left untried
        std::vector<float> importance(7, 1);
        if (seed % 3 == 0) importance = {0, 1, 5, 0.25f, 1, 2, 1};
        const std::vector<std::uint8_t> bins{20, 22, 24, 26, 28, 30, 25};
        const std::int32_t most = seed % 4 == 0 ? 3 : 100;
        for (const auto& machine : dependent::kMachine) {
            for (const float rate_weight : {0.0f, 0.4f, 3.0f}) {
                std::vector<std::int32_t> symbols(7);
                trellis::Rates counted;
                const Problem problem{
                    machine, rate_weight, rates, {values.data(), importance.data(), symbols.data(), bins, most}};
                trellis::Viterbi(machine, rate_weight).run(problem.row, rates, counted);
                CHECK(std::abs(cost_of(problem) - least_cost(problem, 0, 0)) < 1e-3f);
            }
        }
    }
}

TEST(trellis_gains_a_decibel) {
    const std::vector<float> values = laplacian(1 << 16, 4, 1);
    std::vector<std::int32_t> symbols(values.size());
    const trellis::Weights weights{values.data(), nullptr, {symbols.data(), 64, 1024, 1}, kSymbolLimit - 1};
    std::array<double, dependent::kMachines> errors{};
    for (std::size_t m = 0; m < dependent::kMachines; ++m) {
        trellis::quantize({&weights, 1}, 0, dependent::kMachine[m]);
        for (std::size_t i = 0; i < values.size(); ++i)
            errors[m] += std::pow(values[i] - static_cast<float>(symbols[i]), 2);
        errors[m] /= static_cast<double>(values.size());
        CHECK(dependent::machine_of({symbols.data(), 64, 1024, 1}) == m + 1);
    }
    CHECK(errors[0] < 0.262);  // of 1/3 that multiples of two steps have: 1 dB
    CHECK(errors[1] < 0.257);
}

TEST(no_symbols_are_dependent_by_accident) {
    const std::vector<std::int32_t> even{0, 2, 0, 0, 0, 0};  // a path, but a short one
    CHECK(dependent::machine_of({even.data(), 1, 6, 1}) == 0);
    check::Random random(3);
    std::vector<std::int32_t> free;
    for (std::size_t i = 0; i < 1000; ++i) free.push_back(static_cast<std::int32_t>(random.below(5)) - 2);
    CHECK(dependent::machine_of({free.data(), 10, 100, 1}) == 0);
}

TEST(indices_and_symbols) {
    for (std::int64_t index = 0; index < 100; ++index) {
        for (std::size_t quantizer = 0; quantizer < 2; ++quantizer) {
            CHECK(dependent::index_of(dependent::symbol_of(index, quantizer)) == index);
        }
    }
    for (const auto& machine : dependent::kMachine) {
        std::array<int, dependent::kMostStates> reached{};
        for (std::size_t state = 0; state < machine.states; ++state) {
            for (const std::uint8_t next : machine.next[state]) ++reached[next];
        }
        for (std::size_t state = 0; state < machine.states; ++state) CHECK(reached[state] == 2);
    }
}

TEST(rates_are_code_lengths) {
    trellis::Rates rates;
    for (int round = 0; round < 2; ++round) {
        for (const std::size_t bin : {0u, 20u, 40u}) {
            for (std::size_t quantizer = 0; quantizer < 2; ++quantizer) {
                double sum = 0;
                for (std::int64_t index = 0; index < 5000; ++index)
                    sum += std::exp2(-rates.bits(quantizer, bin, index)) * (index > 0 ? 2 : 1);
                CHECK(sum < 1.001);
                CHECK(sum > 0.95);
            }
        }
        for (std::int64_t index = 0; index < 200; ++index) rates.count(1, 20, index % 9);
        rates.learn();
    }
    CHECK(rates.bits(1, 20, 3) < trellis::Rates().bits(1, 20, 3));
}
