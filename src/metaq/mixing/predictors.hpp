// Linear predictions of a symbol from those before it, learned symbol by symbol by normalised least mean squares.
//
// Both predict v by w . x and then move w along (v - w . x) x / |x|^2. Predictions are in units of 1/256.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "metaq/base/buffer.hpp"
#include "metaq/base/logistic.hpp"

namespace metaq::mixing {

// Within a kernel: from the positions just before, with weights of each position's own. Filters are smooth, so this
// says much about the sign. The weights stay from block to block.
class KernelPredictor {
public:
    static constexpr std::size_t kTaps = 8;

    // For kernels of that size. Returns false if there is no memory.
    [[nodiscard]] bool make_room(std::size_t kernel) {
        return table_.resize(std::max(table_.size(), std::min(kernel, kPositions)));
    }

    // `before(n)` is the symbol n + 1 positions before, centred.
    template <class Before>
    std::int64_t predict(std::size_t position, Before before) {
        weights_ = &table_[std::min(position, kPositions - 1)];
        taps_ = std::min(position, kTaps);
        energy_ = 1;
        predicted_ = 0;
        for (std::size_t n = 0; n < taps_; ++n) {
            input_[n] = std::clamp<std::int64_t>(before(n), -32767, 32767);
            predicted_ += input_[n] * (*weights_)[n];
            energy_ += input_[n] * input_[n];
        }
        return predicted_ >>= 8;
    }

    void learn(std::int64_t value) {
        const std::int64_t miss = value * 256 - predicted_;
        const int shift = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(energy_))) + kRateShift;
        for (std::size_t n = 0; n < taps_; ++n) {
            auto& weight = (*weights_)[n];
            weight = static_cast<std::int32_t>(
                std::clamp<std::int64_t>(weight + (miss * input_[n] * 256 >> shift), -kLimit, kLimit));
        }
    }

private:
    static constexpr std::size_t kPositions = 64;
    static constexpr std::int64_t kLimit = 200000;  // weights are in units of 2^-16
    static constexpr int kRateShift = 6;            // a rate of 1/64

    Buffer<std::array<std::int32_t, kTaps>> table_;
    std::array<std::int32_t, kTaps>* weights_ = nullptr;  // of the position that was predicted last
    std::array<std::int64_t, kTaps> input_{};
    std::size_t taps_ = 0;
    std::int64_t energy_ = 1;
    std::int64_t predicted_ = 0;
};

// The weights of a RowPredictor, in units of 2^-24, 2^-8 of that used to predict. SparseWeights (sparse_memory.hpp) has the same face.
class DenseWeights {
public:
    // Makes all zero. Returns false if there is no memory.
    [[nodiscard]] bool start(std::size_t count) { return values_.assign_zeros(count); }
    bool is_out_of_memory() const { return false; }

    // The weighted sum of `count` inputs, whose weights begin at `first`.
    std::int32_t sum(std::size_t first, const std::int16_t* input, std::size_t count) {
        const std::int32_t* weight = &values_[first];
        std::int32_t sum = 0;
        for (std::size_t n = 0; n < count; ++n)
            sum += std::int32_t{input[n]} * static_cast<std::int16_t>(weight[n] >> 8);
        return sum;
    }

    void learn(std::size_t first, const std::int16_t* input, std::size_t count, std::int16_t factor) {
        std::int32_t* weight = &values_[first];
        for (std::size_t n = 0; n < count; ++n) weight[n] = moved(weight[n], input[n], factor);
    }

    // Where the input is zero, the weight stays as it is.
    static std::int32_t moved(std::int32_t weight, std::int16_t input, std::int16_t factor) {
        const std::int32_t next = weight + ((std::int32_t{input} * factor + 32) >> 6);
        return std::clamp(next, -logistic::kWeightLimit, logistic::kWeightLimit);
    }

private:
    Buffer<std::int32_t> values_;
};

// Within a row of a matrix: from up to 384 columns before, with weights of each column's own. The columns of an embedding
// are correlated, and it has rows enough to learn how.
template <class Weights>
class RowPredictor {
public:
    static bool suits(std::size_t rows, std::size_t channels, std::size_t kernel) {
        return kernel == 1 && channels > 1 && channels <= kColumnLimit && 2 * rows > channels;
    }

    // Returns false if there is no memory.
    [[nodiscard]] bool start_block(std::size_t columns) {
        taps_ = std::min({columns, kTaps, kWeightCount / columns});
        return weights_.start(columns * taps_) && line_.assign_zeros(columns);
    }

    bool is_out_of_memory() const { return weights_.is_out_of_memory(); }

    // `mean` is that of the magnitudes so far. Where it is large, symbols are shifted down, so that sums stay within 32 bits.
    void start_row(std::size_t row, std::uint64_t mean) {
        shift_ = std::max(0, static_cast<int>(std::bit_width(mean)) - 5);
        rate_ = kRateLast + 8 * kRateLast * kRateHalf /
                                static_cast<std::int64_t>(kRateHalf + 8 * std::min<std::size_t>(row, 1 << 20));
        energy_ = 0;
    }

    std::int64_t predict(std::size_t column) {
        first_ = column - std::min(column, taps_);
        count_ = column - first_;
        if (first_ > 0) energy_ -= std::int32_t{line_[first_ - 1]} * line_[first_ - 1];
        const std::int32_t sum = weights_.sum(column * taps_, &line_[first_], count_);
        return predicted_ = std::int64_t{sum >> 8} * (std::int64_t{1} << shift_);
    }

    void learn(std::size_t column, std::int64_t value) {
        const std::int64_t miss = std::clamp<std::int64_t>((value * 256 - predicted_) >> shift_, -4096, 4096);
        const auto factor =
            static_cast<std::int16_t>(std::clamp<std::int64_t>(miss * rate_ * 16 / (energy_ + 64), -32767, 32767));
        weights_.learn(column * taps_, &line_[first_], count_, factor);
        const std::int64_t now = std::clamp<std::int64_t>(value >> shift_, -127, 127);
        line_[column] = static_cast<std::int16_t>(now);
        energy_ += now * now;
    }

private:
    static constexpr std::size_t kTaps = 384;
    static constexpr std::size_t kColumnLimit = 1 << 16;
    static constexpr std::size_t kWeightCount = 1 << 20;
    static constexpr std::int64_t kRateLast = 3000;
    static constexpr std::int64_t kRateHalf = 2000;

    Weights weights_;
    Buffer<std::int16_t> line_;  // the row so far
    std::size_t taps_ = 0, first_ = 0, count_ = 0;
    std::int64_t predicted_ = 0, energy_ = 0, rate_ = 0;
    int shift_ = 0;
};

}  // namespace metaq::mixing
