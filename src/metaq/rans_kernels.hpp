// The inner loops of rANS decoding: a portable one for any number of lanes, and for 32 lanes and narrow tables AVX2 and
// AVX-512, chosen when the program runs. All give the same symbols from the same words.
//
// A step decodes one symbol in each lane: x is a lane's state, p the precision, t its table (of its unit's class and
// its context): slot = x mod 2^p; x = frequency(t, slot) * floor(x / 2^p) + offset(t, slot); below 2^16, x takes in the
// next 16-bit word, x = 2^16 x + word, in the order of the lanes.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "metaq/rans_tables.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#define METAQ_RANS_X86 1
#include <immintrin.h>
#endif

namespace metaq::rans {

inline constexpr std::size_t kLaneLimit = 1u << kLaneWidthLimit;
inline constexpr std::uint32_t kLeastState = 1u << 16;
inline constexpr std::size_t kTileSymbols = 2048;  // staged as entries before they become symbols or values

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
    std::size_t end;       // in the sequence
    std::uint32_t table;   // its class's first slot
};

// The lanes between two steps. Steps count from the start of the tile.
struct Lanes {
    alignas(64) std::array<std::uint32_t, kLaneLimit> state{};
    alignas(64) std::array<std::uint32_t, kLaneLimit> table{};    // first slot of the class
    alignas(64) std::array<std::uint32_t, kLaneLimit> context{};  // of the symbol before: so many tables further
    alignas(64) std::array<std::uint32_t, kLaneLimit> due{};      // the step with which the next unit begins
    std::array<const UnitRun*, kLaneLimit> unit{};
    std::array<std::size_t, kLaneLimit> position{};               // in the sequence, at the start of the tile
    const std::uint8_t* words = nullptr;
    const std::uint8_t* end = nullptr;
    bool is_truncated = false;  // words behind the end were asked for
    unsigned precision = 0;

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

template <class Form>
void decode_portable(Lanes& lanes, const typename Form::Slot* slots, typename Form::Entry* entries, std::size_t active,
                     std::size_t first, std::size_t steps) {
    const unsigned precision = lanes.precision;
    const unsigned field = Form::field(precision);
    const std::uint32_t mask = (1u << precision) - 1;
    const std::uint32_t field_mask = (1u << field) - 1;
    for (std::size_t step = first; step < steps; ++step) {
        for (std::size_t lane = 0; lane < active; ++lane) {
            if (lanes.due[lane] == step) lanes.next_unit(lane, static_cast<std::uint32_t>(step));
            std::uint32_t x = lanes.state[lane];
            const auto slot = slots[lanes.table[lane] + lanes.context[lane] + (x & mask)];
            const auto frequency = (static_cast<std::uint32_t>(slot >> field) & field_mask) + 1;
            x = frequency * (x >> precision) + (static_cast<std::uint32_t>(slot) & field_mask);
            if (x < kLeastState) {
                std::uint32_t word = 0;
                if (lanes.end - lanes.words >= 2) {
                    word = lanes.words[0] | std::uint32_t{lanes.words[1]} << 8;
                    lanes.words += 2;
                } else {
                    lanes.is_truncated = true;
                }
                x = x << 16 | word;
            }
            lanes.state[lane] = x;
            const auto entry = slot >> Form::kEntryShift;
            lanes.context[lane] = (static_cast<std::uint32_t>(slot >> field >> field) & (kContexts - 1)) << precision;
            entries[step * active + lane] = static_cast<typename Form::Entry>(entry);
        }
    }
}
