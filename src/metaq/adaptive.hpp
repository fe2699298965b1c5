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

inline std::size_t entry_of(std::int64_t cell) {
    return -kCentre <= cell && cell <= kCentre ? static_cast<std::size_t>(cell + kCentre) : kFar;
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

// The same of a copy of the coder, which thus can stay in registers otherwise.
template <class Coder>
[[gnu::always_inline]] inline std::int64_t code_far_aside(Coder& coder, std::size_t lane, Table& table, std::int64_t cell) {
    Coder copy = coder;
    cell = code_far(copy, lane, table, cell);
    coder = copy;
    return cell;
}

// What is coded of symbols that are free: what they are more than the centre.
struct FreeSymbols {
    std::int32_t centre = 0;

    static constexpr std::int16_t kCellLevel = level_of_cells(kFree);

    std::size_t set() const { return kFree; }
    std::int64_t index(std::int64_t symbol) const { return symbol - centre; }

    // The value of an index, after which others may be meant.
    std::int64_t take(std::int64_t index) { return index; }
    std::int32_t take_entry(std::size_t entry) { return static_cast<std::int32_t>(entry) - kCentre; }
};

// By state and entry: the value of the index that the entry stands for, and the state after it.
struct Move {
    std::int8_t value;
    std::uint8_t next;
};
using Moves = std::array<std::array<Move, kEntries>, dependent::kMostStates>;

constexpr std::int64_t value_of(std::int64_t index, std::size_t quantizer) {
    const std::int64_t sign = (index > 0) - (index < 0);  // it would often be guessed wrong, so there is no branch for it
    return 2 * index - sign * static_cast<std::int64_t>(quantizer);
}

constexpr Moves make_moves(const dependent::Machine& machine) {
    Moves moves{};
    for (std::size_t state = 0; state < machine.states; ++state) {
        for (std::size_t entry = 0; entry < kEntries; ++entry) {
            const std::int64_t index = static_cast<std::int64_t>(entry) - kCentre;
            moves[state][entry] = {static_cast<std::int8_t>(value_of(index, dependent::quantizer_of(state))), machine.next[state][index & 1]};
        }
    }
    return moves;
}
static_assert(dependent::kMachines == 2);
inline constexpr std::array<Moves, dependent::kMachines> kMoves{make_moves(dependent::kMachine[0]), make_moves(dependent::kMachine[1])};

// What is coded of symbols of dependent quantizers: their indices.
struct DependentSymbols {
    const Moves* moves;
    std::size_t state = 0;
    static constexpr std::int32_t centre = 0;

    static_assert(level_of_cells(0) == level_of_cells(1));
    static constexpr std::int16_t kCellLevel = level_of_cells(0);

    std::size_t set() const { return dependent::quantizer_of(state); }
    std::int64_t index(std::int64_t symbol) const { return symbol < 0 ? -dependent::index_of(-symbol) : dependent::index_of(symbol); }
    std::int64_t take(std::int64_t index) {
        const std::int64_t value = value_of(index, set());
        state = (*moves)[state][kCentre + (index & 1)].next;
        return value;
    }
    std::int32_t take_entry(std::size_t entry) {
        const Move move = (*moves)[state][entry];
        state = move.next;
        return move.value;
    }
};

// The coder, and where the rows of a band are.
template <class Coder, class Symbols>
struct Band {
    Coder coder;
    std::array<Symbols, kLanes> symbols;
};

// Codes a symbol, or fills it, and gives its value. False if what is found is none.
template <class Coder, class Symbol, class Symbols>
[[gnu::always_inline]] inline bool code_symbol(Tables& tables, Band<Coder, Symbols>& band, std::size_t lane, Symbol& symbol, const Expected& expected, std::int32_t& value) {
    Symbols& symbols = band.symbols[lane];
    const std::size_t set = symbols.set();
    const Place place = place_of(tables, set, expected, lane);
    std::int64_t index = 0;
    if constexpr (std::is_const_v<Symbol>) index = place.turned(symbols.index(symbol));
    std::int64_t cell = (index >> place.shift) - place.offset;
    const std::size_t entry = band.coder.code(lane, *place.cells, entry_of(cell));
    cell = entry == kFar ? code_far_aside(band.coder, lane, tables.far[set], cell) : static_cast<std::int64_t>(entry) - kCentre;
    std::uint32_t low = 0;  // the place within the cell
    if (place.shift > 0) low = band.coder.bits(lane, static_cast<std::uint32_t>(index) & ((1u << place.shift) - 1), place.shift);
    index = place.turned((cell + place.offset) * (std::int64_t{1} << place.shift) + static_cast<std::int64_t>(low));
    const std::int64_t found = symbols.take(index);
    if (!is_symbol(symbols.centre + found)) return false;
    value = static_cast<std::int32_t>(found);
    if constexpr (!std::is_const_v<Symbol>) symbol = static_cast<std::int32_t>(symbols.centre + found);
    return true;
}

// The same of one symbol of each of some rows, and not inlined, so that where there are four their states can be registers.
template <class Coder, class Symbol, class Symbols>
[[gnu::noinline]] bool code_few(Tables& tables, Band<Coder, Symbols>& band, const BasicBlock<Symbol>& column, const Expected& expected, Numbers& values) {
    values = {};
    for (std::size_t lane = 0; lane < column.rows; ++lane) {
        if (!code_symbol(tables, band, lane, column.symbols[lane * column.channels], expected, values[lane])) return false;
    }
    return true;
}

template <class Coder, class Symbol, class Symbols>
[[gnu::always_inline]] inline bool code_four(Tables& tables, Band<Coder, Symbols>& band, const BasicBlock<Symbol>& column, const Expected& expected, Numbers& values) {
    static_assert(kLanes == 4);
    const auto code = [&](std::size_t lane, std::int32_t& value) __attribute__((always_inline)) {
        return code_symbol(tables, band, lane, column.symbols[lane * column.channels], expected, value);
    };
    std::int32_t first, second, third, fourth;
    if (!code(0, first) || !code(1, second) || !code(2, third) || !code(3, fourth)) return false;
    values = numbers_of(first, second, third, fourth);
    return true;
}

// The same where cells are single indices.
template <class Coder, class Symbol, class Symbols>
[[gnu::always_inline]] inline bool code_four_near(Tables& tables, Band<Coder, Symbols>& band, const BasicBlock<Symbol>& column, const Expected& expected, Numbers& values) {
    const std::array<std::uint32_t, kLanes> near = near_tables(expected);
    const auto value = [&](std::size_t lane) __attribute__((always_inline)) -> std::int32_t {
        const std::size_t set = band.symbols[lane].set();
        std::int64_t cell = 0;
        if constexpr (std::is_const_v<Symbol>) {
            const std::int64_t index = band.symbols[lane].index(column.symbols[lane * column.channels]);
            cell = expected.value[lane] < 0 ? -index : index;
        }
        const std::size_t entry = band.coder.code(lane, tables.cells[set][near[lane]], entry_of(cell));
        if (entry != kFar) [[likely]] return band.symbols[lane].take_entry(entry);
        const std::int64_t far = band.symbols[lane].take(code_far_aside(band.coder, lane, tables.far[set], cell));
        return INT32_MIN < far && far <= INT32_MAX ? static_cast<std::int32_t>(far) : INT32_MIN;  // no symbol, whatever the centre
    };
    static_assert(kLanes == 4);
    const std::int32_t first = value(0), second = value(1), third = value(2), fourth = value(3);
    values = turned(numbers_of(first, second, third, fourth), expected.value);
    const Numbers symbols = plus(values, band.symbols[0].centre);
    if (!are_within(symbols, kSymbolLimit)) return false;
    if constexpr (!std::is_const_v<Symbol>) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) column.symbols[lane * column.channels] = symbols[lane];
    }
    return true;
}

// Codes the symbols of a band, or fills them.
template <class Coder, class Symbol, class Symbols>
Status code_band(State& state, Coder& coder, const BasicBlock<Symbol>& rows, const Symbols& of_rows) {
    History& history = state.history;
    Band<Coder, Symbols> band{coder, {}};
    band.symbols.fill(of_rows);
    BasicBlock<Symbol> column{rows.symbols, rows.rows, rows.channels * rows.kernel, 1};
    while (const std::size_t size = history.start_group()) {
        const std::int16_t near_level = history.is_exact() ? Symbols::kCellLevel : 0;
        for (std::size_t i = 0; i < size; ++i, ++column.symbols) {
            const Expected expected = history.expect(i);
            Numbers values;
            bool is_sound;
            if (rows.rows < kLanes) {
                Band<Coder, Symbols> copy = band;
                Numbers found;
                is_sound = code_few(state.tables, copy, column, expected, found);
                band = copy;
                values = found;
            } else if (all_below(expected.level, near_level)) {
                is_sound = code_four_near(state.tables, band, column, expected, values);
            } else {
                is_sound = code_four(state.tables, band, column, expected, values);
            }
            if (!is_sound) return Status::corrupt;
            history.note(i, expected, values);
        }
        history.end_group();
        if (band.coder.status() != Status::ok) return band.coder.status();
    }
    history.end_band();
    coder = band.coder;
    return Status::ok;
}

// Codes the symbols of a block, or fills it.
template <class Coder, class Symbol, class Symbols>
Status code_symbols(State& state, Coder& coder, const BasicBlock<Symbol>& block, const Symbols& of_rows) {
    state.history.start_block(block.rows, block.channels, block.kernel);
    const std::size_t row_size = block.channels * block.kernel;
    for (std::size_t row = 0; row < block.rows; row += kLanes) {
        const std::size_t lanes = std::min(kLanes, block.rows - row);
        state.history.start_band(row, lanes);
        const Status status = code_band(state, coder, BasicBlock<Symbol>{block.symbols + row * row_size, lanes, block.channels, block.kernel}, of_rows);
        if (status != Status::ok) return status;
    }
    state.history.end_block();
    return Status::ok;
}

template <class Coder, class Symbol>
Status code_block(State& state, Coder& coder, const BasicBlock<Symbol>& block, const BlockHeader& header) {
    if (header.machine == 0) return code_symbols(state, coder, block, FreeSymbols{header.centre});
    return code_symbols(state, coder, block, DependentSymbols{&kMoves[header.machine - 1]});
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
    std::vector<Step> steps;
    Encoder coder(steps);
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
    const PaddedBytes bytes(data.subspan(reader.bytes()), kWordBytes * kMostSteps);
    Decoder coder(bytes, any);
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
