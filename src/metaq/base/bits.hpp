// Bits and small integers, the most significant bit first.
//
// A sink is anything with `put(value, width)`, a source anything with `get(width)`, for widths from 0 to 32. This header has
// those of plain bits; the range coder has those of equally likely intervals. Tables are written and read over either.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/base/symbols.hpp"

namespace metaq {

// Appends bits to a byte vector; `finish` fills the last byte up with zeros.
class BitWriter {
public:
    explicit BitWriter(std::vector<std::uint8_t>& out) : out_(out) {}

    void put(std::uint32_t value, unsigned width) {
        pending_ = (pending_ << width) | value;
        count_ += width;
        while (count_ >= 8) {
            count_ -= 8;
            out_.push_back(static_cast<std::uint8_t>(pending_ >> count_));
        }
    }

    void finish() {
        if (count_ > 0) put(0, 8 - count_);
    }

private:
    std::vector<std::uint8_t>& out_;
    std::uint64_t pending_ = 0;  // its lowest count_ bits are still to be written
    unsigned count_ = 0;         // below 8 between calls
};

// A sink that only counts.
class BitCounter {
public:
    void put(std::uint32_t, unsigned width) { bits_ += width; }
    std::uint64_t bits() const { return bits_; }

private:
    std::uint64_t bits_ = 0;
};

// Reads bits; behind the end there are zeros, and `status` tells that they were used.
class BitReader {
public:
    explicit BitReader(std::span<const std::uint8_t> data) : data_(data) {}

    // The next `width` bits, from 1 to 32, without consuming them.
    std::uint32_t peek(unsigned width) const {
        return static_cast<std::uint32_t>((load(position_ >> 3) << (position_ & 7)) >> (64 - width));
    }

    void skip(unsigned width) { position_ += width; }

    std::uint32_t get(unsigned width) {
        if (width == 0) return 0;
        const std::uint32_t value = peek(width);
        skip(width);
        return value;
    }

    // As `get`, in the same time for every width, also for none.
    std::uint32_t get_few(unsigned width) {
        const std::uint64_t next = load(position_ >> 3) << (position_ & 7);
        skip(width);
        return static_cast<std::uint32_t>(next >> 1 >> (63 - width));
    }

    // How many bytes the bits read so far lie in.
    std::size_t bytes() const { return static_cast<std::size_t>((position_ + 7) / 8); }

    Status status() const { return bytes() > data_.size() ? Status::truncated : Status::ok; }

    // Reads the rest of the last byte. Returns false if that is not all zeros.
    bool pads_with_zeros() { return get(static_cast<unsigned>(-position_ & 7)) == 0; }

    // Returns the status of a stream that ends with the last bit read: zeros fill its byte, and no byte follows.
    Status finish() {
        if (status() != Status::ok) return Status::truncated;
        return pads_with_zeros() && bytes() == data_.size() ? Status::ok : Status::corrupt;
    }

private:
    std::uint64_t load(std::size_t first) const {
        if (first + 8 <= data_.size()) {
            const std::uint8_t* bytes = data_.data() + first;
            return std::uint64_t{bytes[0]} << 56 | std::uint64_t{bytes[1]} << 48 | std::uint64_t{bytes[2]} << 40 |
                   std::uint64_t{bytes[3]} << 32 | std::uint64_t{bytes[4]} << 24 | std::uint64_t{bytes[5]} << 16 |
                   std::uint64_t{bytes[6]} << 8 | std::uint64_t{bytes[7]};
        }
        std::uint64_t value = 0;
        for (std::size_t i = first; i < first + 8; ++i) value = value << 8 | (i < data_.size() ? data_[i] : 0u);
        return value;
    }

    std::span<const std::uint8_t> data_;
    std::uint64_t position_ = 0;  // in bits
};

// 2^16 log2(value) of a positive value, rounded down to within a few units; in integers, so that every machine chooses
// the same tables.
constexpr std::uint64_t fixed_log2(std::uint64_t value) {
    const unsigned whole = static_cast<unsigned>(std::bit_width(value)) - 1;
    std::uint64_t mantissa = (value << (63 - whole)) >> 32;  // value / 2^whole in [1, 2), times 2^31
    std::uint64_t result = whole;
    for (unsigned bit = 0; bit < 16; ++bit) {
        mantissa = mantissa * mantissa >> 31;
        const std::uint64_t is_two = mantissa >> 32;
        mantissa >>= is_two;
        result = result << 1 | is_two;
    }
    return result;
}

// Maps signed numbers to unsigned ones in the order 0, -1, 1, -2, 2, ...
inline std::uint32_t to_zigzag(std::int32_t value) {
    return static_cast<std::uint32_t>(value) << 1 ^ static_cast<std::uint32_t>(value >> 31);
}

inline std::int32_t from_zigzag(std::uint32_t value) {
    return static_cast<std::int32_t>(value >> 1 ^ (0u - (value & 1)));
}

// Exp-Golomb code of an order below 32, for any 32-bit value: with v = value + 2^order in b + order + 1 bits, b ones,
// a zero, and v without its leading one.
template <class Sink>
void put_golomb(Sink& sink, std::uint32_t value, unsigned order) {
    const std::uint64_t shifted = std::uint64_t{value} + (std::uint64_t{1} << order);
    const unsigned tail = static_cast<unsigned>(std::bit_width(shifted)) - 1;
    for (unsigned i = order; i < tail; ++i) sink.put(1, 1);
    sink.put(0, 1);
    sink.put(static_cast<std::uint32_t>(shifted - (std::uint64_t{1} << tail)), tail);
}

// Returns false if the code is that of no 32-bit value.
template <class Source>
bool get_golomb(Source& source, unsigned order, std::uint32_t& value) {
    unsigned tail = order;
    while (source.get(1) == 1) {
        if (++tail > 32) return false;
    }
    const std::uint64_t shifted = (std::uint64_t{1} << tail) + source.get(tail) - (std::uint64_t{1} << order);
    value = static_cast<std::uint32_t>(shifted);
    return shifted <= 0xffffffffu;
}

}  // namespace metaq
