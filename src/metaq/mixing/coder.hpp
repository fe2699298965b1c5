// The mixing coder: blocks of symbols <-> bytes, by context mixing and binary arithmetic coding.
//
// Encoder and decoder are one: both run `code_block` with a coder that either takes decisions or finds them, so they cannot
// drift apart. What is learned stays from block to block; means start anew in each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "metaq/base/binary_coder.hpp"
#include "metaq/base/centre.hpp"
#include "metaq/base/dependent.hpp"
#include "metaq/base/memory.hpp"
#include "metaq/base/replaceable.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/mixing/contexts.hpp"
#include "metaq/mixing/model.hpp"

namespace metaq::mixing {

inline constexpr std::size_t kSearchBytes = 1 << 14;  // streams below are coded by every rate of the mixers

template <class SomeModel, class SomeHistory>
struct BasicState {
    SomeModel model;
    SomeHistory history;

    // The status of the stream: no_memory or truncated if memory or data has run out, and otherwise that of the symbols.
    template <class Coder>
    Status status(const Coder& coder, Status of_symbols) const {
        if (model.is_out_of_memory() || history.is_out_of_memory()) return Status::no_memory;
        return coder.truncated() ? Status::truncated : of_symbols;
    }
};

using State = BasicState<Model, History>;

template <class Blocks>
std::size_t count_symbols(const Blocks& blocks) {
    std::size_t symbols = 0;
    for (const auto& block : blocks) symbols += block.size();
    return symbols;
}

// For a stream of about so many symbols. Returns null if there is no memory.
template <class AnyState = State>
Owned<AnyState> make_state(std::size_t symbols) {
    Owned<AnyState> state = make_owned<AnyState>();
    if (state != nullptr && !state->model.allocate(symbols)) state.reset();
    return state;
}

struct BlockHeader {
    std::int32_t centre;  // the symbol coded as zero: the most frequent; zero itself if they are dependent
    bool constant;        // all symbols are the centre
    std::size_t rate;     // of the mixers, in the stream's first block; 0 in all others
    std::size_t machine;  // 0 for symbols that are free, or one more than the place in dependent::kMachine
};

// A symbol less the centre, or its index.
struct Sized {
    std::int64_t magnitude;
    bool negative;
};

// The width of a square kernel; any other kernel is taken for a single row.
inline std::size_t kernel_width(std::size_t kernel) {
    std::size_t width = 1;
    while (width < 64 && width * width < kernel) ++width;
    return width * width == kernel ? width : kernel;
}

// Free symbols are coded by their magnitudes.
struct FreeSymbols {
    void start_row() {}
    std::size_t quantizer() const { return 0; }
    std::int64_t index(std::int64_t magnitude) const { return magnitude; }
    std::int64_t magnitude(std::int64_t index) const { return index; }
    void move_on(std::int64_t) {}
};

// Symbols of dependent quantizers are coded by their indices.
class DependentSymbols {
public:
    explicit DependentSymbols(const dependent::Machine& machine) : machine_(machine) {}

    void start_row() { state_ = 0; }
    std::size_t quantizer() const { return dependent::quantizer_of(state_); }
    std::int64_t index(std::int64_t magnitude) const { return dependent::index_of(magnitude); }
    std::int64_t magnitude(std::int64_t index) const { return dependent::symbol_of(index, quantizer()); }
    void move_on(std::int64_t index) { state_ = machine_.next[state_][index & 1]; }

private:
    const dependent::Machine& machine_;
    std::size_t state_ = 0;
};

template <class Coder, class AnyState>
Sized code_symbol(AnyState& state, Coder& coder, const Sized& symbol, const Expectation& expected,
                  const Neighbours& near, const Position& at, std::size_t quantizer) {
    auto& model = state.model;
    Contexts contexts = state.history.zero_contexts(expected, near, quantizer);
    if (!model.code(coder, symbol.magnitude > 0, kNotZero, model.place(contexts))) return {0, false};
    const bool negative = model.code(coder, symbol.negative, kSign,
                                     model.place(state.history.sign_contexts(expected, near, at)));
    state.history.turn_to_magnitude(contexts, expected, negative, quantizer);
    const auto placed = model.place(contexts);
    std::int64_t lower = 1;
    std::size_t number = 1;  // of the class
    while (lower < 2 * std::int64_t{kSymbolLimit}) {
        const std::int64_t next = lower + class_width(lower);
        if (!model.code(coder, symbol.magnitude >= next, std::min(number, kLastClass), placed)) break;
        lower = next;
        ++number;
    }
    return {model.code_place(coder, symbol.magnitude, lower, number), negative};
}

// Codes the symbols of a row of a block, or fills it; those of the row before lie right before them. The status is corrupt if
// a symbol is out of range.
template <class AnyState, class Coder, class Symbol, class Symbols>
[[nodiscard]] Status code_row(AnyState& state, Coder& coder, const BasicBlock<Symbol>& block, std::size_t row,
                              Symbol* symbol, std::int32_t centre, Symbols& symbols) {
    const std::size_t row_size = block.channels * block.kernel;
    const std::size_t width = kernel_width(block.kernel);
    const bool spatial = block.kernel > 1;
    state.history.start_row(row);
    symbols.start_row();
    Position at{row, 0, 0, 0};
    for (at.channel = 0; at.channel < block.channels; ++at.channel) {
        for (at.kernel = 0; at.kernel < block.kernel; ++at.kernel, ++at.column, ++symbol) {
            const auto before = [&](std::size_t n) { return symbol[-1 - static_cast<std::ptrdiff_t>(n)] - centre; };
            const bool has_left = spatial ? at.kernel % width != 0 : at.column > 0;
            const Neighbours near{has_left ? before(0) : 0, spatial && at.kernel >= width ? before(width - 1) : 0,
                                  at.row > 0 ? before(row_size - 1) : 0};
            const Expectation expected = state.history.expect(at, before);
            Sized known{0, false};
            if constexpr (std::is_const_v<Symbol>) {
                const std::int64_t value = std::int64_t{*symbol} - centre;
                known = {symbols.index(value < 0 ? -value : value), value < 0};
            }
            const Sized coded = code_symbol(state, coder, known, expected, near, at, symbols.quantizer());
            const std::int64_t magnitude = symbols.magnitude(coded.magnitude);
            if constexpr (!std::is_const_v<Symbol>) {
                const std::int64_t value = centre + (coded.negative ? -magnitude : magnitude);
                if (!is_symbol(value)) return state.status(coder, Status::corrupt);
                *symbol = static_cast<std::int32_t>(value);
            }
            state.history.learn(at, magnitude, coded.negative);
            symbols.move_on(coded.magnitude);
        }
    }
    state.history.end_row(row);
    return state.status(coder, Status::ok);
}

// As before, of all rows of a block.
template <class Coder, class Symbol, class Symbols>
[[nodiscard]] Status code_symbols(State& state, Coder& coder, const BasicBlock<Symbol>& block, std::int32_t centre,
                                  Symbols symbols) {
    const Status started = state.history.start_block(block.rows, block.channels, block.kernel);
    if (started != Status::ok) return started;
    for (std::size_t row = 0; row < block.rows; ++row) {
        Symbol* const first = block.symbols + row * block.channels * block.kernel;
        const Status status = replaceable<&code_row<State, Coder, Symbol, Symbols>>(state, coder, block, row, first,
                                                                                    centre, symbols);
        if (status != Status::ok) return status;
    }
    state.history.end_block();
    return Status::ok;
}

template <class Coder, class Symbol>
[[nodiscard]] Status code_block(State& state, Coder& coder, const BasicBlock<Symbol>& block,
                                const BlockHeader& header) {
    if (header.machine == 0) return code_symbols(state, coder, block, header.centre, FreeSymbols{});
    return code_symbols(state, coder, block, 0, DependentSymbols(dependent::kMachine[header.machine - 1]));
}

// Rate and machine are coded above the flag for constant blocks, so that 0 costs nothing; the centre as 0, -1, 1, -2, ...
template <class AnyModel, class Coder>
BlockHeader code_header(AnyModel& model, Coder& coder, const BlockHeader& header) {
    const std::size_t known = (header.machine * kMixerRates.size() + header.rate) * 2 + header.constant;
    const std::size_t kind = model.code_number(coder, static_cast<std::uint32_t>(known), 0);
    const std::int64_t centre = header.centre;
    const auto folded = static_cast<std::uint32_t>(centre < 0 ? -2 * centre - 1 : 2 * centre);
    const std::int64_t number = model.code_number(coder, folded, 1);
    return {static_cast<std::int32_t>(number & 1 ? -((number + 1) / 2) : number / 2), (kind & 1) != 0,
            kind / 2 % kMixerRates.size(), kind / 2 / kMixerRates.size()};
}

// Returns false if no encoder writes this. The first block's header names the mixers' rate.
template <class AnyModel>
bool read_header(AnyModel& model, BinaryDecoder& coder, bool is_first, BlockHeader& header) {
    header = code_header(model, coder, {0, false, 0, 0});
    if (!is_symbol(header.centre) || (header.rate > 0 && !is_first)) return false;
    if (header.machine > (header.constant || header.centre != 0 ? 0 : dependent::kMachines)) return false;
    if (is_first) model.set_mixer_rate(header.rate);
    return true;
}

inline BlockHeader make_header(const ConstBlock& block) {
    if (is_constant(block)) return {block.symbols[0], true, 0, 0};
    const std::size_t machine = dependent::machine_of(block);
    return {machine > 0 ? 0 : most_frequent(block), false, 0, machine};
}

// Appends the code of `blocks` with one rate of the mixers.
[[nodiscard]] inline Status encode_at_rate(std::span<const ConstBlock> blocks, std::span<const BlockHeader> headers,
                                           std::size_t rate, std::vector<std::uint8_t>& bytes) {
    const Owned<State> state = make_state(count_symbols(blocks));
    if (state == nullptr) return Status::no_memory;
    state->model.set_mixer_rate(rate);
    BinaryEncoder coder(bytes);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        code_header(state->model, coder,
                    {headers[i].centre, headers[i].constant, i == 0 ? rate : 0, headers[i].machine});
        if (headers[i].constant) continue;
        const Status status = code_block(*state, coder, blocks[i], headers[i]);
        if (status != Status::ok) return status;
    }
    coder.finish(least_bytes(blocks));
    return Status::ok;
}

// Appends the code of `blocks` to `out`, by the mixers' rate that makes it shortest; of long streams only the first is
// tried, since the others would change them by less than a thousandth. The status is ok, or there is no memory.
[[nodiscard]] inline Status encode(std::span<const ConstBlock> blocks, std::vector<std::uint8_t>& out) {
    std::vector<ConstBlock> filled;
    std::vector<BlockHeader> headers;
    for (const ConstBlock& block : blocks) {
        if (block.size() == 0) continue;
        filled.push_back(block);
        headers.push_back(make_header(block));
    }
    std::vector<std::uint8_t> best;
    for (std::size_t rate = 0; rate < kMixerRates.size() && best.size() < kSearchBytes; ++rate) {
        std::vector<std::uint8_t> bytes;
        const Status status = encode_at_rate(filled, headers, rate, bytes);
        if (status != Status::ok) return status;
        if (rate == 0 || bytes.size() < best.size()) best = std::move(bytes);
    }
    out.insert(out.end(), best.begin(), best.end());
    return Status::ok;
}

// Fills `blocks`, whose shapes are those encoded, from exactly `data`. Allocates 0.2 MB, 192 bytes for each context that a
// short stream meets or 4.7 MB for a long one, and for blocks that are wide or have many rows more: 20 MB at most.
[[nodiscard]] inline Status decode(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
    const Owned<State> state = make_state(count_symbols(blocks));
    if (state == nullptr) return Status::no_memory;
    BinaryDecoder coder(data);
    bool is_first = true;
    for (const Block& block : blocks) {
        if (block.size() == 0) continue;
        BlockHeader header;
        if (!read_header(state->model, coder, is_first, header)) return Status::corrupt;
        is_first = false;
        if (header.constant) {
            std::fill_n(block.symbols, block.size(), header.centre);
        } else if (const Status status = code_block(*state, coder, block, header); status != Status::ok) {
            return status;
        }
        if (coder.truncated()) return Status::truncated;
    }
    return coder.finish(least_bytes(blocks));
}

}  // namespace metaq::mixing
