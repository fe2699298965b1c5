// The adaptive coder's bands of four rows: symbols <-> steps of rANS.
//
// Encoder and decoder are one: both run `code_symbols` with a coder that either takes entries or finds them, so they cannot
// drift apart.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "metaq/adaptive/history.hpp"
#include "metaq/adaptive/lanes.hpp"
#include "metaq/adaptive/rans.hpp"
#include "metaq/adaptive/tables.hpp"
#include "metaq/base/dependent.hpp"
#include "metaq/base/replaceable.hpp"
#include "metaq/base/symbols.hpp"

namespace metaq::adaptive {

struct State {
    Tables tables;
    History history;
};

// Codes up to 38 plain bits, and returns them: the encoder's `value`, or what the decoder reads.
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
    constexpr unsigned kListed = 7;  // from so many bits on, five bits say how many more there are
    const bool is_negative = cell < 0;
    const auto distance = static_cast<std::uint64_t>(is_negative ? -cell : cell) - kCentre;
    unsigned bits = static_cast<unsigned>(std::bit_width(distance)) - 1;
    const std::size_t entry = coder.code(lane, table, 2 * std::min(bits, kListed) + is_negative);
    if (entry / 2 == kListed) {
        bits = kListed + static_cast<unsigned>(coder.bits(lane, bits - kListed, 5));
    } else {
        bits = static_cast<unsigned>(entry / 2);
    }
    const auto found = static_cast<std::int64_t>(std::uint64_t{1} << bits | code_bits(coder, lane, distance, bits)) +
                       kCentre;
    return entry % 2 ? -found : found;
}

// Free symbols are coded by their difference from the centre; those that are mostly the centre have a set of tables of their own.
struct FreeSymbols {
    std::int32_t centre = 0;
    bool are_sparse = false;

    static constexpr std::int16_t kCellLevel = level_of_cells(kFree);

    std::size_t set() const { return are_sparse ? kSparse : kFree; }
    std::int64_t index(std::int64_t symbol) const { return symbol - centre; }

    // Returns the value of an index, and moves on to the next symbol.
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
    const std::int64_t sign = (index > 0) - (index < 0);  // without a branch, which would often be mispredicted
    return 2 * index - sign * static_cast<std::int64_t>(quantizer);
}

constexpr Moves make_moves(const dependent::Machine& machine) {
    Moves moves{};
    for (std::size_t state = 0; state < machine.states; ++state) {
        for (std::size_t entry = 0; entry < kEntries; ++entry) {
            const std::int64_t index = static_cast<std::int64_t>(entry) - kCentre;
            const std::int64_t value = value_of(index, dependent::quantizer_of(state));
            moves[state][entry] = {static_cast<std::int8_t>(value), machine.next[state][index & 1]};
        }
    }
    return moves;
}
static_assert(dependent::kMachines == 2);
inline constexpr std::array<Moves, dependent::kMachines> kMoves{make_moves(dependent::kMachine[0]),
                                                                make_moves(dependent::kMachine[1])};

// Symbols of dependent quantizers are coded by their indices.
struct DependentSymbols {
    const Moves* moves;
    std::size_t state = 0;
    static constexpr std::int32_t centre = 0;

    static_assert(level_of_cells(0) == level_of_cells(1));
    static constexpr std::int16_t kCellLevel = level_of_cells(0);

    std::size_t set() const { return dependent::quantizer_of(state); }
    std::int64_t index(std::int64_t symbol) const {
        return symbol < 0 ? -dependent::index_of(-symbol) : dependent::index_of(symbol);
    }
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

// Codes the symbols of a band's rows column by column, or fills them. Rare cases work on a copy of the band and are not
// inlined, so that compilers keep the band in registers in the common ones.
template <class Coder, class Symbol, class Symbols>
class Band {
public:
    Band(Tables& tables, const Coder& coder, const BasicBlock<Symbol>& rows, const Symbols& of_rows)
        : tables_(&tables),
          coder_(coder),
          first_(rows.symbols),
          row_size_(rows.channels * rows.kernel),
          rows_(rows.rows) {
        symbols_.fill(of_rows);
    }

    const Coder& coder() const { return coder_; }

    // Codes the next column, given what is expected of it and whether that is exact. Returns false if it has values that are no
    // symbols.
    [[gnu::always_inline]] bool code(const Expected& expected, bool is_exact, Int32Lanes& values) {
        bool is_sound;
        if (rows_ < kLanes) {
            Band copy = *this;
            Int32Lanes found;
            is_sound = copy.code_few(expected, found);
            *this = copy;
            values = found;
        } else if (all_below(expected.level, is_exact ? Symbols::kCellLevel : std::int16_t{0})) {
            is_sound = code_four_near(expected, values);
        } else {
            is_sound = code_four(expected, values);
        }
        ++first_;
        return is_sound;
    }

private:
    Symbol& symbol(std::size_t lane) const { return first_[lane * row_size_]; }

    [[gnu::noinline]] bool code_few(const Expected& expected, Int32Lanes& values) {
        values = {};
        for (std::size_t lane = 0; lane < rows_; ++lane) {
            if (!code_lane(lane, expected, values[lane])) return false;
        }
        return true;
    }

    [[gnu::always_inline]] bool code_four(const Expected& expected, Int32Lanes& values) {
        static_assert(kLanes == 4);
        std::int32_t first, second, third, fourth;
        if (!code_lane(0, expected, first) || !code_lane(1, expected, second)) return false;
        if (!code_lane(2, expected, third) || !code_lane(3, expected, fourth)) return false;
        values = int32_lanes(first, second, third, fourth);
        return true;
    }

#ifdef __wasm__  // where size counts
    [[gnu::noinline]]
#else
    [[gnu::always_inline]]
#endif
    bool code_lane(std::size_t lane, const Expected& expected, std::int32_t& value) {
        Symbols& symbols = symbols_[lane];
        const std::size_t set = symbols.set();
        const Place place = place_of(*tables_, set, expected, lane);
        std::int64_t index = 0;
        if constexpr (std::is_const_v<Symbol>) index = place.turned(symbols.index(symbol(lane)));
        std::int64_t cell = (index >> place.shift) - place.offset;
        const std::size_t entry = coder_.code(lane, *place.cells, entry_of(cell));
        cell = entry == kFar ? far_cell(lane, set, cell) : static_cast<std::int64_t>(entry) - kCentre;
        std::uint32_t low = 0;  // the place within the cell
        if (place.shift > 0)
            low = coder_.bits(lane, static_cast<std::uint32_t>(index) & ((1u << place.shift) - 1), place.shift);
        index = place.turned((cell + place.offset) * (std::int64_t{1} << place.shift) + static_cast<std::int64_t>(low));
        const std::int64_t found = symbols.take(index);
        if (!is_symbol(symbols.centre + found)) return false;
        value = static_cast<std::int32_t>(found);
        if constexpr (!std::is_const_v<Symbol>) symbol(lane) = static_cast<std::int32_t>(symbols.centre + found);
        return true;
    }

    // The case in which all cells are single indices, and nothing is subtracted.
    [[gnu::always_inline]] bool code_four_near(const Expected& expected, Int32Lanes& values) {
        static_assert(kLanes == 4);
        const std::array<std::uint32_t, kLanes> near = near_tables(expected);
        const std::int32_t first = near_value(0, near[0], expected), second = near_value(1, near[1], expected);
        const std::int32_t third = near_value(2, near[2], expected), fourth = near_value(3, near[3], expected);
        values = turned(int32_lanes(first, second, third, fourth), expected.value);
        const Int32Lanes found = plus(values, symbols_[0].centre);
        if (!are_within(found, kSymbolLimit)) return false;
        if constexpr (!std::is_const_v<Symbol>) {
            for (std::size_t lane = 0; lane < kLanes; ++lane) symbol(lane) = found[lane];
        }
        return true;
    }

    // The value of a lane before it is turned.
    [[gnu::always_inline]] std::int32_t near_value(std::size_t lane, std::uint32_t table, const Expected& expected) {
        Symbols& symbols = symbols_[lane];
        const std::size_t set = symbols.set();
        std::int64_t cell = 0;
        if constexpr (std::is_const_v<Symbol>) {
            const std::int64_t index = symbols.index(symbol(lane));
            cell = expected.value[lane] < 0 ? -index : index;
        }
        const std::size_t entry = coder_.code(lane, tables_->cells[set][table], entry_of(cell));
        if (entry != kFar) [[likely]]
            return symbols.take_entry(entry);
        const std::int64_t far = symbols.take(far_cell(lane, set, cell));
        return INT32_MIN < far && far <= INT32_MAX ? static_cast<std::int32_t>(far)
                                                   : INT32_MIN;  // no symbol, whatever the centre
    }

    [[gnu::always_inline]] std::int64_t far_cell(std::size_t lane, std::size_t set, std::int64_t cell) {
        Coder copy = coder_;
        cell = code_far(copy, lane, tables_->far[set], cell);
        coder_ = copy;
        return cell;
    }

    Tables* tables_;
    Coder coder_;
    std::array<Symbols, kLanes> symbols_;
    Symbol* first_;  // of the column
    std::size_t row_size_;
    std::size_t rows_;
};

// Codes the symbols of a band, or fills them.
template <class Coder, class Symbol, class Symbols>
Status code_band(State& state, Coder& coder, const BasicBlock<Symbol>& rows, const Symbols& of_rows) {
    History& history = state.history;
    Band<Coder, Symbol, Symbols> band(state.tables, coder, rows, of_rows);
    while (const std::size_t size = history.start_group()) {
        for (std::size_t i = 0; i < size; ++i) {
            const Expected expected = history.expect(i);
            Int32Lanes values;
            if (!band.code(expected, history.is_exact(), values)) return Status::corrupt;
            history.note(i, expected, values);
        }
        history.end_group();
        if (band.coder().status() != Status::ok) return band.coder().status();
    }
    history.end_band();
    coder = band.coder();
    return Status::ok;
}

// Codes the symbols of a block, or fills it.
template <class Coder, class Symbol, class Symbols>
Status code_symbols(State& state, Coder& coder, const BasicBlock<Symbol>& block, const Symbols& of_rows) {
    const Status started = state.history.start_block(block.rows, block.channels, block.kernel);
    if (started != Status::ok) return started;
    const std::size_t row_size = block.channels * block.kernel;
    for (std::size_t row = 0; row < block.rows; row += kLanes) {
        const std::size_t lanes = std::min(kLanes, block.rows - row);
        state.history.start_band(row, lanes);
        const BasicBlock<Symbol> rows{block.symbols + row * row_size, lanes, block.channels, block.kernel};
        const Status status = replaceable<&code_band<Coder, Symbol, Symbols>>(state, coder, rows, of_rows);
        if (status != Status::ok) return status;
    }
    state.history.end_block();
    return Status::ok;
}

}  // namespace metaq::adaptive
