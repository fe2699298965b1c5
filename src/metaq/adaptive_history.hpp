// What the adaptive coder expects of a symbol, from those before it: a level, log2 of its magnitude, and a value.
//
// A level is the sum of those of all symbols, the row, the column, the channel and the kernel position. Each learns by how
// much magnitudes exceed what was expected. A value is predicted within a kernel from the positions before, by
// normalised least mean squares with weights of each position's own; otherwise it is the mean of the column so far.
// Symbols come in groups, a kernel or some columns of a matrix, and levels and weights learn only when a group is complete.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "metaq/adaptive_lanes.hpp"
#include "metaq/logistic.hpp"

namespace metaq::adaptive {

inline constexpr std::size_t kGroup = 64;        // symbols at most
inline constexpr std::size_t kMatrixGroup = 16;  // columns of a matrix
inline constexpr int kLevelOne = 1 << 16;          // an octave
inline constexpr int kLeastLevel = -4 * kLevelOne;
inline constexpr int kLevels = 20 * kLevelOne;

// Entry i is 2^(-i/256) in units of 2^-16.
constexpr std::array<std::uint32_t, 256> make_falling_powers() {
    std::array<std::uint32_t, 256> table{};
    std::uint64_t power = std::uint64_t{1} << 31;
    for (std::uint32_t& entry : table) {
        entry = static_cast<std::uint32_t>((power + (1 << 14)) >> 15);
        power = power * 4283353945u >> 32;
    }
    return table;
}
inline constexpr auto kFallingPowers = make_falling_powers();

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
inline constexpr Rate kAllRate{32, 4, 1000}, kRowRate{440, 3, 1000}, kColumnRate{112, 16, 200}, kChannelRate{112, 8, 96},
    kPositionRate{104, 48, 1000}, kMeanRate{256, 8, 650};

// Large values are known up to a unit of 2^shift only, so that products of two stay within 32 bits.
struct Expected {
    int level;  // less kLeastLevel, below kLevels
    int shift;
    std::int32_t value;  // in 1/256 of the unit

    // How many times the expected magnitude another is, in 1/256; it is in 1/256 of the unit.
    std::int64_t times(std::uint32_t magnitude) const {
        const std::uint64_t product = std::uint64_t{magnitude} * kFallingPowers[static_cast<std::size_t>(level >> 8 & 255)];
        return static_cast<std::int64_t>(product >> ((level >> 16) + 16 + kLeastLevel / kLevelOne - shift));
    }
};

// Modulo 2^32.
inline std::int32_t plus(std::int32_t first, std::int32_t second) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(first) + static_cast<std::uint32_t>(second));
}

// Predicts a value within a kernel from the nine before it.
class KernelPredictor {
public:
    // The values of another kernel follow.
    void start_kernel() {
        energy_ = 0;
        earlier_ = {};
        last_ = 0;
    }

    // In 1/256 of the unit. The value just before comes in last, since it has only just become known.
    std::int32_t predict(std::size_t i, std::size_t position) {
        const Weights& weights = weights_[std::min(position, kPositions - 1)];
        seen_[i].earlier = earlier_;
        seen_[i].last = last_;
        seen_[i].energy = energy_;
        const std::int32_t sum = earlier_.dot(weights.earlier_used) + std::int32_t{last_} * weights.last_used;
        return sum >> (8 - kUsedShift);
    }

    void note(std::size_t i, std::int16_t value, std::int32_t miss) {
        seen_[i].miss = static_cast<std::int16_t>(std::clamp(miss, -kMissLimit, kMissLimit));
        const std::int32_t leaving = earlier_.first();
        earlier_.push(last_);
        last_ = value;
        energy_ += std::int32_t{last_} * last_ - leaving * leaving;
    }

    void learn(std::size_t i, std::size_t position) {
        Weights& weights = weights_[std::min(position, kPositions - 1)];
        const Seen& seen = seen_[i];
        const int shift = static_cast<int>(std::bit_width(static_cast<std::uint32_t>(seen.energy) + 3)) - 2;
        seen.earlier.add_to(weights.earlier.data(), seen.miss, shift);
        weights.earlier_used = shortened(weights.earlier.data());
        weights.last = plus(weights.last, std::int32_t{seen.last} * seen.miss >> shift);
        weights.last_used = static_cast<std::int16_t>(std::clamp<std::int32_t>(weights.last >> kUsedShift, INT16_MIN, INT16_MAX));
    }

private:
    static constexpr std::size_t kPositions = 64;
    static constexpr std::int32_t kMissLimit = 32767;

    struct Weights {
        std::array<std::int32_t, kLanes> earlier{};  // of the ninth value before ... the second, in units of 2^-16
        Lanes earlier_used;
        std::int32_t last = 0;  // of the value just before
        std::int16_t last_used = 0;
    };

    // What a value was predicted from, and by how much it was missed.
    struct Seen {
        Lanes earlier;
        std::int16_t last, miss;
        std::int32_t energy;
    };

    std::array<Weights, kPositions> weights_;
    std::array<Seen, kGroup> seen_;
    Lanes earlier_;  // the ninth value before ... the second
    std::int16_t last_ = 0;
    std::int32_t energy_ = 0;  // of the nine values before
};

class History {
public:
    void start_block(std::size_t rows, std::size_t channels, std::size_t kernel) {
        channels_ = channels;
        kernel_ = kernel;
        const std::size_t row_size = channels * kernel;
        rows_.assign(row_size > 1 && rows <= kRowLimit ? rows : 0, 0);
        columns_.assign(row_size + kLanes, 0);
        channel_levels_.assign(kernel > 1 ? channels : 0, 0);
        positions_.assign(kernel > 1 ? kernel + kLanes : 0, 0);
        means_.assign(kernel > 1 ? 0 : row_size, 0);
        const std::size_t each = before_.empty() || channels % before_.size() != 0 ? 0 : channels / before_.size() * kernel;
        for (std::size_t i = 0; each > 0 && i < row_size; ++i) columns_[i] = before_[i / each];
        all_seen_ = 0;
    }

    void start_row(std::size_t row) {
        row_number_ = row;
        row_ = 0;
        row_seen_ = first_ = channel_ = position_ = size_ = 0;
        const std::size_t seen = std::min(row, kRowLimit);
        column_rate_ = static_cast<std::int16_t>(kColumnRate.at(seen));
        position_rate_ = static_cast<std::int16_t>(kPositionRate.at(seen * channels_));
        channel_rate_ = kChannelRate.at(seen * kernel_);
        mean_rate_ = kMeanRate.at(seen);
    }

    // The size of the next group; 0 at the row's end.
    std::size_t start_group() {
        size_ = std::min(kernel_ > 1 ? std::min(kernel_ - position_, kGroup) : kMatrixGroup, channels_ * kernel_ - first_);
        if (size_ == 0) return 0;
        base_ = all_ + row_ - kLeastLevel + (kernel_ > 1 ? channel_levels_[channel_] : 0);
        if (position_ == 0) {
            shift_ = std::clamp((base_ + kLeastLevel) / kLevelOne - kExactOctaves, 0, kMostShift);
            predictor_.start_kernel();
        }
        return size_;
    }

    // The expectations of the group's i-th symbol.
    Expected expect(std::size_t i) {
        const int level = plus(base_, columns_[first_ + i]);
        if (kernel_ == 1) {
            const auto mean = static_cast<std::int32_t>(means_[first_ + i] >> (8 + shift_));
            return {std::clamp(level, 0, kLevels - 1), shift_, mean};
        }
        return {std::clamp(plus(level, positions_[position_ + i]), 0, kLevels - 1), shift_, predictor_.predict(i, position_ + i)};
    }

    // What the group's i-th symbol was.
    void note(std::size_t i, const Expected& expected, std::int64_t value) {
        const auto known = static_cast<std::int16_t>(std::clamp<std::int64_t>(value >> shift_, -kValueLimit, kValueLimit));
        const std::int32_t miss = known * 256 - expected.value;
        if (kernel_ == 1) {
            std::int64_t& mean = means_[first_ + i];
            mean += (std::int64_t{known} * (std::int64_t{65536} << shift_) - mean) * mean_rate_ >> 16;
        } else {
            predictor_.note(i, known, miss);
        }
        const auto magnitude = static_cast<std::uint32_t>(std::max(miss < 0 ? -miss : miss, kLeastMiss));
        excess_[i] = static_cast<std::int16_t>(std::min(expected.times(magnitude) - 256, kMostExcess));
    }

    void end_group() {
        int sum = 0;
        for (std::size_t i = 0; i < size_; ++i) sum += excess_[i];
        for (std::size_t i = size_; i < padded(); ++i) excess_[i] = 0;
        move(&columns_[first_], column_rate_);
        if (kernel_ > 1) {
            move(&positions_[position_], position_rate_);
            move(channel_levels_[channel_], sum, channel_rate_);
            for (std::size_t i = 0; i < size_; ++i) predictor_.learn(i, position_ + i);
        }
        row_seen_ += size_;
        all_seen_ += size_;
        move(row_, sum, kRowRate.at(row_seen_));
        move(all_, sum, kAllRate.at(all_seen_));
        first_ += size_;
        position_ += size_;
        if (position_ < kernel_) return;
        position_ = 0;
        ++channel_;
    }

    void end_row() {
        if (!rows_.empty()) rows_[row_number_] = row_;
    }

    // Rows' levels are those of the channels of the next block that takes its input from this one.
    void end_block() {
        if (channels_ * kernel_ == 1) return;
        before_.swap(rows_);
        if (before_.empty()) return;
        std::int64_t sum = 0;
        for (const int level : before_) sum += level;
        const auto mean = static_cast<int>(sum / static_cast<std::int64_t>(before_.size()));
        for (int& level : before_) level -= mean;
    }

private:
    static constexpr std::size_t kRowLimit = 1 << 16;
    static constexpr std::int64_t kValueLimit = 4095;  // larger ones count as this
    static constexpr std::int32_t kLeastMiss = 48;
    static constexpr std::int64_t kMostExcess = 700;
    static constexpr int kLevelLimit = 32 * kLevelOne;
    static constexpr int kExactOctaves = 5, kMostShift = 8;

    std::size_t padded() const { return (size_ + kLanes - 1) / kLanes * kLanes; }

    static void move(int& level, int excess, int rate) {
        level = std::clamp(level + static_cast<int>(std::int64_t{excess} * rate >> 8), -kLevelLimit, kLevelLimit);
    }

    // The levels of the group's symbols.
    void move(int* levels, std::int16_t rate) const {
        for (std::size_t i = 0; i < padded(); i += kLanes) load(&excess_[i]).add_to(levels + i, rate, 8);
    }

    std::size_t channels_ = 0, kernel_ = 0;
    int all_ = kLevelOne, row_ = 0;
    std::vector<int> columns_, channel_levels_, positions_;
    std::vector<int> rows_, before_;   // levels of this block's rows, and of the last one's less their mean
    std::vector<std::int64_t> means_;  // of a matrix's columns, in units of 2^-16
    KernelPredictor predictor_;

    std::size_t row_number_ = 0, row_seen_ = 0, all_seen_ = 0;
    std::int16_t column_rate_ = 0, position_rate_ = 0;
    int channel_rate_ = 0, mean_rate_ = 0;
    int base_ = 0;   // the group's level, but for columns and positions
    int shift_ = 0;  // the kernel's, or the group's
    std::size_t first_ = 0, size_ = 0, channel_ = 0, position_ = 0;  // where the group begins, and its size
    std::array<std::int16_t, kGroup> excess_{};
};

}  // namespace metaq::adaptive
