// Binary arithmetic coder: each decision narrows a 32-bit range by a 16-bit probability; carries run back into the bytes written.
//
// The code is one number in [0, 1), written most significant byte first. The last bytes are the shortest that still name
// a number in the final range, and zero bytes at the end are left out: a reader takes zeros past the end. Both are unique,
// so a list of decisions has exactly one code, and `BinaryDecoder::finish` accepts no other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/base/symbols.hpp"

namespace metaq {

inline constexpr std::uint32_t kProbabilityOne =
    1u << 16;  // probabilities given to a coder lie strictly between 0 and this
inline constexpr std::uint32_t kRangeMinimum = 1u << 24;  // below it, a byte is settled and the range grows again
inline constexpr std::size_t kWindowBytes = 4;            // what a decoder reads ahead of the settled bytes
inline constexpr std::size_t kBytesPastEnd = 8;           // zeros that may be left out at the end

struct FinalBytes {
    std::uint64_t value;  // the window: 32 bits and perhaps a carry
    std::size_t count;    // its leading bytes that must be written
};

// The number with the fewest leading bytes in [low, low + range).
inline FinalBytes shortest_in_range(std::uint32_t low, std::uint32_t range) {
    for (std::size_t count = 0; count < kWindowBytes; ++count) {
        const std::uint64_t mask = (std::uint64_t{1} << (32 - 8 * count)) - 1;
        const std::uint64_t value = (std::uint64_t{low} + mask) & ~mask;
        if (value - low < range) return {value, count};
    }
    return {low, kWindowBytes};
}

class BinaryEncoder {
public:
    explicit BinaryEncoder(std::vector<std::uint8_t>& out) : out_(out), start_(out.size()) {}

    // Codes `bit`, whose probability of being set is probability / 2^16, and returns it.
    bool code(bool bit, std::uint32_t probability) {
        const auto bound = static_cast<std::uint32_t>((std::uint64_t{range_} * probability) >> 16);
        if (bit) {
            range_ = bound;
        } else {
            low_ += bound;
            if (low_ < bound) carry();
            range_ -= bound;
        }
        while (range_ < kRangeMinimum) {
            out_.push_back(static_cast<std::uint8_t>(low_ >> 24));
            low_ <<= 8;
            range_ <<= 8;
        }
        return bit;
    }

    bool truncated() const { return false; }

    // Settles the last bytes. At least `least_bytes` are written, so that no short stream stands for a huge block.
    void finish(std::size_t least_bytes) {
        const std::size_t settled = out_.size();
        const FinalBytes last = shortest_in_range(low_, range_);
        if (last.value >> 32) carry();
        for (std::size_t i = 0; i < last.count; ++i)
            out_.push_back(static_cast<std::uint8_t>(last.value >> (24 - 8 * i)));
        const std::size_t read = settled + kWindowBytes;
        while (out_.size() > start_ && out_.back() == 0 && read - out_.size() < kBytesPastEnd) out_.pop_back();
        if (out_.size() < start_ + least_bytes) out_.resize(start_ + least_bytes, 0);
    }

private:
    // The number stays below one, so a byte that can take the carry always comes before the first.
    void carry() {
        std::size_t i = out_.size();
        while (i > start_ && ++out_[--i] == 0) {
        }
    }

    std::vector<std::uint8_t>& out_;
    std::size_t start_;
    std::uint32_t low_ = 0;
    std::uint32_t range_ = 0xffffffffu;
};

class BinaryDecoder {
public:
    explicit BinaryDecoder(std::span<const std::uint8_t> data) : data_(data) {
        for (std::size_t i = 0; i < kWindowBytes; ++i) code_ = code_ << 8 | next();
        window_ = code_;
    }

    // Returns the next decision; the first argument is the encoder's, unused.
    bool code(bool, std::uint32_t probability) {
        const auto bound = static_cast<std::uint32_t>((std::uint64_t{range_} * probability) >> 16);
        const bool bit = code_ < bound;
        const std::uint32_t unset = static_cast<std::uint32_t>(bit) -
                                    1;  // all ones or zero; a branch would often be mispredicted
        code_ -= bound & unset;
        range_ = bound + ((range_ - 2 * bound) & unset);
        while (range_ < kRangeMinimum) {
            const std::uint32_t byte = next();
            code_ = code_ << 8 | byte;
            window_ = window_ << 8 | byte;
            range_ <<= 8;
        }
        return bit;
    }

    // True once more zeros were read than any encoder leaves out: what is decoded after that means nothing.
    bool truncated() const { return position_ > data_.size() + kBytesPastEnd; }

    // Whether the data is exactly what an encoder writes for the decisions decoded, given the same `least_bytes`.
    Status finish(std::size_t least_bytes) const {
        if (truncated() || data_.size() < least_bytes) return Status::truncated;
        const bool padded = data_.size() == least_bytes;
        for (std::size_t i = position_; i < data_.size(); ++i) {
            if (!padded || data_[i] != 0) return Status::corrupt;
        }
        const std::uint32_t low = window_ - code_;
        const auto value = static_cast<std::uint32_t>(shortest_in_range(low, range_).value);
        const bool trimmed = padded || data_.empty() || data_.back() != 0 || position_ == data_.size() + kBytesPastEnd;
        return code_ < range_ && value == window_ && trimmed ? Status::ok : Status::corrupt;
    }

private:
    std::uint32_t next() {
        const std::size_t i = position_++;
        return i < data_.size() ? data_[i] : 0;
    }

    std::span<const std::uint8_t> data_;
    std::size_t position_ = 0;
    std::uint32_t code_ = 0;
    std::uint32_t window_ = 0;  // the last four bytes read: with code_, they give the encoder's low end back
    std::uint32_t range_ = 0xffffffffu;
};

}  // namespace metaq
