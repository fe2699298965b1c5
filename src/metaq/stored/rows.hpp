// Stored symbols, row by row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/base/symbols.hpp"
#include "metaq/stored/coder.hpp"

namespace metaq::stored {

class RowDecoder {
public:
    Status open(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
        const Status status = check_size(data, blocks.size(), [&](std::size_t i) { return blocks[i].size(); });
        if (status != Status::ok) return status;
        width_ = data.data();
        rest_ = data.subspan(blocks.size());
        return Status::ok;
    }

    // The width is read again, and so checked again.
    Status start_block(const Block& block) {
        row_size_ = block.channels * block.kernel;
        block_width_ = *width_++;
        if (block_width_ != 1 && block_width_ != 2 && block_width_ != 4) return Status::corrupt;
        return block.size() <= rest_.size() / block_width_ ? Status::ok : Status::truncated;
    }

    Status read_row(std::int32_t* row) {
        const std::span symbols(row, row_size_);
        const bool are_symbols = block_width_ == 1   ? read_symbols<1>(rest_.data(), symbols)
                                 : block_width_ == 2 ? read_symbols<2>(rest_.data(), symbols)
                                                     : read_symbols<4>(rest_.data(), symbols);
        rest_ = rest_.subspan(row_size_ * block_width_);
        return are_symbols ? Status::ok : Status::corrupt;
    }

    Status finish() const { return Status::ok; }

private:
    const std::uint8_t* width_ = nullptr;  // of the next block
    std::span<const std::uint8_t> rest_;   // symbols to come
    std::size_t row_size_ = 0, block_width_ = 0;
};

}  // namespace metaq::stored
