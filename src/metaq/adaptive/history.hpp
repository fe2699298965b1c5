// What the adaptive coder expects of a symbol, from those before it: a level, log2 of its magnitude, and a value.
//
// Rows go in bands of four, symbol by symbol side by side, so that a processor need not wait for one to be known. A level is
// the sum of those of all symbols, the row, the column, the channel and the kernel position, and of a row's last few symbols.
// Each learns by how much magnitudes exceed what was expected. A value is predicted from those before in the kernel, or in the
// row of a matrix, and from the mean of the matrix's column so far, by normalised least mean squares; each kernel position has
// weights of its own. Symbols come in groups, a kernel or some columns of a matrix, of each row of the band; but for the level
// of the last few, levels and weights learn only when a group is complete.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "metaq/adaptive/lanes.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/logistic.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/base/table.hpp"

namespace metaq::adaptive {

inline constexpr std::size_t kGroup = 64;        // symbols of a row at most
inline constexpr std::size_t kMatrixGroup = 16;  // columns of a matrix
inline constexpr int kLevelOne = 1 << 16;        // an octave
inline constexpr int kLeastLevel = -4 * kLevelOne;

// Entry i is the inverse of a magnitude and a quarter more by the magnitude's level without its last bits, in units in which
// that of the least magnitude, 2^(kLeastLevel / kLevelOne), is 2^31. What is expected of symbols that are mostly zero changes by
// the quarter little with each zero, and not beyond measure with one that is not.
METAQ_MAKES_TABLE std::array<std::uint32_t, kLevels> make_scales() {
    std::array<std::uint32_t, kLevels> table{};
    std::uint64_t power = std::uint64_t{1} << 31;
    for (std::uint32_t& entry : table) {
        constexpr std::uint64_t kOne = std::uint64_t{1} << 31;
        entry = static_cast<std::uint32_t>((power << 31) / (kOne + (power << -kLeastLevel / kLevelOne) / 4));
        power = power * 4112874773u >> 32;
    }
    return table;
}
inline METAQ_TABLE auto kScales = make_scales();

// How fast something learns: by power / 256 of its n-th observation's share, n counted from `start` up to `limit`.
struct Rate {
    int power;
    std::size_t start, limit;

    // In units of 2^-16.
    int at(std::size_t n) const {
        const std::uint32_t share = logistic::kReciprocals[std::min(n + start, limit)];
        return static_cast<int>(static_cast<std::uint32_t>(power) * share >> 8);
    }
};
inline constexpr Rate kAllRate{16, 4, 1000}, kRowRate{440, 3, 1000}, kColumnRate{112, 16, 200}, kChannelRate{80, 8, 96},
    kPositionRate{104, 48, 1000}, kMeanRate{256, 8, 650};

// How the level of a row's last few symbols follows them: by so many times their excess, of which each symbol that follows
// takes away 2^-fall.
struct Recency {
    int times, fall;
};
inline constexpr Recency kKernelRecency{32, 3}, kMatrixRecency{12, 4};

// Large values are known up to a unit of 2^shift only, so that products of two stay within 32 bits.
struct Expected {
    Int16Lanes level;  // less kLeastLevel, without its last bits, below kLevels
    Int32Lanes scale;  // kScales of that
    Int32Lanes value;  // in 1/256 of the unit
    int shift = 0;

    constexpr int scale_shift() const { return 31 + kLeastLevel / kLevelOne - shift; }

    // How many times the expected magnitude and a quarter another is, in 1/256; it is in 1/256 of the unit.
    std::uint64_t times(std::size_t lane, std::uint32_t magnitude) const {
        return std::uint64_t{magnitude} * static_cast<std::uint32_t>(scale[lane]) >> scale_shift();
    }
};

// Predicts values of a band from the eight before each in its kernel, or in the row of a matrix from the seven before and the
// mean of its column.
class Predictor {
public:
    // Kernels of other sizes follow, or a matrix, which has no weights yet.
    void start_block(bool is_matrix) {
        is_matrix_ = is_matrix;
        if (is_matrix) weights_[0] = {};
    }

    // The values of other kernels or rows follow.
    void start() {
        std::fill_n(known_.begin(), kTaps, Int16Lanes{});
        std::fill_n(squares_.begin(), kTaps, 0);
        energy_ = 0;
    }

    // They go on behind a group of that size.
    void go_on(std::size_t size) {
        std::copy_n(known_.begin() + static_cast<std::ptrdiff_t>(size), kTaps, known_.begin());
        std::copy_n(squares_.begin() + static_cast<std::ptrdiff_t>(size), kTaps, squares_.begin());
    }

    // The first of the values that the group's i-th is predicted from: the eighth before it.
    void take_eighth(std::size_t i) {
        first_[i] = known_[i];
        energies_[i] = energy_;
    }

    // Or the mean of the column in `lanes` rows, in 1/4 of the unit.
    void take_mean(std::size_t i, std::int64_t mean, std::size_t lanes) {
        const auto used = static_cast<std::int16_t>(std::clamp<std::int64_t>(mean, -kValueLimit, kValueLimit));
        first_[i].fill(used);
        energies_[i] = energy_ - squares_[i] + static_cast<std::int32_t>(lanes) * used * used;
    }

    // In 1/256 of the unit, once the first value is taken.
    Int32Lanes predict(std::size_t i, std::size_t position) const {
        return weighted(first_[i], &known_[i + 1], weights_[of(position)], 8 - kUsedShift);
    }

    void note(std::size_t i, const Noted& noted) {
        energy_ += noted.energy - squares_[i];
        squares_[i + kTaps] = noted.energy;
        known_[i + kTaps] = noted.known;
        misses_[i] = noted.misses;
    }

    // Weights of a matrix serve all its symbols, and learn from each a quarter as fast as those of one position.
    void learn(std::size_t i, std::size_t position) {
        const int shift = static_cast<int>(std::bit_width(static_cast<std::uint32_t>(energies_[i]) + 15)) -
                          (is_matrix_ ? 2 : 4);
        adaptive::learn(weights_[of(position)], first_[i], &known_[i + 1], misses_[i], shift);
    }

private:
    static constexpr std::size_t kPositions = 64;

    // Which weights are those of a position. The first of a kernel has no values before it, so matrices have its place.
    std::size_t of(std::size_t position) const { return is_matrix_ ? 0 : std::min(position, kPositions - 1); }

    bool is_matrix_ = false;
    std::array<Weights, kPositions> weights_;
    std::array<Int16Lanes, kTaps + kGroup> known_{};  // the values before a group, and its own
    std::array<Int16Lanes, kGroup> first_;            // of what the group's are predicted from
    std::array<std::int32_t, kTaps + kGroup> squares_{};
    std::array<Int16Lanes, kGroup> misses_;      // by how much the group's were missed
    std::array<std::int32_t, kGroup> energies_;  // of the values before each of the group's
    std::int32_t energy_ = 0;
};

class History {
public:
    // The status is ok, or there is no memory.
    [[nodiscard]] Status start_block(std::size_t rows, std::size_t channels, std::size_t kernel) {
        channels_ = channels;
        kernel_ = kernel;
        const std::size_t row_size = channels * kernel;
        const bool has_memory = rows_.assign_zeros(row_size > 1 && rows <= kRowLimit ? rows : 0) &&
                                columns_.assign_zeros(row_size) &&
                                channel_levels_.assign_zeros(kernel > 1 ? channels : 0) &&
                                positions_.assign_zeros(kernel > 1 ? kernel : 0) &&
                                means_.assign_zeros(kernel > 1 ? 0 : row_size);
        if (!has_memory) return Status::no_memory;
        const std::size_t each = before_.empty() || channels % before_.size() != 0 ? 0
                                                                                   : channels / before_.size() * kernel;
        for (std::size_t i = 0; each > 0 && i < row_size; ++i) columns_[i] = before_[i / each];
        all_seen_ = 0;
        predictor_.start_block(kernel == 1);
        recency_ = kernel > 1 ? kKernelRecency : kMatrixRecency;
        return Status::ok;
    }

    // `lanes` rows from this one on.
    void start_band(std::size_t row, std::size_t lanes) {
        row_number_ = row;
        lanes_ = lanes;
        for (std::size_t lane = 0; lane < kLanes; ++lane) mask_[lane] = lane < lanes ? -1 : 0;
        row_ = recent_ = newest_ = {};
        row_seen_ = first_ = channel_ = position_ = size_ = 0;
        const std::size_t seen = std::min(row, kRowLimit);
        column_rate_ = kColumnRate.at(seen);
        position_rate_ = kPositionRate.at(seen * channels_);
        channel_rate_ = kChannelRate.at(seen * kernel_);
        mean_rate_ = kMeanRate.at(seen);
    }

    // The size of the next group; 0 at the rows' end.
    std::size_t start_group() {
        const bool goes_on = kernel_ > 1 ? position_ > 0 : first_ > 0;
        if (goes_on) predictor_.go_on(size_);
        size_ = std::min(kernel_ > 1 ? std::min(kernel_ - position_, kGroup) : kMatrixGroup,
                         channels_ * kernel_ - first_);
        if (size_ == 0) return 0;
        const int base = all_ - kLeastLevel + (kernel_ > 1 ? channel_levels_[channel_] : 0);
        for (std::size_t lane = 0; lane < kLanes; ++lane) base_[lane] = base + row_[lane];
        if (position_ == 0) {
            shift_ = std::clamp((base + kLeastLevel) / kLevelOne - kExactOctaves, 0, kMostShift);
        }
        if (!goes_on) predictor_.start();
        return size_;
    }

    // Whether the unit of the group's values is 1.
    bool is_exact() const { return shift_ == 0; }

    // The expectations of the group's i-th symbols.
    Expected expect(std::size_t i) {
        Expected expected;
        int level = columns_[first_ + i];
        if (kernel_ > 1) {
            level = plus(level, positions_[position_ + i]);
            predictor_.take_eighth(i);
        } else {
            predictor_.take_mean(i, means_[first_ + i] >> (14 + shift_), lanes_);
        }
        expected.value = predictor_.predict(i, position_ + i);
        expected.level = shortened(plus(base_, recent_), level);
        const auto scale = [&](std::size_t lane) {
            return static_cast<std::int32_t>(kScales[static_cast<std::size_t>(expected.level[lane])]);
        };
        expected.scale = int32_lanes(scale(0), scale(1), scale(2), scale(3));
        expected.shift = shift_;
        return expected;
    }

    // What the group's i-th symbols were.
    void note(std::size_t i, const Expected& expected, const Int32Lanes& values) {
        const Noted now = noted(values, shift_, expected.value, expected.scale, expected.scale_shift(), mask_);
        excess_[i] = now.excess;
        recent_ = newest_;
        follow(newest_, now.excess, recency_.times, recency_.fall);
        predictor_.note(i, now);
        if (kernel_ > 1) return;
        int sum = 0;
        for (const int value : now.known) sum += value;
        std::int64_t& mean = means_[first_ + i];
        mean += (sum * (std::int64_t{65536} << shift_) - static_cast<std::int64_t>(lanes_) * mean) * mean_rate_ >> 16;
    }

    void end_group() {
        const Int32Lanes of_rows = sums_of_lanes(excess_.data(), size_);
        const int sum = of_rows[0] + of_rows[1] + of_rows[2] + of_rows[3];
        learn(&columns_[first_], excess_.data(), size_, column_rate_);
        if (kernel_ > 1) learn(&positions_[position_], excess_.data(), size_, position_rate_);
        if (kernel_ > 1) move(channel_levels_[channel_], sum, channel_rate_);
        for (std::size_t i = 0; i < size_; ++i) predictor_.learn(i, position_ + i);
        row_seen_ += size_;
        all_seen_ += size_ * lanes_;
        const int row_rate = kRowRate.at(row_seen_);
        for (std::size_t lane = 0; lane < kLanes; ++lane) move(row_[lane], of_rows[lane], row_rate);
        move(all_, sum, kAllRate.at(all_seen_));
        first_ += size_;
        position_ += size_;
        if (position_ < kernel_) return;
        position_ = 0;
        ++channel_;
    }

    void end_band() {
        if (!rows_.empty()) std::copy_n(row_.begin(), lanes_, rows_.begin() + row_number_);
    }

    // Rows' levels are those of the channels of the next block that takes its input from this one.
    void end_block() {
        if (channels_ * kernel_ == 1) return;
        before_.swap(rows_);
        if (before_.empty()) return;
        std::int64_t sum = 0;
        for (const std::int32_t level : before_) sum += level;
        const auto mean = static_cast<int>(sum / static_cast<std::int64_t>(before_.size()));
        for (std::int32_t& level : before_) level -= mean;
    }

private:
    static constexpr std::size_t kRowLimit = 1 << 16;
    static constexpr int kLevelLimit = 32 * kLevelOne;
    static constexpr int kExactOctaves = 5, kMostShift = 8;

    static void move(std::int32_t& level, int excess, int rate) {
        level = std::clamp<std::int32_t>(level + static_cast<int>(std::int64_t{excess} * rate >> 8), -kLevelLimit,
                                         kLevelLimit);
    }

    std::size_t channels_ = 0, kernel_ = 0;
    std::int32_t all_ = kLevelOne;
    Buffer<std::int32_t> columns_, channel_levels_, positions_;
    Buffer<std::int32_t> rows_, before_;  // levels of this block's rows, and of the last one's less their mean
    Buffer<std::int64_t> means_;          // of a matrix's columns, in units of 2^-16
    Predictor predictor_;
    Recency recency_{};

    std::size_t row_number_ = 0, lanes_ = 0, row_seen_ = 0, all_seen_ = 0;
    int column_rate_ = 0, position_rate_ = 0, channel_rate_ = 0, mean_rate_ = 0;
    Int16Lanes mask_{};            // -1 for the rows that there are
    Int32Lanes row_{}, recent_{};  // levels of the rows, and of the last few symbols of each, but the last one
    Int32Lanes newest_{};          // of these with the last one, which the next symbol need not wait for
    Int32Lanes base_{};            // the group's level in each row, but for such symbols, columns and positions
    int shift_ = 0;                // the kernel's, or the group's
    std::size_t first_ = 0, size_ = 0, channel_ = 0, position_ = 0;  // where the group begins, and its size
    std::array<Int16Lanes, kGroup> excess_;
};

}  // namespace metaq::adaptive
