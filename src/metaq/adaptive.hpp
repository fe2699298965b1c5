// The adaptive coder: blocks of symbols <-> bytes, by rANS with tables that learn, chosen by what is expected of a symbol.
//
// Encoder and decoder are one: both run `code_block` with a coder that either takes entries or finds them, so they cannot
// drift apart. A stream: the blocks' headers as bits, zeros filling the last byte; unless all blocks are constant, the rANS
// (adaptive_rans.hpp); and zeros up to a byte for every 2^19 symbols.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "metaq/adaptive_history.hpp"
#include "metaq/adaptive_rans.hpp"
#include "metaq/adaptive_tables.hpp"
#include "metaq/bits.hpp"
#include "metaq/centre.hpp"
#include "metaq/dependent.hpp"
#include "metaq/symbols.hpp"

namespace metaq::adaptive {

struct State {
    Tables tables;
    History history;
};

struct BlockHeader {
    std::int32_t centre;  // the symbol coded as zero: the most frequent; zero itself if they are dependent
    bool constant;        // all symbols are the centre
    std::size_t machine;  // 0 for symbols that are free, or one more than the place in dependent::kMachine
};

// Bits as they are, up to 38 of them; the encoder's, and those a decoder finds.
template <class Coder>
std::uint64_t code_bits(Coder& coder, std::size_t lane, std::uint64_t value, unsigned count) {
    std::uint64_t found = 0;
    while (count > 0) {
        const unsigned now = std::min(count, kShareBits);
        count -= now;
        found = found << now | coder.bits(lane, static_cast<std::uint32_t>(value >> count) & ((1u << now) - 1), now);
    }
    return found;
}

// A cell outside -7 ... 7: the bits of its distance and the sign by a table, then the distance below its leading one.
template <class Coder>
std::int64_t code_far(Coder& coder, std::size_t lane, Table& table, std::int64_t cell) {
    constexpr unsigned kListed = 7;  // as many bits or more: how many more follows in five bits
    const bool is_negative = cell < 0;
    const auto distance = static_cast<std::uint64_t>(is_negative ? -cell : cell) - kCentre;
    unsigned bits = static_cast<unsigned>(std::bit_width(distance)) - 1;
    const std::size_t entry = coder.code(lane, table, 2 * std::min(bits, kListed) + is_negative);
    if (entry / 2 == kListed) {
        bits = kListed + static_cast<unsigned>(coder.bits(lane, bits - kListed, 5));
    } else {
        bits = static_cast<unsigned>(entry / 2);
    }
    const auto found = static_cast<std::int64_t>(std::uint64_t{1} << bits | code_bits(coder, lane, distance, bits)) + kCentre;
    return entry % 2 ? -found : found;
}

template <class Coder>
[[gnu::always_inline]] inline std::int64_t code_index(Tables& tables, Coder& coder, std::size_t lane, std::size_t set, const Place& place, std::int64_t index) {
    index = place.turned(index);
    std::int64_t cell = (index >> place.shift) - place.offset;
    const bool is_near = -kCentre <= cell && cell <= kCentre;
    const std::size_t entry = coder.code(lane, *place.cells, is_near ? static_cast<std::size_t>(cell + kCentre) : kFar);
    cell = entry == kFar ? code_far(coder, lane, tables.far[set], cell) : static_cast<std::int64_t>(entry) - kCentre;
    std::uint32_t low = 0;  // the place within the cell
    if (place.shift > 0) low = coder.bits(lane, static_cast<std::uint32_t>(index) & ((1u << place.shift) - 1), place.shift);
    return place.turned((cell + place.offset) * (std::int64_t{1} << place.shift) + static_cast<std::int64_t>(low));
}

// What is coded of symbols that are free: what they are more than the centre.
struct FreeSymbols {
    std::int32_t centre = 0;

    std::size_t set() const { return kFree; }
    std::int64_t index(std::int64_t symbol) const { return symbol - centre; }
    std::int64_t value(std::int64_t index) const { return index; }
    void move_on(std::int64_t) {}
};

// What is coded of symbols of dependent quantizers: their indices.
struct DependentSymbols {
    const dependent::Machine* machine = nullptr;
    std::size_t state = 0;
    static constexpr std::int32_t centre = 0;

    std::size_t set() const { return dependent::quantizer_of(state); }
    std::int64_t index(std::int64_t symbol) const { return symbol < 0 ? -dependent::index_of(-symbol) : dependent::index_of(symbol); }
    std::int64_t value(std::int64_t index) const {
        const std::int64_t sign = (index > 0) - (index < 0);
        return 2 * index - sign * static_cast<std::int64_t>(set());
    }
    void move_on(std::int64_t index) { state = machine->next[state][index & 1]; }
};

// Does something for each lane. Where all take part, it is done four times over, for states in registers.
template <class Work>
[[gnu::always_inline]] inline void for_lanes(std::size_t lanes, const Work& work) {
    static_assert(kLanes == 4);
    if (lanes == kLanes) {
        work(0), work(1), work(2), work(3);
        return;
    }
    for (std::size_t lane = 0; lane < lanes; ++lane) work(lane);
}

// Codes the symbols of a band, or fills them.
template <class Coder, class Symbol, class Symbols>
Status code_band(State& state, Coder& coder, const BasicBlock<Symbol>& band, const Symbols& of_rows) {
    History& history = state.history;
    const std::size_t lanes = band.rows, row_size = band.channels * band.kernel;
    std::array<Symbols, kLanes> symbols;
    symbols.fill(of_rows);
    Symbol* first = band.symbols;
    while (const std::size_t size = history.start_group()) {
        for (std::size_t i = 0; i < size; ++i, ++first) {
            const Expected expected = history.expect(i);
            Numbers values{};
            bool is_sound = true;
            for_lanes(lanes, [&](std::size_t lane) __attribute__((always_inline)) {
                Symbol& symbol = first[lane * row_size];
                const std::size_t set = symbols[lane].set();
                std::int64_t index = 0;
                if constexpr (std::is_const_v<Symbol>) index = symbols[lane].index(symbol);
                index = code_index(state.tables, coder, lane, set, place_of(state.tables, set, expected, lane), index);
                const std::int64_t value = symbols[lane].value(index);
                values[lane] = static_cast<std::int32_t>(value);
                if constexpr (!std::is_const_v<Symbol>) {
                    is_sound &= is_symbol(of_rows.centre + value);
                    symbol = static_cast<std::int32_t>(of_rows.centre + value);
                }
                symbols[lane].move_on(index);
            });
            if (!is_sound) return Status::corrupt;
            history.note(i, expected, values);
        }
        history.end_group();
        if (coder.status() != Status::ok) return coder.status();
    }
    history.end_band();
    return Status::ok;
}

// Codes the symbols of a block, or fills it.
template <class Coder, class Symbol, class Symbols>
Status code_symbols(State& state, Coder& shared_coder, const BasicBlock<Symbol>& block, const Symbols& of_rows) {
    Coder coder = std::move(shared_coder);  // by value, so that its states stay in registers
    state.history.start_block(block.rows, block.channels, block.kernel);
    const std::size_t row_size = block.channels * block.kernel;
    for (std::size_t row = 0; row < block.rows; row += kLanes) {
        const std::size_t lanes = std::min(kLanes, block.rows - row);
        state.history.start_band(row, lanes);
        const BasicBlock<Symbol> band{block.symbols + row * row_size, lanes, block.channels, block.kernel};
        const Status status = code_band(state, coder, band, of_rows);
        if (status != Status::ok) return status;
    }
    state.history.end_block();
    shared_coder = std::move(coder);
    return Status::ok;
}

template <class Coder, class Symbol>
Status code_block(State& state, Coder& coder, const BasicBlock<Symbol>& block, const BlockHeader& header) {
    if (header.machine == 0) return code_symbols(state, coder, block, FreeSymbols{header.centre});
    return code_symbols(state, coder, block, DependentSymbols{&dependent::kMachine[header.machine - 1]});
}

inline constexpr std::uint32_t kConstant = dependent::kMachines + 1;  // above the kinds that name a machine
inline constexpr unsigned kKindBits = 2, kCentreOrder = 3;

inline BlockHeader make_header(const ConstBlock& block) {
    if (is_constant(block)) return {block.symbols[0], true, 0};
    const std::size_t machine = dependent::machine_of(block);
    return {machine > 0 ? 0 : most_frequent(block), false, machine};
}

inline void write_header(BitWriter& writer, const BlockHeader& header) {
    writer.put(header.constant ? kConstant : static_cast<std::uint32_t>(header.machine), kKindBits);
    if (header.machine == 0) put_golomb(writer, to_zigzag(header.centre), kCentreOrder);
}

// False if no encoder writes this.
inline bool read_header(BitReader& reader, BlockHeader& header) {
    const std::uint32_t kind = reader.get(kKindBits);
    header = {0, kind == kConstant, kind == kConstant ? 0 : kind};
    if (header.machine > 0) return true;
    std::uint32_t folded = 0;
    if (!get_golomb(reader, kCentreOrder, folded)) return false;
    header.centre = from_zigzag(folded);
    return is_symbol(header.centre);
}

// Appends the code of `blocks` to `out`.
inline void encode(std::span<const ConstBlock> blocks, std::vector<std::uint8_t>& out) {
    const std::size_t start = out.size();
    const auto state = std::make_unique<State>();
    BitWriter writer(out);
    Encoder coder;
    bool any = false;
    for (const ConstBlock& block : blocks) {
        if (block.size() == 0) continue;
        const BlockHeader header = make_header(block);
        write_header(writer, header);
        if (header.constant) continue;
        code_block(*state, coder, block, header);
        any = true;
    }
    writer.finish();
    if (any) coder.finish(out);
    out.resize(std::max(out.size(), start + least_bytes(blocks)));
}

// Steps of a group at most: of a symbol its cell, and if that is far the bits of its distance, how many these are, and
// they themselves; then its place in the cell.
inline constexpr std::size_t kMostSteps = kGroup * kLanes * (2 + 1 + 3 + 1);

// Fills `blocks`, whose shapes are those encoded, from exactly `data`.
inline Status decode(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
    std::vector<BlockHeader> headers;
    BitReader reader(data);
    bool any = false;
    for (const Block& block : blocks) {
        headers.push_back({0, true, 0});
        if (block.size() == 0) continue;
        if (!read_header(reader, headers.back())) return Status::corrupt;
        any |= !headers.back().constant;
    }
    if (!reader.pads_with_zeros()) return Status::corrupt;
    if (reader.status() != Status::ok || data.size() < least_bytes(blocks)) return Status::truncated;
    Decoder coder(data.subspan(reader.bytes()), any, kMostSteps);
    const auto state = std::make_unique<State>();
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
