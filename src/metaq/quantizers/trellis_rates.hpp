// What the trellis takes for the length of an index: tables by quantizer and expected magnitude.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "metaq/base/dependent.hpp"
#include "metaq/mixing/model.hpp"

namespace metaq::trellis {

inline constexpr std::size_t kBins = 80;  // expected magnitudes, four an octave, from kLowestOctave on
inline constexpr int kLowestOctave = -6;
inline constexpr std::size_t kClasses =
    32;  // zero and the mixing coder's classes of magnitudes, the last for all later ones
inline constexpr std::size_t kListed = 1024;  // indices whose classes are listed

// A bin's number from where it lies between the least and the greatest; of what is no number, the least.
inline std::uint8_t bin_at(float place) {
    return static_cast<std::uint8_t>(place > 0 ? std::min(place, static_cast<float>(kBins - 1)) : 0);
}

struct Class {
    std::size_t number = 0;
    std::int64_t lower = 0;
    float place_bits = 0;  // of an index within it
};

inline Class class_of(std::int64_t index) {
    if (index == 0) return {};
    Class found{1, 1, 0};
    while (index >= found.lower + mixing::class_width(found.lower)) {
        found.lower += mixing::class_width(found.lower);
        ++found.number;
    }
    found.place_bits = std::log2(static_cast<float>(mixing::class_width(found.lower)));
    return found;
}

class Rates {
public:
    Rates() {
        for (std::size_t i = 0; i < kListed; ++i) classes_[i] = class_of(static_cast<std::int64_t>(i));
        learn();
    }

    void count(std::size_t quantizer, std::size_t bin, std::int64_t index) {
        ++counts_[quantizer][bin][std::min(found(index).number, kClasses - 1)];
    }

    // Code lengths from what was counted and the guess, which weighs as much as a few counts. The counts start anew.
    void learn() {
        for (std::size_t quantizer = 0; quantizer < 2; ++quantizer) {
            for (std::size_t bin = 0; bin < kBins; ++bin) learn(quantizer, bin);
        }
        counts_ = {};
    }

    // Code lengths from all that was counted by others, which go on counting; at least as many as there were guessed.
    void learn_from(const Rates& others) {
        counts_ = others.counts_;
        learn();
    }

    // In bits, with the sign.
    float bits(std::size_t quantizer, std::size_t bin, std::int64_t index) const {
        const Class of_index = found(index);
        const std::size_t number = std::min(of_index.number, kClasses - 1);
        return bits_[quantizer][bin][number] + of_index.place_bits + static_cast<float>(of_index.number - number);
    }

private:
    static constexpr float kGuessCount = 4;
    // Where zero ends, in steps. That quantizer 1 seldom takes zero is what rates settle at after many passes.
    static constexpr std::array<float, 2> kZeroEnds{0.8f, 0.05f};

    void learn(std::size_t quantizer, std::size_t bin) {
        const auto& count = counts_[quantizer][bin];
        float reached = 0, spent = 0;
        for (const std::uint32_t of_class : count) reached += static_cast<float>(of_class);
        std::int64_t lower = 0;
        for (std::size_t number = 0; number < kClasses; ++number) {
            const float above = reached - static_cast<float>(count[number]);
            const float p = (above + kGuessCount * guessed_above(quantizer, bin, lower)) / (reached + kGuessCount);
            bits_[quantizer][bin][number] = spent - std::log2(1 - p) + (number > 0);
            spent -= std::log2(p);
            reached = above;
            lower += lower == 0 ? 1 : mixing::class_width(lower);
        }
    }

    // How likely an index is above a class, of those in it and above: for Laplacian weights of the bin's mean magnitude.
    static float guessed_above(std::size_t quantizer, std::size_t bin, std::int64_t lower) {
        const float mean = std::exp2(static_cast<float>(bin) / 4 + kLowestOctave);
        float width = lower == 0 ? kZeroEnds[quantizer] : 2 * static_cast<float>(mixing::class_width(lower));
        if (lower == 1 && quantizer == 1) width -= 0.5f;
        return std::clamp(std::exp(-width / mean), 1e-4f, 1 - 1e-4f);
    }

    Class found(std::int64_t index) const {
        return index < static_cast<std::int64_t>(kListed) ? classes_[static_cast<std::size_t>(index)] : class_of(index);
    }

    std::array<Class, kListed> classes_;
    std::array<std::array<std::array<std::uint32_t, kClasses>, kBins>, 2> counts_{};
    std::array<std::array<std::array<float, kClasses>, kBins>, 2> bits_{};
};

// Magnitudes expected of a block's weights, as logarithms: that of the row, and what column, position and channel add.
class Scales {
public:
    // Anything with `values` and the shape of `symbols`.
    template <class Weights>
    explicit Scales(const Weights& weights)
        : rows_(weights.symbols.rows), columns_(weights.symbols.channels * weights.symbols.kernel) {
        const auto& block = weights.symbols;
        std::vector<double> columns(columns_.size()), channels(block.channels), positions(block.kernel);
        const float* value = weights.values;
        double all = 0;
        for (float& row : rows_) {
            double sum = 0;
            for (double& column : columns) {
                const double size = std::abs(static_cast<double>(*value++));
                sum += size;
                column += size;
            }
            all += sum;
            row = level(sum, columns.size());
        }
        for (std::size_t i = 0; i < columns.size(); ++i) {
            channels[i / block.kernel] += columns[i];
            positions[i % block.kernel] += columns[i];
        }
        const float mean = level(all, rows_.size() * columns.size());
        for (std::size_t i = 0; i < columns.size(); ++i) {
            columns_[i] = kColumnPower * (level(columns[i], rows_.size()) - mean);
            if (block.kernel == 1) continue;
            columns_[i] += kPositionPower * (level(positions[i % block.kernel], rows_.size() * block.channels) - mean);
            columns_[i] += kChannelPower * (level(channels[i / block.kernel], rows_.size() * block.kernel) - mean);
        }
    }

    void bins_of_row(std::size_t row, std::vector<std::uint8_t>& bins) const {
        for (std::size_t i = 0; i < columns_.size(); ++i) {
            bins[i] = bin_at(4 * (rows_[row] + columns_[i] - kLowestOctave));
        }
    }

private:
    static constexpr float kColumnPower = 0.5f, kPositionPower = 0.2f, kChannelPower = 0.35f;  // as the mixing coder's

    static float level(double sum, std::size_t count) {
        return static_cast<float>(std::log2(sum / static_cast<double>(count) + 1e-6));
    }

    std::vector<float> rows_, columns_;
};

}  // namespace metaq::trellis
