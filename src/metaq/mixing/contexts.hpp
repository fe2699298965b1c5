// Contexts of a symbol, from what is known before it is coded: running means of magnitudes, its neighbours, and predictions.
//
// The expected magnitude is a product of powers of the means over the row, the column, the kernel position and the
// channel so far, each relative to the block's mean, all in logarithms. Means of rows also tell those of the channels of
// the next block that takes its input from this one: dead filters are dead channels there.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "metaq/base/buffer.hpp"
#include "metaq/base/logistic.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/mixing/model.hpp"
#include "metaq/mixing/predictors.hpp"

namespace metaq::mixing {

inline constexpr std::int64_t kMeanOne = 1 << 20;
inline constexpr std::int64_t kMagnitudeLimit = 1 << 20;  // larger ones count as this in the means

// The bin of a logarithm of a mean, which is in units of 2^-20: bin 0 is a mean of 2^-11 and below.
inline std::size_t bin_of(int level, int steps_an_octave, std::size_t bins) {
    return static_cast<std::size_t>(
        std::clamp((level - 9 * 256) * steps_an_octave >> 8, 0, static_cast<int>(bins) - 1));
}

// A mean that starts at a guess worth `count` values and forgets beyond `limit` of them.
class RunningMean {
public:
    RunningMean() = default;
    RunningMean(std::int64_t mean, unsigned count) : count_(count), mean_(mean) {}

    std::int64_t mean() const { return mean_; }

    void add(std::int64_t value, unsigned limit) {
        mean_ += (value * kMeanOne - mean_) * logistic::kReciprocals[count_] >> 16;
        restart(std::min(count_ + 1u, limit));
    }
    // What was seen counts for so many values, at most 1023.
    void restart(unsigned count) { count_ = count & kMostCounts; }
    unsigned count() const { return count_; }

    int level() const { return logistic::log2_fixed(static_cast<std::uint64_t>(mean_ + 64)); }

private:
    static constexpr unsigned kMostCounts = 1023;
    std::uint64_t count_ : 10 = 0;
    std::int64_t mean_ : 54 = 0;  // below 2^47
};

struct Column {
    RunningMean magnitude;
    RunningMean value;

    // How far the column's values lean to one sign: 0 ... 8, 4 for neither.
    std::size_t lean() const {
        const std::int64_t size = 8 * std::abs(value.mean());
        const std::int64_t unit = magnitude.mean();
        const auto steps =
            static_cast<std::size_t>((size > unit) + (size > 2 * unit) + (size > 4 * unit) + (size > 6 * unit));
        return value.mean() < 0 ? 4 - steps : 4 + steps;
    }
};

struct Position {
    std::size_t row, channel, kernel, column;
};

struct Neighbours {
    std::int32_t left, up,
        above;  // in the kernel (or the row, without one), in the kernel, in the row before; 0 outside
};

// The expectations of one symbol.
struct Expectation {
    int row, column, channel, all;  // logarithms of means; that of the channel if there are kernels
    int magnitude;                  // logarithm of the product
    std::int64_t value;             // in 1/256
    std::size_t lean;               // value against magnitude: 0 ... 20, 10 for neither
};

template <class Weights>
class BasicHistory {
public:
    // For a block of that shape: all but what it predicts rows with. Returns false if there is no memory.
    [[nodiscard]] bool make_room(std::size_t rows, std::size_t channels, std::size_t kernel) {
        // Without kernels, a channel is a column.
        return columns_.resize(std::min(channels * kernel, kColumns)) &&
               channels_.resize(kernel > 1 ? std::min(channels, kColumns) : 0) &&
               positions_.resize(std::min(kernel, kPositions)) && row_means_.resize(rows > kColumns ? 0 : rows) &&
               kernel_predictor_.make_room(kernel);
    }

    // The status is ok or no_memory.
    [[nodiscard]] Status start_block(std::size_t rows, std::size_t channels, std::size_t kernel) {
        spatial_ = kernel > 1;
        predicts_row_ = RowPredictor<Weights>::suits(rows, channels, kernel);
        if (predicts_row_ && !row_predictor_.start_block(channels)) return Status::no_memory;
        // The block's first row sets what these hold.
        if (!make_room(rows, channels, kernel)) return Status::no_memory;
        group_ = channels > 1 && before_count_ > 0 && channels % before_count_ == 0 ? channels / before_count_ : 0;
        rows_ = rows;
        row_size_ = channels * kernel;
        all_.restart(std::min(all_.count(), 4u));
        filled_.restart(0);
        sum_ = 0;
        return Status::ok;
    }

    // Whether memory ran out: what was expected after that means nothing.
    bool is_out_of_memory() const { return row_predictor_.is_out_of_memory(); }

    void start_row(std::size_t row) {
        row_mean_ = {all_.mean(), 2};
        first_row_ = row == 0;
        if (predicts_row_) row_predictor_.start_row(row, static_cast<std::uint64_t>(all_.mean()) >> 20);
    }

    template <class Before>
    Expectation expect(const Position& at, Before before) {
        source_ = group_ ? before_[at.channel / group_] : 0;
        if (first_row_) guess_means(at);
        Expectation expected;
        expected.row = row_mean_.level();
        expected.column = column(at).magnitude.level();
        expected.all = all_.level();
        int sum = (expected.row - expected.all) * kRowPower + (expected.column - expected.all) * kColumnPower;
        if (spatial_) {
            expected.channel = channel(at).level();
            sum += (position(at).level() - expected.all) * kPositionPower +
                   (expected.channel - expected.all) * kChannelPower;
            expected.value = kernel_predictor_.predict(at.kernel, before);
        } else {
            expected.value = predicts_row_ ? row_predictor_.predict(at.column) : 0;
        }
        expected.magnitude = std::clamp(expected.all + (sum >> 8), 0, 45 * 256);
        expected.lean = lean(expected);
        return expected;
    }

    Contexts zero_contexts(const Expectation& expected, const Neighbours& near, std::size_t quantizer) const {
        Contexts contexts = shared(expected);
        const std::size_t scale = contexts.scale;
        const int input = spatial_ ? expected.channel : expected.column;
        contexts.value = {bin_of(expected.magnitude, 4, kEstimateBins),
                          (size_class(near.left) * 6 + size_class(near.up)) * kScales + scale,
                          leaning(expected) * 64 + scale * 2,
                          source_bin() * kScales + bin_of(expected.row, 2, kScales),
                          exact(near.left, near.above),
                          bin_of(expected.row, 3, 64) * 20 +
                              static_cast<std::size_t>(std::clamp(((input - expected.all) >> 6) + 10, 0, 19))};
        if (quantizer == 1) {
            for (auto& value : contexts.value) value += kOtherBase;
        }
        return contexts;
    }

    Contexts sign_contexts(const Expectation& expected, const Neighbours& near, const Position& at) const {
        Contexts contexts = shared(expected);
        const std::size_t scale = contexts.scale;
        const std::size_t signs = (sign_class(near.left) * 3 + sign_class(near.up)) * 9 + sign_class(near.above);
        contexts.value = {signs,
                          expected.lean * 64 + std::min<std::size_t>(at.kernel, 31),
                          expected.lean * kScales + scale,
                          columns_[at.column % kColumns].lean() * kScales + scale,
                          exact(near.left, near.above),
                          exact(near.left, near.up)};
        return contexts;
    }

    // Turns the contexts of a symbol that is not zero, and whose sign is known, to its magnitude: how large such symbols were.
    void turn_to_magnitude(Contexts& contexts, const Expectation& expected, bool negative,
                           std::size_t quantizer) const {
        const int filled = filled_.level();
        contexts.value[0] = kFilledBase +
                            bin_of(std::max(expected.magnitude, filled - kFilledMargin), 4, kEstimateBins);
        contexts.value[2] += expected.lean != kNoLean && negative == (expected.lean < kNoLean);
        contexts.value[5] = kFilledContexts + bin_of(filled, 3, 64) * 2 + negative;
        if (quantizer == 1) {
            contexts.value[0] += kOtherBase;
            contexts.value[5] += kOtherFilled;
        }
    }

    void learn(const Position& at, std::int64_t magnitude, bool negative) {
        magnitude = std::min(magnitude, kMagnitudeLimit);
        const std::int64_t value = negative ? -magnitude : magnitude;
        if (spatial_) kernel_predictor_.learn(value);
        if (predicts_row_) row_predictor_.learn(at.column, value);
        if (magnitude > 0) filled_.add(magnitude, 394);
        all_.add(magnitude, 1000);
        row_mean_.add(magnitude, 1000);
        column(at).magnitude.add(magnitude, 653);
        column(at).value.add(value, 653);
        if (!spatial_) return;
        channel(at).add(magnitude, 195);
        position(at).add(magnitude, 1000);
    }

    // Keeps the row's mean for the next block's channels.
    void end_row(std::size_t row) {
        if (row_size_ == 1 || rows_ > kColumns) return;
        row_means_[row] = row_mean_.mean();
        sum_ += row_mean_.mean();
    }

    void end_block() {
        if (row_size_ == 1) return;
        before_count_ = rows_ > kColumns ? 0 : rows_;
        before_mean_ = sum_ / static_cast<std::int64_t>(rows_);
        before_.swap(row_means_);
    }

private:
    static constexpr std::size_t kColumns = 1 << 16;    // columns, channels and rows beyond share the means of others
    static constexpr std::size_t kPositions = 1 << 12;  // and so do kernel positions
    static constexpr int kRowPower = 160;               // powers of the product, in 1/256
    static constexpr int kColumnPower = 128;
    static constexpr int kPositionPower = 50;
    static constexpr int kChannelPower = 90;
    static constexpr std::int64_t kGuessLimit = 64 << 16;  // no channel starts at more than 64 times the row's mean
    static constexpr int kFilledMargin = 410;
    static constexpr std::size_t kFilledContexts = 3000;
    static constexpr std::size_t kOtherFilled = 256;
    static constexpr std::size_t kOtherBase = 1500;  // added to contexts of quantizer 1
    static constexpr std::size_t kNoLean = 10;

    Column& column(const Position& at) { return columns_[at.column % kColumns]; }
    RunningMean& channel(const Position& at) { return channels_[at.channel % kColumns]; }
    RunningMean& position(const Position& at) { return positions_[at.kernel % kPositions]; }

    // In the first row, means start at the row's, scaled by what the block before says of the channel.
    void guess_means(const Position& at) {
        std::int64_t guess = row_mean_.mean();
        if (group_)
            guess = guess * std::min<std::int64_t>(((source_ + 64) << 16) / (before_mean_ + 64), kGuessLimit) >> 16;
        column(at) = {{guess, 8}, {0, 8}};
        if (!spatial_) return;
        if (at.kernel == 0) channel(at) = {guess, 0};
        if (at.channel == 0) position(at) = {guess, 8};
    }

    static std::size_t lean(const Expectation& expected) {
        const auto size = static_cast<std::uint64_t>(expected.value < 0 ? -expected.value : expected.value);
        const int ratio = logistic::log2_fixed(size * 4096 + 1) - expected.magnitude;
        const int steps = std::clamp((ratio + 3 * 256) >> 7, -1, 9) + 1;
        return kNoLean + static_cast<std::size_t>(expected.value < 0 ? -steps : steps);
    }

    std::size_t leaning(const Expectation& expected) const {
        if (!spatial_ && !predicts_row_) return 0;
        return static_cast<std::size_t>(1 +
                                        (expected.lean < kNoLean ? kNoLean - expected.lean : expected.lean - kNoLean));
    }

    static Contexts shared(const Expectation& expected) {
        return {{}, expected.lean, bin_of(expected.magnitude, 2, kScales)};
    }

    std::size_t source_bin() const {
        if (!group_) return 0;
        const int ratio = RunningMean{source_, 0}.level() - RunningMean{before_mean_, 0}.level();
        return static_cast<std::size_t>(1 + std::clamp((ratio >> 8) + 6, 0, 12));
    }

    static std::size_t size_class(std::int32_t value) {
        const std::int64_t size = value < 0 ? -std::int64_t{value} : value;
        return size < 3 ? static_cast<std::size_t>(size) : size < 5 ? 3 : size < 9 ? 4 : 5;
    }
    static std::size_t sign_class(std::int32_t value) {
        return static_cast<std::size_t>((value > 0) - (value < 0) + 1);
    }
    static std::size_t exact(std::int32_t first, std::int32_t second) {
        return static_cast<std::size_t>((std::clamp<std::int32_t>(first, -7, 7) + 7) * 15 +
                                        std::clamp<std::int32_t>(second, -7, 7) + 7);
    }

    RunningMean all_{kMeanOne, 2};
    RunningMean filled_{3 * kMeanOne, 0};
    RunningMean row_mean_;
    Buffer<Column> columns_;
    Buffer<RunningMean> channels_;
    Buffer<RunningMean> positions_;
    Buffer<std::int64_t> before_;     // the row means of the last block of more than one column
    Buffer<std::int64_t> row_means_;  // of this one
    std::size_t before_count_ = 0;
    std::int64_t before_mean_ = 0, sum_ = 0, source_ = 0;
    std::size_t rows_ = 0, row_size_ = 0, group_ = 0;
    bool spatial_ = false, predicts_row_ = false, first_row_ = false;
    KernelPredictor kernel_predictor_;
    RowPredictor<Weights> row_predictor_;
};

using History = BasicHistory<DenseWeights>;

}  // namespace metaq::mixing
