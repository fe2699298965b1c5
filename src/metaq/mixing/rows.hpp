// Streams of the mixing coder, row by row, in as little memory as what is learned takes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "metaq/base/binary_coder.hpp"
#include "metaq/base/dependent.hpp"
#include "metaq/base/memory.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/mixing/coder.hpp"
#include "metaq/mixing/sparse_memory.hpp"

namespace metaq::mixing {

class RowDecoder {
public:
    Status open(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
        state_ = make_state<SparseState>(count_symbols(blocks));
        if (state_ == nullptr) return Status::no_memory;
        // Before all that grows, so that it does not have to move.
        for (const Block& block : blocks) {
            if (!state_->history.make_room(block.rows, block.channels, block.kernel)) return Status::no_memory;
        }
        least_bytes_ = least_bytes(blocks);
        coder_.emplace(data);
        return Status::ok;
    }

    Status start_block(const Block& block) {
        block_ = block;
        row_ = 0;
        if (!read_header(state_->model, *coder_, is_first_, header_)) return Status::corrupt;
        is_first_ = false;
        dependent_.reset();
        if (header_.constant) return coder_->truncated() ? Status::truncated : Status::ok;
        if (header_.machine > 0) dependent_.emplace(dependent::kMachine[header_.machine - 1]);
        return state_->history.start_block(block.rows, block.channels, block.kernel);
    }

    // Before `row` lie the symbols of the row before, if the block has one.
    Status read_row(std::int32_t* row) {
        if (header_.constant) {
            std::fill_n(row, block_.channels * block_.kernel, header_.centre);
            return Status::ok;
        }
        FreeSymbols free;
        const Status status = dependent_ ? code_row(*state_, *coder_, block_, row_, row, 0, *dependent_)
                                         : code_row(*state_, *coder_, block_, row_, row, header_.centre, free);
        if (status == Status::ok && ++row_ == block_.rows) state_->history.end_block();
        return status;
    }

    Status finish() const { return coder_->finish(least_bytes_); }

private:
    using SparseState = BasicState<BasicModel<SparseMemory>, BasicHistory<SparseWeights>>;

    Owned<SparseState> state_;
    std::optional<BinaryDecoder> coder_;
    std::optional<DependentSymbols> dependent_;
    std::size_t least_bytes_ = 0;
    Block block_{};
    BlockHeader header_{};
    std::size_t row_ = 0;
    bool is_first_ = true;
};

}  // namespace metaq::mixing
