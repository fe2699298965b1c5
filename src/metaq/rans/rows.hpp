// rANS streams, row by row, in little memory.
//
// Lanes share one sequence of words, and each has a share of the symbols: so that symbols come in their order, the words are gone
// through once for each lane, and its symbols alone are kept. Entries are searched for instead of looked up.
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
#include "metaq/rans/kernels.hpp"
#include "metaq/rans/tables.hpp"

namespace metaq::rans {

class RowDecoder {
public:
    // There is a block that is not empty.
    Status open(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
        data_ = data;
        for (const Block& block : blocks) size_ += block.size();
        if (data.size() < least_bytes()) return Status::truncated;
        BitReader reader(data);
        const Status status = read_header(reader, blocks, header_);
        if (header_.alphabet.listed.is_out_of_memory() || status == Status::no_memory) return Status::no_memory;
        const bool is_padded = reader.pads_with_zeros();
        if (reader.status() != Status::ok) return Status::truncated;
        if (status != Status::ok || !is_padded) return Status::corrupt;
        is_constant_ = header_.is_constant();
        const std::uint64_t escaped = (std::uint64_t{header_.escapes} * header_.alphabet.escape_width + 7) / 8;
        const std::uint64_t states = is_constant_ ? 0 : std::uint64_t{4} << header_.lane_width;
        const auto rest = data.subspan(reader.bytes());
        if (rest.size() < escaped + states) return Status::truncated;
        escaped_ = rest.first(static_cast<std::size_t>(escaped));
        words_ = rest.subspan(static_cast<std::size_t>(escaped));
        lane_ = 0;
        if (!find_units(blocks)) return Status::no_memory;
        return start_pass() ? Status::ok : Status::corrupt;
    }

    Status start_block(const Block& block) {
        row_size_ = block.channels * block.kernel;
        return Status::ok;
    }

    Status read_row(std::int32_t* row) {
        for (std::size_t i = 0; i < row_size_; ++i) {
            while (step_ == end_of(lane_)) {  // a lane may have no symbols
                ++lane_;
                if (!start_pass()) return Status::corrupt;
            }
            const Status status = decode_step(row[i]);
            if (status != Status::ok) return status;
        }
        return Status::ok;
    }

    // The last pass goes on to the end of all lanes.
    Status finish() {
        std::int32_t unused = 0;
        while (step_ < end_of(0)) {
            const Status status = decode_step(unused);
            if (status != Status::ok) return status;
        }
        const std::span states(state_.data(), lanes());
        const auto is_back = [](std::uint32_t state) { return state == kLeastState; };
        if (!std::all_of(states.begin(), states.end(), is_back) || escapes_ != header_.escapes) return Status::corrupt;
        const Status status = raw_.finish();
        if (status != Status::ok) return status;
        const auto filler = words_.subspan(next_);
        const bool are_zeros = std::all_of(filler.begin(), filler.end(), [](std::uint8_t byte) { return byte == 0; });
        return are_zeros && (filler.empty() || data_.size() == least_bytes()) ? Status::ok : Status::corrupt;
    }

private:
    std::size_t least_bytes() const { return (size_ - 1) / kSymbolsPerByte + 1; }
    std::size_t lanes() const { return std::size_t{1} << header_.lane_width; }
    // The steps in which a lane has a symbol.
    std::size_t end_of(std::size_t lane) const { return size_ / lanes() + (lane < size_ % lanes() ? 1 : 0); }

    [[nodiscard]] bool find_units(std::span<const Block> blocks) {
        if (header_.classes == 1) return true;
        if (!unit_ends_.reserve(header_.unit_classes.size())) return false;
        bool has_memory = true;
        for_each_unit_end(blocks, header_.unit_width,
                          [&](std::size_t end) { has_memory &= unit_ends_.append(static_cast<std::uint32_t>(end)); });
        return has_memory;
    }

    // Sees the words from the first on. False if encoding ends with no such states.
    bool start_pass() {
        next_ = 0;
        step_ = 0;
        escapes_ = 0;
        raw_ = BitReader(escaped_);
        context_.fill(0);
        state_.fill(kLeastState);
        bool are_good = true;
        for (std::size_t lane = 0; lane < lanes(); ++lane) {
            const std::size_t start = lane_start(lane, lanes(), size_);
            unit_[lane] = static_cast<std::uint32_t>(std::upper_bound(unit_ends_.begin(), unit_ends_.end(), start) -
                                                     unit_ends_.begin());
            if (is_constant_) continue;
            const std::uint8_t* const bytes = words_.data() + next_;
            state_[lane] = bytes[0] | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 |
                           std::uint32_t{bytes[3]} << 24;
            next_ += 4;
            are_good &= state_[lane] >= kLeastState;
        }
        return are_good;
    }

    // One symbol of each lane that has one, of which that of the pass's lane is kept.
    Status decode_step(std::int32_t& symbol) {
        for (std::size_t lane = 0; lane < lanes() && step_ < end_of(lane); ++lane) {
            std::size_t entry = 0;
            if (!decode_entry(lane, entry)) return Status::truncated;
            std::int32_t found = 0;
            if (entry < header_.alphabet.listed.size()) {
                found = header_.alphabet.listed[entry];
            } else if (escapes_++ == header_.escapes || !read_escaped(raw_, header_.alphabet, found)) {
                return Status::corrupt;
            }
            if (lane == lane_) symbol = found;
        }
        ++step_;
        return Status::ok;
    }

    // False if the words end.
    bool decode_entry(std::size_t lane, std::size_t& entry) {
        const std::size_t position = lane_start(lane, lanes(), size_) + step_;
        while (unit_[lane] < unit_ends_.size() && unit_ends_[unit_[lane]] <= position) ++unit_[lane];
        const std::size_t number = unit_ends_.empty() ? 0 : header_.unit_classes[unit_[lane]];
        const auto frequencies = header_.table(number * header_.contexts.count() + context_[lane]);
        std::uint32_t& x = state_[lane];
        const std::uint32_t place = x & ((1u << header_.precision) - 1);
        std::uint32_t start = 0;
        for (entry = 0; place - start >= frequencies[entry]; ++entry) start += frequencies[entry];
        x = frequencies[entry] * (x >> header_.precision) + place - start;
        context_[lane] = static_cast<std::uint8_t>(header_.contexts.of(entry, header_.alphabet.listed.size()));
        if (x >= kLeastState) return true;
        if (words_.size() - next_ < 2) return false;
        x = x << 16 | words_[next_] | std::uint32_t{words_[next_ + 1]} << 8;
        next_ += 2;
        return true;
    }

    std::span<const std::uint8_t> data_, escaped_, words_;
    BasicHeader<GrowingList<std::int32_t>> header_;
    Buffer<std::uint32_t> unit_ends_;  // none if there is one class
    std::size_t size_ = 0, row_size_ = 0;
    bool is_constant_ = false;
    // Of the pass:
    std::size_t lane_ = 0;  // whose symbols it keeps
    std::size_t step_ = 0, next_ = 0;
    std::uint32_t escapes_ = 0;
    BitReader raw_{{}};
    std::array<std::uint32_t, kLaneLimit> state_{}, unit_{};
    std::array<std::uint8_t, kLaneLimit> context_{};
};

}  // namespace metaq::rans
