// Huffman streams, row by row, in little memory: codewords are found bit by bit, without a table to look them up in.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/base/alphabet.hpp"
#include "metaq/base/bits.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/growing_list.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/huffman/coder.hpp"

namespace metaq::huffman {

class RowDecoder {
public:
    Status open(std::span<const std::uint8_t> data, std::span<const Block>) {
        reader_ = BitReader(data);
        return Status::ok;
    }

    Status start_block(const Block& block) {
        row_size_ = block.channels * block.kernel;
        const bool is_alphabet = read_alphabet(reader_, alphabet_);
        if (alphabet_.listed.is_out_of_memory()) return Status::no_memory;
        bool is_good = is_alphabet;
        if (is_good && alphabet_.is_single()) is_good = read_filler(reader_, block.size());
        if (is_good && alphabet_.entries() > 1) {
            Buffer<std::uint8_t> lengths;
            if (!lengths.assign_zeros(alphabet_.entries()) || !sorted_.assign_zeros(alphabet_.entries()))
                return Status::no_memory;
            is_good = read_lengths(reader_, lengths);
            if (is_good) make_code(lengths);
        }
        return status(is_good);
    }

    Status read_row(std::int32_t* row) {
        bool is_good = true;
        for (std::size_t i = 0; i < row_size_ && is_good; ++i) {
            const std::size_t entry = alphabet_.entries() > 1 ? read_entry() : 0;
            if (entry < alphabet_.listed.size()) {
                row[i] = alphabet_.listed[entry];
            } else {
                is_good = read_escaped(reader_, alphabet_, row[i]);
            }
        }
        return status(is_good);
    }

    Status finish() { return reader_.finish(); }

private:
    using PerLength = std::array<std::uint16_t, kLengthLimit + 1>;

    Status status(bool is_good) const {
        if (reader_.status() != Status::ok) return reader_.status();
        return is_good ? Status::ok : Status::corrupt;
    }

    // Entries by length, then position: where those of each length start.
    void make_code(std::span<const std::uint8_t> lengths) {
        counts_ = {};
        for (const std::uint8_t length : lengths) ++counts_[length];
        PerLength next{};
        for (unsigned length = 1; length < kLengthLimit; ++length)
            next[length + 1] = static_cast<std::uint16_t>(next[length] + counts_[length]);
        for (std::size_t i = 0; i < lengths.size(); ++i) sorted_[next[lengths[i]]++] = static_cast<std::uint16_t>(i);
    }

    // The code is complete, so that some length has what is read.
    std::size_t read_entry() {
        const std::uint32_t bits = reader_.peek(kLengthLimit);
        std::uint32_t first = 0, start = 0;  // the first codeword of a length, and its entry's place
        for (unsigned length = 1;; ++length) {
            const std::uint32_t place = (bits >> (kLengthLimit - length)) - first;
            if (place < counts_[length] || length == kLengthLimit) {
                reader_.skip(length);
                return sorted_[start + place];
            }
            first = (first + counts_[length]) << 1;
            start += counts_[length];
        }
    }

    BitReader reader_{{}};
    BasicAlphabet<GrowingList<std::int32_t>> alphabet_;
    PerLength counts_{};
    Buffer<std::uint16_t> sorted_;
    std::size_t row_size_ = 0;
};

}  // namespace metaq::huffman
