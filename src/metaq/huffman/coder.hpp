// Canonical Huffman coding, one code per block.
//
// A block that is not empty: its alphabet, the lengths of its codewords (each as the difference from the one before, in
// an Exp-Golomb code), then the codewords, the escape's followed by the raw symbol. Codewords of a length are
// consecutive numbers in the order of the entries, and shorter ones come first. An alphabet of one entry has no lengths
// and codewords of no bits. Blocks follow each other bit by bit; zeros fill the last byte.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/base/alphabet.hpp"
#include "metaq/base/bits.hpp"
#include "metaq/base/bounded_list.hpp"
#include "metaq/base/histogram.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/huffman/package_merge.hpp"

namespace metaq::huffman {

inline constexpr unsigned kLengthLimit =
    24;  // a limit that costs nothing measurable below 2^24 symbols, and little above
inline constexpr unsigned kLookupBits = 11;  // longer codewords are searched length by length

using Lengths = BoundedList<std::uint8_t, kEntryLimit>;  // of each entry's codeword
using Codewords = BoundedList<std::uint32_t, kEntryLimit>;

// The canonical code with given lengths: for each length, the first codeword and where its entries start in `sorted`.
class CanonicalCode {
public:
    // At least two lengths, each from 1 to kLengthLimit.
    explicit CanonicalCode(const Lengths& lengths) {
        sorted_.resize(lengths.size());
        for (const std::uint8_t length : lengths) ++counts_[length];
        std::uint32_t codeword = 0;
        std::uint32_t start = 0;
        for (unsigned length = 1; length <= kLengthLimit; ++length) {
            codeword <<= 1;
            first_[length] = codeword;
            start_[length] = start;
            codeword += counts_[length];
            start += counts_[length];
            if (counts_[length] > 0) longest_ = length;
        }
        auto next = start_;
        for (std::size_t i = 0; i < lengths.size(); ++i) sorted_[next[lengths[i]]++] = static_cast<std::uint16_t>(i);
    }

    Codewords codewords(const Lengths& lengths) const {
        Codewords result(lengths.size());
        auto next = first_;
        for (std::size_t i = 0; i < lengths.size(); ++i) result[i] = next[lengths[i]]++;
        return result;
    }

    // Has to be called before `decode`; the lengths are complete, which means that sum 2^-length = 1.
    void prepare_decoding() {
        lookup_bits_ = std::min(longest_, kLookupBits);
        lookup_.resize(std::size_t{1} << lookup_bits_);
        for (unsigned length = 1; length <= lookup_bits_; ++length) {
            for (std::uint32_t i = 0; i < counts_[length]; ++i) {
                const std::size_t start = std::size_t{first_[length] + i} << (lookup_bits_ - length);
                const std::size_t size = std::size_t{1} << (lookup_bits_ - length);
                std::fill_n(lookup_.begin() + start, size,
                            Codeword{sorted_[start_[length] + i], static_cast<std::uint8_t>(length)});
            }
        }
    }

    std::size_t decode(BitReader& reader) const {
        const std::uint32_t bits = reader.peek(longest_);
        const Codeword codeword = lookup_[bits >> (longest_ - lookup_bits_)];
        if (codeword.length > 0) {
            reader.skip(codeword.length);
            return codeword.entry;
        }
        unsigned length = lookup_bits_ + 1;
        while ((bits >> (longest_ - length)) - first_[length] >= counts_[length]) ++length;
        reader.skip(length);
        return sorted_[start_[length] + (bits >> (longest_ - length)) - first_[length]];
    }

private:
    // What the next bits begin with.
    struct Codeword {
        std::uint16_t entry;
        std::uint8_t length;  // 0: it is longer than what the look-up goes by
    };
    using PerLength = std::array<std::uint32_t, kLengthLimit + 1>;

    PerLength counts_{};
    PerLength first_{};
    PerLength start_{};
    unsigned longest_ = 0;
    unsigned lookup_bits_ = 0;
    BoundedList<std::uint16_t, kEntryLimit> sorted_;  // entries by length, then position
    BoundedList<Codeword, std::size_t{1} << kLookupBits> lookup_;
};

inline void write_lengths(BitWriter& writer, const Lengths& lengths) {
    int previous = static_cast<int>(std::bit_width(lengths.size()));
    for (const std::uint8_t length : lengths) {
        put_golomb(writer, to_zigzag(length - previous), 0);
        previous = length;
    }
}

// Returns false unless the lengths are in bounds and complete.
inline bool read_lengths(BitReader& reader, std::span<std::uint8_t> lengths) {
    auto length = static_cast<std::int64_t>(std::bit_width(lengths.size()));
    std::uint64_t covered = 0;  // in units of 2^-kLengthLimit
    for (std::uint8_t& result : lengths) {
        std::uint32_t difference = 0;
        if (!get_golomb(reader, 0, difference)) return false;
        length += from_zigzag(difference);
        if (length < 1 || length > kLengthLimit) return false;
        result = static_cast<std::uint8_t>(length);
        covered += std::uint64_t{1} << (kLengthLimit - length);
    }
    return covered == std::uint64_t{1} << kLengthLimit;
}

inline void encode_block(BitWriter& writer, const ConstBlock& block) {
    if (block.size() == 0) return;
    const Histogram histogram(block);
    const Alphabet& alphabet = histogram.alphabet();
    write_alphabet(writer, alphabet);
    if (alphabet.is_single()) return write_filler(writer, block.size());

    Lengths lengths(alphabet.entries());
    Codewords codewords(alphabet.entries());
    if (alphabet.entries() > 1) {
        lengths = std::span<const std::uint8_t>(package_merge(histogram.counts(), kLengthLimit));
        codewords = CanonicalCode(lengths).codewords(lengths);
        write_lengths(writer, lengths);
    }
    for (const std::int32_t symbol : std::span(block.symbols, block.size())) {
        const std::size_t entry = histogram.entry(symbol);
        writer.put(codewords[entry], lengths[entry]);
        if (entry == alphabet.listed.size()) writer.put(histogram.escaped_bits(symbol), alphabet.escape_width);
    }
}

inline Status decode_block(BitReader& reader, const Block& block) {
    if (block.size() == 0) return Status::ok;
    const std::span symbols(block.symbols, block.size());
    Alphabet alphabet;
    if (!read_alphabet(reader, alphabet)) return Status::corrupt;
    if (alphabet.is_single()) {
        if (!read_filler(reader, block.size())) return Status::corrupt;
        std::fill(symbols.begin(), symbols.end(), alphabet.listed[0]);
        return reader.status();
    }
    if (alphabet.entries() == 1) {
        for (std::int32_t& symbol : symbols) {
            if (!read_escaped(reader, alphabet, symbol)) return Status::corrupt;
        }
        return reader.status();
    }
    Lengths lengths(alphabet.entries());
    if (!read_lengths(reader, lengths)) return Status::corrupt;
    CanonicalCode code(lengths);
    code.prepare_decoding();
    for (std::int32_t& symbol : symbols) {
        const std::size_t entry = code.decode(reader);
        if (entry < alphabet.listed.size()) {
            symbol = alphabet.listed[entry];
        } else if (!read_escaped(reader, alphabet, symbol)) {
            return Status::corrupt;
        }
    }
    return reader.status();
}

// Appends the code of `blocks` to `out`. The status is always ok; other coders may have no memory.
[[nodiscard]] inline Status encode(std::span<const ConstBlock> blocks, std::vector<std::uint8_t>& out) {
    BitWriter writer(out);
    for (const ConstBlock& block : blocks) encode_block(writer, block);
    writer.finish();
    return Status::ok;
}

// Fills the blocks, whose sizes are those that were encoded, from exactly `data`. What they hold after a failure is
// unspecified. Allocates nothing.
[[nodiscard]] inline Status decode(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
    BitReader reader(data);
    for (const Block& block : blocks) {
        const Status status = decode_block(reader, block);
        if (reader.status() != Status::ok) return reader.status();
        if (status != Status::ok) return status;
    }
    return reader.finish();
}

}  // namespace metaq::huffman
