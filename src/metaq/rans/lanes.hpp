// The lanes of interleaved rANS, and the slots of its tables, as the inner loops in kernels.hpp see them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "metaq/rans/tables.hpp"

namespace metaq::rans {

inline constexpr std::size_t kLaneLimit = 1u << kLaneWidthLimit;
inline constexpr std::uint32_t kLeastState = 1u << 16;
inline constexpr std::size_t kTileSymbols = 8192;  // staged as entries before they become symbols or values

// One slot of a table: frequency - 1 and offset in `precision` bits each, the next symbol's context, the entry.
struct Narrow {
    using Slot = std::uint32_t;
    using Entry = std::uint8_t;
    static constexpr unsigned kEntryShift = 24;
    static unsigned field(unsigned precision) { return precision; }
};
struct Wide {
    using Slot = std::uint64_t;
    using Entry = std::uint16_t;
    static constexpr unsigned kEntryShift = 48;
    static unsigned field(unsigned) { return kPrecisionLimit; }
};

inline bool is_narrow(const Header& header) {
    const unsigned fields = 2 * header.precision + (header.contexts.are_used ? 2 : 0);
    return header.entries() <= 256 && fields <= Narrow::kEntryShift;
}

struct UnitRun {
    std::size_t end;      // in the sequence
    std::uint32_t table;  // its class's first slot
};

// The lanes between two steps. Steps count from the start of the tile.
struct Lanes {
    alignas(64) std::array<std::uint32_t, kLaneLimit> state{};
    alignas(64) std::array<std::uint32_t, kLaneLimit> table{};    // first slot of the class
    alignas(64) std::array<std::uint32_t, kLaneLimit> context{};  // of the symbol before: so many tables further
    alignas(64) std::array<std::uint32_t, kLaneLimit> due{};      // the step with which the next unit begins
    std::array<const UnitRun*, kLaneLimit> unit{};
    std::array<std::size_t, kLaneLimit> position{};  // in the sequence, at the start of the tile
    const std::uint8_t* words = nullptr;
    const std::uint8_t* end = nullptr;
    bool is_truncated = false;  // words behind the end were asked for
    unsigned precision = 0;
    std::uint32_t context_mask = 0;  // zero: of order 0

    void start_tile(std::size_t lanes) {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            while (unit[lane]->end <= position[lane]) ++unit[lane];
            enter_unit(lane, 0, unit[lane]->end - position[lane]);
        }
    }

    void next_unit(std::size_t lane, std::uint32_t step) {
        const std::size_t begin = unit[lane]->end;
        ++unit[lane];
        enter_unit(lane, step, unit[lane]->end - begin);
    }

private:
    void enter_unit(std::size_t lane, std::uint32_t step, std::size_t left) {
        table[lane] = unit[lane]->table;
        due[lane] = step + static_cast<std::uint32_t>(std::min(left, 2 * kTileSymbols));
    }
};

// Kernels of vectors decode steps from 0 while the words for the next one surely lie within the data, at most `steps` of
// them, in all 32 lanes, and return how many. They may read, not use, this many bytes.
inline constexpr std::ptrdiff_t kReadAhead = 96;

}  // namespace metaq::rans
