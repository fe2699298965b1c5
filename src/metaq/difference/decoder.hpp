// Elements of a base to those of the network that a difference makes of it.
//
// A stream: the tables (tables.hpp) as bits, zeros filling the last byte; the states, 32 bits each, and the words of 16 bits
// that they take in, both little-endian; the lower bits of magnitudes, in the order of decoding, filled up likewise. The
// units that change are dealt to the lanes in turn, and a step of decoding yields one element in each lane: whether it
// changes, from a table for its exponent in the base and for the two before it, and then by how much. After the last, all
// states are 2^16, where encoding, which runs backwards, began.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "metaq/base/bits.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/difference/tables.hpp"
#include "metaq/difference/words.hpp"

namespace metaq::difference {

inline constexpr std::uint32_t kLeastState = 1u << 16;
inline constexpr std::size_t kLaneLimit = std::size_t{1} << kLaneWidthLimit;
inline constexpr std::size_t kRoundBytes = 2 * sizeof(std::uint16_t) * kUnit * kLaneLimit +
                                           2;  // read by a round at most

// A symbol, its frequency less one, and its slot's place in the symbol's interval.
struct Slot {
    std::uint32_t symbol : 8, frequency : 12, place : 12;
};

template <class Word, bool kIsFloat>
class Decoder {
public:
    Decoder(const Tables& tables, unsigned mantissa_bits, std::span<const std::uint8_t> low)
        : mantissa_bits_(mantissa_bits), low_(low) {
        place_keys(tables, places_);
        for (std::size_t i = 0; i < tables.first_keys.size(); ++i) {
            for (std::size_t j = 0; j < kHistories; ++j) unchanged_[i * kHistories + j] = tables.unchanged[i][j];
        }
    }

    [[nodiscard]] bool make_slots(const Tables& tables) {
        if (!slots_.resize(tables.first_keys.size() << kSymbolPrecision)) return false;
        for (std::size_t i = 0; i < tables.first_keys.size(); ++i) {
            if (!tables.has_changes(i)) continue;
            Slot* slot = slots_.data() + (i << kSymbolPrecision);
            for (std::size_t symbol = 0; symbol < tables.symbols; ++symbol) {
                const std::uint32_t frequency = tables.frequencies[i][symbol];
                for (std::uint32_t place = 0; place < frequency; ++place)
                    *slot++ = {static_cast<std::uint32_t>(symbol), (frequency - 1) & 0xfffu, place & 0xfffu};
            }
        }
        return true;
    }

    // The units begin at these elements; all but the last of all have kUnit of them.
    Status run(std::span<const std::uint8_t> coded, unsigned lane_width, std::span<const std::uint32_t> units,
               const std::uint8_t* base, std::uint8_t* out, std::size_t size) {
        const std::size_t lanes = std::size_t{1} << lane_width;
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            std::uint32_t state = 0;
            for (unsigned i = 4; i-- > 0;) state = state << 8 | coded[4 * lane + i];
            if (state < kLeastState) return Status::corrupt;
            states_[lane] = state;
        }
        words_ = coded.data() + 4 * lanes;
        end_ = coded.data() + coded.size();
        for (std::size_t first = 0; first < units.size(); first += lanes) {
            if (static_cast<std::size_t>(end_ - words_) < kRoundBytes && !is_in_tail_) move_to_tail();
            const std::size_t active = std::min(lanes, units.size() - first);
            const std::size_t last = (units[first + active - 1] + std::size_t{1}) * kUnit;
            const std::span<const std::uint32_t> round = units.subspan(first, active);
            if (active == kLaneLimit && last <= size) {
                decode_round<kLaneLimit>(round, base, out);
            } else {
                decode_round(round, base, out, last <= size ? kUnit : kUnit - (last - size));
            }
            if (words_ > end_) return Status::truncated;
        }
        const bool is_done = std::all_of(states_.begin(), states_.begin() + static_cast<std::ptrdiff_t>(lanes),
                                         [](std::uint32_t state) { return state == kLeastState; });
        if (!is_done || words_ != end_) return Status::corrupt;
        return low_.finish();
    }

private:
    // What is left, with zeros behind it for a round.
    void move_to_tail() {
        const auto left = static_cast<std::size_t>(end_ - words_);
        std::copy(words_, end_, tail_.begin());
        words_ = tail_.data();
        end_ = words_ + left;
        is_in_tail_ = true;
    }

    // Without a branch, which would be mispredicted often.
    static void take_in(std::uint32_t& state, const std::uint8_t*& words) {
        const std::uint32_t mask = 0u - static_cast<std::uint32_t>(state < kLeastState);
        state = state << (16 & mask) | (load<std::uint16_t>(words) & mask);
        words += 2 & mask;
    }

    void decode_element(std::uint32_t& state, std::uint32_t& history, const std::uint8_t* base, std::uint8_t* out,
                        const std::uint8_t*& words, BitReader& low) const {
        const Word word = load<Word>(base);
        const std::size_t place = places_[key_of<Word, kIsFloat>(word, mantissa_bits_)];
        const std::uint32_t unchanged = unchanged_[place + history];
        const std::uint32_t slot = state & 0xffff;
        if (slot < unchanged) [[likely]] {
            state = unchanged * (state >> 16) + slot;
            history = history << 1 & 3;
            if (state >= kLeastState) [[likely]]
                return;
            state = state << 16 | load<std::uint16_t>(words);
            words += 2;
        } else {
            state = ((1u << kFlagPrecision) - unchanged) * (state >> 16) + slot - unchanged;
            history = (history << 1 & 3) | 1;
            take_in(state, words);
            const Slot found = slots_[(place / kHistories << kSymbolPrecision) + (state & 0xfff)];
            state = (found.frequency + 1) * (state >> kSymbolPrecision) + found.place;
            const MagnitudeClass& magnitude = kClasses[found.symbol >> 1];
            const std::uint64_t negative = 0 - std::uint64_t{found.symbol & 1u};
            const std::uint64_t way = ((magnitude.least + low_bits(low, magnitude.bits)) ^ negative) - negative;
            store<Word>(out, moved<Word, kIsFloat>(word, static_cast<Word>(way)));
            take_in(state, words);
        }
    }

    // The next bits of a magnitude, which may be none.
    static std::uint64_t low_bits(BitReader& low, unsigned width) {
        if constexpr (sizeof(Word) < 8) return low.get_few(width);
        const unsigned high = width > 32 ? width - 32 : 0;
        const std::uint64_t first = low.get_few(high);
        return first << (width - high) | low.get_few(width - high);
    }

    // Every lane has a whole unit.
    template <std::size_t kLanes>
    void decode_round(std::span<const std::uint32_t> units, const std::uint8_t* base, std::uint8_t* out) {
        std::array<std::uint32_t, kLanes> states, histories{};
        std::array<const std::uint8_t*, kLanes> from;
        std::array<std::uint8_t*, kLanes> to;
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            states[lane] = states_[lane];
            from[lane] = base + units[lane] * kUnit * sizeof(Word);
            to[lane] = out + units[lane] * kUnit * sizeof(Word);
        }
        const std::uint8_t* words = words_;
        BitReader low = low_;  // which no store can change, so that it stays in registers
        for (std::size_t step = 0; step < kUnit; ++step) {
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
                decode_element(states[lane], histories[lane], from[lane] + step * sizeof(Word),
                               to[lane] + step * sizeof(Word), words, low);
            }
        }
        words_ = words;
        low_ = low;
        std::copy(states.begin(), states.end(), states_.begin());
    }

    // The last lane's unit has `last_size` elements.
    void decode_round(std::span<const std::uint32_t> units, const std::uint8_t* base, std::uint8_t* out,
                      std::size_t last_size) {
        std::array<std::uint32_t, kLaneLimit> histories{};
        for (std::size_t step = 0; step < (units.size() > 1 ? kUnit : last_size); ++step) {
            for (std::size_t lane = 0; lane < units.size(); ++lane) {
                if (lane + 1 == units.size() && step >= last_size) continue;
                const std::size_t at = (units[lane] * kUnit + step) * sizeof(Word);
                decode_element(states_[lane], histories[lane], base + at, out + at, words_, low_);
            }
        }
    }

    std::array<std::uint16_t, kKeys> places_;
    std::array<std::uint32_t, kClassLimit * kHistories> unchanged_{};
    Buffer<Slot> slots_;
    unsigned mantissa_bits_;
    BitReader low_;
    std::array<std::uint32_t, kLaneLimit> states_{};
    const std::uint8_t* words_ = nullptr;
    const std::uint8_t* end_ = nullptr;
    bool is_in_tail_ = false;
    std::array<std::uint8_t, 2 * kRoundBytes> tail_{};
};

// `base` and `out` hold as many elements of this dtype, little-endian; they may be the same memory.
inline Status decode(std::span<const std::uint8_t> data, const WordTraits& traits, std::span<const std::uint8_t> base,
                     std::span<std::uint8_t> out) {
    const std::size_t size = base.size() / traits.bytes;
    if (size > 0 && base.data() != out.data()) std::memcpy(out.data(), base.data(), base.size());
    BitReader source(data);
    Buffer<std::uint32_t> units;
    Tables tables;
    Status status = Status::ok;
    if (!read_units(source, count_units(size), units, status)) {
        return source.status() == Status::ok ? status : Status::truncated;
    }
    const bool is_good = read_tables(source, tables);
    if (source.status() != Status::ok) return Status::truncated;
    if (!is_good || !source.pads_with_zeros()) return Status::corrupt;
    const auto coded = data.subspan(source.bytes());
    const std::size_t coded_size = 4 * (std::size_t{1} << tables.lane_width) + 2 * std::size_t{tables.words};
    if (coded.size() < coded_size) return Status::truncated;
    return with_words(traits, [&](auto word, auto is_float) {
        using Word = decltype(word);
        Decoder<Word, is_float()> decoder(tables, traits.mantissa_bits, coded.subspan(coded_size));
        if (!decoder.make_slots(tables)) return Status::no_memory;
        return decoder.run(coded.first(coded_size), tables.lane_width, units, base.data(), out.data(), size);
    });
}

}  // namespace metaq::difference
