// Range-coded streams, row by row, in little memory: an entry is searched for by halves.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "metaq/base/alphabet.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/frequencies.hpp"
#include "metaq/base/growing_list.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/range/coder.hpp"

namespace metaq::range {

class RowDecoder {
public:
    // There is a block that is not empty.
    Status open(std::span<const std::uint8_t> data, std::span<const Block>) {
        data_ = data;
        decoder_.emplace(data);
        return Status::ok;
    }

    Status start_block(const Block& block) {
        row_size_ = block.channels * block.kernel;
        const bool is_alphabet = read_alphabet(*decoder_, alphabet_);
        if (alphabet_.listed.is_out_of_memory()) return Status::no_memory;
        bool is_good = is_alphabet;
        if (is_good && alphabet_.is_single()) {
            is_good = read_filler(*decoder_, block.size());
        } else if (is_good) {
            if (!starts_.assign_zeros(alphabet_.entries())) return Status::no_memory;
            is_good = read_frequencies(*decoder_, starts_, precision_);
            std::uint32_t sum = 0;
            for (std::uint32_t& start : starts_) {
                sum += start;
                start = sum - start;
            }
        }
        return status(is_good);
    }

    Status read_row(std::int32_t* row) {
        bool is_good = true;
        for (std::size_t i = 0; i < row_size_ && is_good; ++i) {
            const std::size_t entry = alphabet_.is_single() ? 0 : read_entry();
            if (entry < alphabet_.listed.size()) {
                row[i] = alphabet_.listed[entry];
            } else {
                is_good = read_escaped(*decoder_, alphabet_, row[i]);
            }
        }
        return status(is_good);
    }

    Status finish() const { return decoder_->size() == data_.size() ? Status::ok : Status::corrupt; }

private:
    Status status(bool is_good) const {
        if (decoder_->status() != Status::ok) return decoder_->status();
        return is_good ? Status::ok : Status::corrupt;
    }

    std::size_t read_entry() {
        const std::uint32_t place = decoder_->locate(precision_);
        const std::uint32_t* const next = std::upper_bound(starts_.begin(), starts_.end(), place);
        const std::uint32_t start = next[-1];
        decoder_->consume(start, (next == starts_.end() ? 1u << precision_ : *next) - start);
        return static_cast<std::size_t>(next - starts_.begin()) - 1;
    }

    std::span<const std::uint8_t> data_;
    std::optional<RangeDecoder> decoder_;
    BasicAlphabet<GrowingList<std::int32_t>> alphabet_;
    Buffer<std::uint32_t> starts_;  // of the entries' intervals
    unsigned precision_ = 0;
    std::size_t row_size_ = 0;
};

}  // namespace metaq::range
