// Dependent quantization: which multiples of the step a weight may take depends on those taken before it in its row.
//
// Even multiples form quantizer 0, odd ones and zero quantizer 1. A machine of four or eight states, in state 0 at the
// start of each row, says by the lowest bit of its state which one applies. A symbol is the index-th multiple in its
// quantizer, 2 index - sign(index) * quantizer, and the parity of the index moves the machine on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "metaq/base/symbols.hpp"

namespace metaq::dependent {

inline constexpr std::size_t kMachines = 2;
inline constexpr std::size_t kMostStates = 8;

struct Machine {
    std::size_t states;
    std::array<std::array<std::uint8_t, 2>, kMostStates> next;  // by state and parity
};

inline constexpr std::array<Machine, kMachines> kMachine{{
    {4, {{{0, 1}, {2, 3}, {1, 0}, {3, 2}}}},
    {8, {{{0, 2}, {5, 7}, {1, 3}, {6, 4}, {2, 0}, {4, 6}, {3, 1}, {7, 5}}}},
}};

inline constexpr std::size_t quantizer_of(std::size_t state) { return state & 1; }

// Of magnitudes: a symbol and its index have the same sign.
inline constexpr std::int64_t symbol_of(std::int64_t index, std::size_t quantizer) {
    return 2 * index - (index > 0 ? static_cast<std::int64_t>(quantizer) : 0);
}
inline constexpr std::int64_t index_of(std::int64_t symbol) { return (symbol + 1) / 2; }

// Whether the symbols of a block are a path of the machine, with so many nonzero ones that it cannot be by accident.
inline bool follows(const Machine& machine, const ConstBlock& block) {
    constexpr std::size_t kTelling = 48;  // nonzero symbols; each rules out half of all other sequences
    const std::size_t row_size = block.channels * block.kernel;
    const std::int32_t* symbol = block.symbols;
    std::size_t telling = 0;
    for (std::size_t y = 0; y < block.rows; ++y) {
        std::size_t state = 0;
        for (std::size_t i = 0; i < row_size; ++i, ++symbol) {
            if (*symbol != 0 && (*symbol & 1) != static_cast<std::int32_t>(quantizer_of(state))) return false;
            telling += *symbol != 0;
            state = machine.next[state][index_of(*symbol < 0 ? -std::int64_t{*symbol} : *symbol) & 1];
        }
    }
    return telling >= kTelling;
}

// Returns one more than the place in kMachine of the machine whose path the symbols are, or 0 if they are free.
inline std::size_t machine_of(const ConstBlock& block) {
    for (std::size_t machine = kMachines; machine > 0; --machine) {
        if (follows(kMachine[machine - 1], block)) return machine;
    }
    return 0;
}

}  // namespace metaq::dependent
