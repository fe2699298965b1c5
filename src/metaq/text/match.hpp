// The text model's hashes, and the place in the past at which the bytes before were the same.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace metaq::text {

inline constexpr std::size_t kMatchMinimum = 4;  // bytes that must agree before a match is followed
inline constexpr std::size_t kMatchEnough = 16;  // a match of this length is not replaced
inline constexpr std::size_t kMatchTableBits = 14;
inline constexpr std::size_t kLengthClasses = 11;

inline std::uint32_t hashed(std::uint32_t value, std::uint32_t salt) {
    const std::uint32_t sum = (value + salt * 0x9e3779b1u) * 0x85ebca6bu;
    return (sum ^ sum >> 15) * 0xc2b2ae35u;
}

// Follows a place in the past that came after the same bytes as the next one does. A match is kept after a wrong prediction,
// since a header often goes on like the one before after a number of its own, until another match agrees on more bytes.
class Match {
public:
    // Moves on by the byte that was appended to `history` last, or finds a longer match.
    void advance(std::span<const std::uint8_t> history) {
        if (at_ > 0) {
            const bool hit = history[at_] == history.back();
            length_ = hit ? length_ + 1 : 0;
            misses_ = (misses_ << 1 | static_cast<std::uint32_t>(!hit)) & 255u;
            ++at_;
        }
        if (history.size() < kMatchMinimum) return;
        std::uint32_t last = 0;
        for (std::size_t i = history.size() - kMatchMinimum; i < history.size(); ++i) last = last << 8 | history[i];
        std::uint32_t& slot = table_[hashed(last, 0) >> (32 - kMatchTableBits)];
        if (length_ < kMatchEnough && slot > 0) consider(history, slot);
        slot = static_cast<std::uint32_t>(history.size());
    }

    bool following() const { return at_ > 0; }
    std::uint8_t predicted(std::span<const std::uint8_t> history) const { return history[at_]; }
    // How far a prediction can be trusted: the class of the match's length, and the failures among its last eight predictions.
    std::uint32_t length_class() const {
        return length_ < 8 ? static_cast<std::uint32_t>(length_) : length_ < 16 ? 8 : length_ < 32 ? 9 : 10;
    }
    std::uint32_t failures() const {
        return std::min<std::uint32_t>(static_cast<std::uint32_t>(std::popcount(misses_)), 7);
    }

private:
    void consider(std::span<const std::uint8_t> history, std::size_t candidate) {
        std::size_t length = 0;
        while (length < 32 && length < candidate &&
               history[candidate - 1 - length] == history[history.size() - 1 - length])
            ++length;
        if (length < kMatchMinimum || length <= length_) return;
        if (candidate != at_) misses_ = 0;
        at_ = candidate;
        length_ = length;
    }

    std::array<std::uint32_t, 1 << kMatchTableBits> table_{};
    std::size_t at_ = 0;  // 0: no match
    std::size_t length_ = 0;
    std::uint32_t misses_ = 0;  // the last eight predictions, a set bit for each that failed
};

}  // namespace metaq::text
