// The adaptive coder: blocks of symbols <-> bytes, by rANS with tables that learn, chosen by what is expected of a symbol.
//
// A stream: the blocks' headers as bits, zeros filling the last byte; unless all blocks are constant, the rANS
// (rans.hpp); and zeros up to a byte for every 2^19 symbols.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/adaptive/band.hpp"
#include "metaq/adaptive/rans.hpp"
#include "metaq/base/bits.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/centre.hpp"
#include "metaq/base/dependent.hpp"
#include "metaq/base/memory.hpp"
#include "metaq/base/symbols.hpp"

namespace metaq::adaptive {

struct BlockHeader {
    std::int32_t centre;  // the symbol coded as zero: the most frequent; zero itself if they are dependent
    bool constant;        // all symbols are the centre
    std::size_t machine;  // 0 for symbols that are free, or one more than the place in dependent::kMachine
    bool sparse = false;  // free symbols are mostly the centre
};

template <class Coder, class Symbol>
Status code_block(State& state, Coder& coder, const BasicBlock<Symbol>& block, const BlockHeader& header) {
    if (header.machine == 0) return code_symbols(state, coder, block, FreeSymbols{header.centre, header.sparse});
    return code_symbols(state, coder, block, DependentSymbols{&kMoves[header.machine - 1]});
}

inline constexpr std::uint32_t kConstant = dependent::kMachines + 1;  // above the kinds that name a machine
inline constexpr unsigned kKindBits = 2, kCentreOrder = 3;

inline BlockHeader make_header(const ConstBlock& block) {
    if (is_constant(block)) return {block.symbols[0], true, 0};
    const std::size_t machine = dependent::machine_of(block);
    if (machine > 0) return {0, false, machine};
    const std::int32_t centre = most_frequent(block);
    const auto centres = static_cast<std::size_t>(std::count(block.symbols, block.symbols + block.size(), centre));
    return {centre, false, 0, centres > block.size() / 2};
}

inline void write_header(BitWriter& writer, const BlockHeader& header) {
    writer.put(header.constant ? kConstant : static_cast<std::uint32_t>(header.machine), kKindBits);
    if (!header.constant && header.machine == 0) writer.put(header.sparse, 1);
    if (header.machine == 0) put_golomb(writer, to_zigzag(header.centre), kCentreOrder);
}

// Returns false if no encoder writes this.
inline bool read_header(BitReader& reader, BlockHeader& header) {
    const std::uint32_t kind = reader.get(kKindBits);
    header = {0, kind == kConstant, kind == kConstant ? 0 : kind};
    if (header.machine > 0) return true;
    if (!header.constant) header.sparse = reader.get(1) == 1;
    std::uint32_t folded = 0;
    if (!get_golomb(reader, kCentreOrder, folded)) return false;
    header.centre = from_zigzag(folded);
    return is_symbol(header.centre);
}

// Appends the code of `blocks` to `out`. The status is ok, or there is no memory.
[[nodiscard]] inline Status encode(std::span<const ConstBlock> blocks, std::vector<std::uint8_t>& out) {
    const std::size_t start = out.size();
    const Owned<State> state = make_owned<State>();
    if (state == nullptr) return Status::no_memory;
    BitWriter writer(out);
    std::vector<Step> steps;
    Encoder coder(steps);
    bool any = false;
    for (const ConstBlock& block : blocks) {
        if (block.size() == 0) continue;
        const BlockHeader header = make_header(block);
        write_header(writer, header);
        if (header.constant) continue;
        const Status status = code_block(*state, coder, block, header);
        if (status != Status::ok) return status;
        any = true;
    }
    writer.finish();
    if (any) coder.finish(out);
    out.resize(std::max(out.size(), start + least_bytes(blocks)));
    return Status::ok;
}

// The most steps that a group takes. A symbol takes one for its cell; if that is far, one for the number of bits of its
// distance, one more if that is large, and three for those bits; and one for its place in the cell.
inline constexpr std::size_t kMostSteps = kGroup * kLanes * (2 + 1 + 3 + 1);

// Fills `blocks`, whose shapes are those encoded, from exactly `data`. Allocates a copy of the data, 90 KB, and for each column
// of the widest block 12 bytes or fewer.
[[nodiscard]] inline Status decode(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
    Buffer<BlockHeader> headers;
    if (!headers.reserve(blocks.size())) return Status::no_memory;
    BitReader reader(data);
    bool any = false;
    for (const Block& block : blocks) {
        if (!headers.append({0, true, 0})) return Status::no_memory;
        if (block.size() == 0) continue;
        if (!read_header(reader, headers.back())) return Status::corrupt;
        any |= !headers.back().constant;
    }
    if (!reader.pads_with_zeros()) return Status::corrupt;
    if (reader.status() != Status::ok || data.size() < least_bytes(blocks)) return Status::truncated;
    PaddedBytes bytes;
    if (!bytes.assign(data.subspan(reader.bytes()), kWordBytes * kMostSteps)) return Status::no_memory;
    Decoder coder(bytes, any);
    const Owned<State> state = make_owned<State>();
    if (state == nullptr) return Status::no_memory;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        if (headers[i].constant) {
            std::fill_n(blocks[i].symbols, blocks[i].size(), headers[i].centre);
            continue;
        }
        const Status status = code_block(*state, coder, blocks[i], headers[i]);
        if (status != Status::ok) return status;
    }
    return coder.finish(data.size() == least_bytes(blocks));
}

}  // namespace metaq::adaptive
