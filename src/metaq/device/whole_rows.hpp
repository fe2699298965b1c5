// Row by row what a coder gives at once: all symbols of a chunk are in memory, four bytes each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/base/buffer.hpp"
#include "metaq/base/symbols.hpp"

namespace metaq::device {

// `decode(data, blocks)` is a coder's.
template <Status (*decode)(std::span<const std::uint8_t>, std::span<const Block>)>
class WholeRows {
public:
    Status open(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
        Buffer<Block> places;
        std::size_t size = 0;
        for (const Block& block : blocks) size += block.size();
        if (!symbols_.resize_for_overwrite(size) || !places.reserve(blocks.size())) return Status::no_memory;
        next_ = symbols_.data();
        std::int32_t* place = symbols_.data();
        for (const Block& block : blocks) {
            if (!places.append({place, block.rows, block.channels, block.kernel})) return Status::no_memory;
            place += block.size();
        }
        return decode(data, places);
    }

    Status start_block(const Block& block) {
        row_size_ = block.channels * block.kernel;
        return Status::ok;
    }

    Status read_row(std::int32_t* row) {
        std::copy_n(next_, row_size_, row);
        next_ += row_size_;
        return Status::ok;
    }

    Status finish() const { return Status::ok; }

private:
    Buffer<std::int32_t> symbols_;
    const std::int32_t* next_ = nullptr;
    std::size_t row_size_ = 0;
};

}  // namespace metaq::device
