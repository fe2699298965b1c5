// Static range coding, one table of frequencies per block: the zero-order entropy, a small table and two bytes.
//
// A block that is not empty: its alphabet, the frequencies of its entries, which sum to a power of two, then the
// entries, the escape followed by the raw symbol. Everything, tables included, is one run of the coder below; bits of
// the tables and raw symbols are equally likely intervals. Blocks that are all empty take no bytes at all.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/base/alphabet.hpp"
#include "metaq/base/bits.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/frequencies.hpp"
#include "metaq/base/histogram.hpp"
#include "metaq/base/symbols.hpp"

namespace metaq::range {

// The interval [low, low + range) is kept in units of 2^-56 of the last byte written, and range above 2^48: dividing it
// by 2^16 then loses less than 2^-31 of a symbol's probability.
inline constexpr unsigned kRegisterBits = 56;
inline constexpr std::uint64_t kLeastRange = std::uint64_t{1} << (kRegisterBits - 8);
inline constexpr unsigned kChunkBits = 16;  // of raw bits, coded at a time

class RangeEncoder {
public:
    explicit RangeEncoder(std::vector<std::uint8_t>& out) : out_(out) {}

    // An event that takes [start, start + frequency) of 2^precision.
    void encode(std::uint32_t start, std::uint32_t frequency, unsigned precision) {
        range_ >>= precision;
        low_ += start * range_;
        range_ *= frequency;
        propagate_carry();
        while (range_ < kLeastRange) {
            write_byte();
            range_ <<= 8;
        }
    }

    void put(std::uint32_t value, unsigned width) {
        for (; width > kChunkBits; width -= kChunkBits) {
            encode(value >> (width - kChunkBits) & 0xffff, 1, kChunkBits);
        }
        encode(value & ((1u << width) - 1), 1, width);
    }

    // One more byte is enough to name the interval, since zeros are read behind it.
    void finish() {
        low_ += kLeastRange - 1;
        propagate_carry();
        write_byte();
    }

private:
    void propagate_carry() {
        if (low_ >> kRegisterBits == 0) return;
        low_ &= (std::uint64_t{1} << kRegisterBits) - 1;
        // The carry never runs past the first byte, since the whole interval lies below one.
        for (std::size_t i = out_.size() - 1; ++out_[i] == 0;) --i;
    }

    void write_byte() {
        out_.push_back(static_cast<std::uint8_t>(low_ >> (kRegisterBits - 8)));
        low_ = (low_ & (kLeastRange - 1)) << 8;
    }

    std::vector<std::uint8_t>& out_;
    std::uint64_t low_ = 0;
    std::uint64_t range_ = std::uint64_t{1} << kRegisterBits;
};

class RangeDecoder {
public:
    explicit RangeDecoder(std::span<const std::uint8_t> data) : data_(data) {
        for (unsigned i = 0; i < kRegisterBits / 8; ++i) code_ = code_ << 8 | read_byte();
    }

    // Returns where in 2^precision the next event lies. A call of `consume` has to follow.
    std::uint32_t locate(unsigned precision) {
        range_ >>= precision;
        const std::uint64_t place = code_ / range_;
        const std::uint64_t last = (std::uint64_t{1} << precision) - 1;
        is_corrupt_ |= place > last;
        return static_cast<std::uint32_t>(std::min(place, last));
    }

    void consume(std::uint32_t start, std::uint32_t frequency) {
        code_ -= start * range_;
        range_ *= frequency;
        while (range_ < kLeastRange) {
            code_ = code_ << 8 | read_byte();
            range_ <<= 8;
        }
    }

    std::uint32_t get(unsigned width) {
        std::uint32_t value = 0;
        while (width > 0) {
            const unsigned chunk = std::min(width, kChunkBits);
            const std::uint32_t bits = locate(chunk);
            consume(bits, 1);
            value = value << chunk | bits;
            width -= chunk;
        }
        return value;
    }

    // How many bytes an encoder would have written if these were all events.
    std::uint64_t size() const { return position_ - (kRegisterBits / 8 - 1); }

    Status status() const {
        if (size() > data_.size()) return Status::truncated;
        return is_corrupt_ ? Status::corrupt : Status::ok;
    }

private:
    std::uint64_t read_byte() {
        const std::uint64_t byte = position_ < data_.size() ? data_[position_] : 0;
        ++position_;
        return byte;
    }

    std::span<const std::uint8_t> data_;
    std::size_t position_ = 0;
    std::uint64_t code_ = 0;   // the number read, less the interval's lower end
    bool is_corrupt_ = false;  // the number left the interval, which dividing it cannot cause
    std::uint64_t range_ = std::uint64_t{1} << kRegisterBits;
};

inline void encode_block(RangeEncoder& encoder, const ConstBlock& block) {
    if (block.size() == 0) return;
    const Histogram histogram(block);
    const Alphabet& alphabet = histogram.alphabet();
    write_alphabet(encoder, alphabet);
    if (alphabet.is_single()) return write_filler(encoder, block.size());

    const Frequencies table = choose_frequencies(histogram.counts());
    write_frequencies(encoder, table);
    const EntryNumbers starts = interval_starts(table);
    for (const std::int32_t symbol : std::span(block.symbols, block.size())) {
        const std::size_t entry = histogram.entry(symbol);
        encoder.encode(starts[entry], table.frequencies[entry], table.precision);
        if (entry == alphabet.listed.size()) encoder.put(histogram.escaped_bits(symbol), alphabet.escape_width);
    }
}

inline Status decode_symbols(RangeDecoder& decoder, const Alphabet& alphabet, const Frequencies& table,
                             const Block& block) {
    const EntryNumbers starts = interval_starts(table);
    Buffer<std::uint16_t> entry_at;
    if (!entry_at.resize_for_overwrite(std::size_t{1} << table.precision)) return Status::no_memory;
    for (std::size_t i = 0; i < starts.size(); ++i) {
        std::fill_n(entry_at.begin() + starts[i], table.frequencies[i], static_cast<std::uint16_t>(i));
    }
    for (std::int32_t& symbol : std::span(block.symbols, block.size())) {
        const std::size_t entry = entry_at[decoder.locate(table.precision)];
        decoder.consume(starts[entry], table.frequencies[entry]);
        if (entry < alphabet.listed.size()) {
            symbol = alphabet.listed[entry];
        } else if (!read_escaped(decoder, alphabet, symbol)) {
            return Status::corrupt;
        }
    }
    return decoder.status();
}

inline Status decode_block(RangeDecoder& decoder, const Block& block) {
    if (block.size() == 0) return Status::ok;
    Alphabet alphabet;
    if (!read_alphabet(decoder, alphabet)) return Status::corrupt;
    if (alphabet.is_single()) {
        if (!read_filler(decoder, block.size())) return Status::corrupt;
        std::fill_n(block.symbols, block.size(), alphabet.listed[0]);
        return decoder.status();
    }
    Frequencies table;
    table.frequencies.resize(alphabet.entries());
    if (!read_frequencies(decoder, table.frequencies, table.precision)) return Status::corrupt;
    return decode_symbols(decoder, alphabet, table, block);
}

// Appends the code of `blocks` to `out`. The status is always ok; other coders may have no memory.
[[nodiscard]] inline Status encode(std::span<const ConstBlock> blocks, std::vector<std::uint8_t>& out) {
    if (std::all_of(blocks.begin(), blocks.end(), [](const ConstBlock& block) { return block.size() == 0; }))
        return Status::ok;
    // A vector of its own, so that a carry cannot run into what `out` held before.
    std::vector<std::uint8_t> bytes;
    RangeEncoder encoder(bytes);
    for (const ConstBlock& block : blocks) encode_block(encoder, block);
    encoder.finish();
    out.insert(out.end(), bytes.begin(), bytes.end());
    return Status::ok;
}

// Fills the blocks, whose sizes are those that were encoded, from exactly `data`. What they hold after a failure is
// unspecified. Allocates 128 KB at most.
[[nodiscard]] inline Status decode(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
    if (std::all_of(blocks.begin(), blocks.end(), [](const Block& block) { return block.size() == 0; })) {
        return data.empty() ? Status::ok : Status::corrupt;
    }
    RangeDecoder decoder(data);
    for (const Block& block : blocks) {
        const Status status = decode_block(decoder, block);
        if (status == Status::no_memory) return status;
        if (decoder.status() != Status::ok) return decoder.status();
        if (status != Status::ok) return status;
    }
    return decoder.size() == data.size() ? Status::ok : Status::corrupt;
}

}  // namespace metaq::range
