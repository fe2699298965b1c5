// What makes the elements of a network of those of another, its base, as a stream (decoder.hpp): fast, static rANS.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "metaq/base/bits.hpp"
#include "metaq/base/counting.hpp"
#include "metaq/base/interval.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/difference/classes.hpp"
#include "metaq/difference/decoder.hpp"
#include "metaq/difference/tables.hpp"
#include "metaq/difference/words.hpp"

namespace metaq::difference {

inline constexpr std::size_t kElementsLimit = std::size_t{1} << 21;  // to which no stream is too short

// Units are skipped where at most one in so many has changed: beyond that, to say which costs more than it saves.
inline constexpr std::size_t kSkipShare = 8;

// Bits below a magnitude's class.
struct RawBits {
    std::uint64_t value;
    unsigned bits;
};

struct Intervals {
    explicit Intervals(const Tables& tables) {
        for (std::size_t i = 0; i < tables.first_keys.size(); ++i) {
            for (std::size_t j = 0; j < kHistories; ++j) {
                const std::uint32_t share = tables.unchanged[i][j];
                unchanged[i * kHistories + j] = {0, share, kFlagPrecision};
                changed[i * kHistories + j] = {share, (1u << kFlagPrecision) - share, kFlagPrecision};
            }
            std::uint32_t start = 0;
            for (std::size_t j = 0; j < tables.symbols; ++j) {
                symbols[i][j] = {start, tables.frequencies[i][j], kSymbolPrecision};
                start += tables.frequencies[i][j];
            }
        }
    }

    std::array<Interval, kClassLimit * kHistories> unchanged, changed;
    std::array<std::array<Interval, kSymbols>, kClassLimit> symbols;
};

template <class Word, bool kIsFloat>
class Encoder {
public:
    Encoder(unsigned mantissa_bits, std::span<const std::uint8_t> base, std::span<const std::uint8_t> other)
        : mantissa_bits_(mantissa_bits), base_(base.data()), other_(other.data()), size_(base.size() / sizeof(Word)) {}

    // Returns how many elements differ.
    std::uint64_t run(std::vector<std::uint8_t>& out) {
        find_units();
        count();
        Tables tables;
        set_tables(choose_classes(counts_), tables);
        place_keys(tables, places_);
        const std::size_t units = units_.size();
        const std::size_t elements = units * kUnit;
        tables.lane_width = 0;
        // A lane takes four bytes, and waits for itself if there are few.
        while (tables.lane_width < kLaneWidthLimit && elements >> tables.lane_width > 1u << 13) ++tables.lane_width;
        States states;
        states.fill(kLeastState);
        encode(tables, states);
        tables.words = static_cast<std::uint32_t>(words_end_ - first_word_);
        BitWriter sink(out);
        write_units(sink);
        write_tables(sink, tables);
        sink.finish();
        for (std::size_t lane = 0; lane < std::size_t{1} << tables.lane_width; ++lane) {
            for (unsigned i = 0; i < 4; ++i) out.push_back(static_cast<std::uint8_t>(states[lane] >> 8 * i));
        }
        std::size_t at = out.size();
        out.resize(at + 2 * tables.words);
        for (const std::uint16_t* word = first_word_; word < words_end_; ++word, at += 2) store(out.data() + at, *word);
        write_raw(BitWriter(out));
        return changed_;
    }

private:
    static constexpr std::size_t kChangedSlots = kClassLimit * kHistories;
    using States = std::array<std::uint32_t, kLaneLimit>;

    Word base(std::size_t i) const { return load<Word>(base_ + i * sizeof(Word)); }
    Word other(std::size_t i) const { return load<Word>(other_ + i * sizeof(Word)); }
    std::size_t unit_size(std::uint32_t unit) const { return std::min(kUnit, size_ - unit * kUnit); }

    void find_units() {
        const std::size_t units = count_units(size_);
        for (std::size_t i = 0; i < units; ++i) {
            const std::size_t at = i * kUnit * sizeof(Word);
            const auto unit = static_cast<std::uint32_t>(i);
            if (std::memcmp(base_ + at, other_ + at, unit_size(unit) * sizeof(Word)) != 0) units_.push_back(unit);
            are_skipped_ = units_.size() <= units / kSkipShare;
            if (!are_skipped_) break;
        }
        if (are_skipped_) return;
        units_.resize(units);
        for (std::size_t i = 0; i < units; ++i) units_[i] = static_cast<std::uint32_t>(i);
    }

    static std::size_t symbol_of(Word way, std::uint64_t& magnitude) {
        const bool is_back = is_negative(way);
        magnitude = is_back ? static_cast<Word>(0 - way) : way;
        return 2 * class_of(magnitude) + (is_back ? 1 : 0);
    }

    void count() {
        if (units_.empty()) return;
        const std::size_t keys = kIsFloat ? std::size_t{1} << (8 * sizeof(Word) - 1 - mantissa_bits_) : 1;
        found_ = std::make_unique_for_overwrite<std::uint8_t[]>(size_);
        symbols_ = std::make_unique_for_overwrite<std::uint8_t[]>(size_);
        counts_.resize(keys);
        Counter counter(keys);
        for (const std::uint32_t unit : units_) {
            const std::uint8_t* const from = base_ + unit * kUnit * sizeof(Word);
            counter.add(unit_size(unit), [from, bits = mantissa_bits_](std::size_t i) {
                return key_of<Word, kIsFloat>(load<Word>(from + i * sizeof(Word)), bits);
            });
            count_changes(unit);
        }
        // So far as if all elements had stayed, behind two that had.
        for (std::size_t key = 0; key < keys; ++key) counts_[key].flags[0][0] += counter.count(key);
        raw_ = std::make_unique_for_overwrite<RawBits[]>(changed_ + 1);
        raw_end_ = raw_.get();
    }

    // Marks the elements that change, or come soon after one that does, and counts them as what they are.
    void count_changes(std::uint32_t unit) {
        const std::size_t first = unit * kUnit, size = unit_size(unit);
        std::uint8_t* const found = found_.get() + first;
        const std::uint8_t* const from = base_ + first * sizeof(Word);
        const std::uint8_t* const to = other_ + first * sizeof(Word);
        for (std::size_t i = 0; i < size; ++i)
            found[i] = load<Word>(from + i * sizeof(Word)) != load<Word>(to + i * sizeof(Word)) ? kChangedSlots : 0;
        std::uint64_t before = 0;  // of the 64 elements before, which change: the first in the lowest bit
        for (std::size_t i = 0; i < size; i += 64) {
            const std::uint64_t changed = marks(found + i, std::min<std::size_t>(64, size - i));
            const std::uint64_t last = changed << 1 | before >> 63, last_but_one = changed << 2 | before >> 62;
            std::uint64_t near = last | last_but_one;
            if (size - i < 64) near &= (std::uint64_t{1} << (size - i)) - 1;
            const auto history_of = [&](unsigned bit) { return (last >> bit & 1) | (last_but_one >> bit & 1) << 1; };
            for (std::uint64_t left = near & ~changed; left != 0; left &= left - 1) {
                const auto bit = static_cast<unsigned>(std::countr_zero(left));
                mark(first + i + bit, history_of(bit), 0);
            }
            for (std::uint64_t left = changed; left != 0; left &= left - 1) {
                const auto bit = static_cast<unsigned>(std::countr_zero(left));
                count_symbol(first + i + bit, mark(first + i + bit, history_of(bit), 1));
            }
            changed_ += static_cast<std::uint64_t>(std::popcount(changed));
            before = changed;
        }
    }

    // A bit for each of at most 64 elements with a mark.
    static std::uint64_t marks(const std::uint8_t* found, std::size_t size) {
        std::uint64_t result = 0;
        std::size_t i = 0;
        for (; i + 8 <= size; i += 8) {  // the lowest bits of eight bytes to the highest byte
            constexpr unsigned kBit = std::countr_zero(kChangedSlots);
            result |= (load<std::uint64_t>(found + i) >> kBit) * 0x0102040810204080u >> 56 << i;
        }
        for (; i < size; ++i) result |= std::uint64_t{found[i] != 0} << i;
        return result;
    }

    // Returns the counts of the element's exponent.
    Counts& mark(std::size_t i, std::size_t history, std::size_t is_changed) {
        Counts& counts = counts_[key_of<Word, kIsFloat>(base(i), mantissa_bits_)];
        --counts.flags[0][0];
        ++counts.flags[history][is_changed];
        found_[i] = static_cast<std::uint8_t>(found_[i] + history);
        return counts;
    }

    void count_symbol(std::size_t i, Counts& counts) {
        std::uint64_t magnitude = 0;
        symbols_[i] = static_cast<std::uint8_t>(symbol_of(distance<Word, kIsFloat>(base(i), other(i)), magnitude));
        ++counts.symbols[symbols_[i]];
    }

    // Elements that stay cost little, so that a word is rarely given off.
    static void push_unchanged(std::uint32_t& state, const Interval& interval, std::uint16_t*& words) {
        if (state > interval.greatest) [[unlikely]] {
            *--words = static_cast<std::uint16_t>(state);
            state >>= 16;
        }
        interval.add_to(state, kFlagPrecision);
    }

    // From the last element of the last round to the first of the first.
    void encode(const Tables& tables, States& states) {
        const auto intervals = std::make_unique<const Intervals>(tables);
        const std::size_t most_words = 2 * kUnit * units_.size() + 1;
        words_ = std::make_unique_for_overwrite<std::uint16_t[]>(most_words);
        words_end_ = words_.get() + most_words;
        first_word_ = words_end_;
        const std::size_t lanes = std::size_t{1} << tables.lane_width;
        for (std::size_t first = (units_.size() + lanes - 1) / lanes * lanes; first > 0;) {
            first -= lanes;
            const std::size_t active = std::min(lanes, units_.size() - first);
            const std::size_t last_size = unit_size(units_[first + active - 1]);
            const auto round = std::span<const std::uint32_t>(units_).subspan(first, active);
            if (active == kLaneLimit && last_size == kUnit) {
                encode_round(*intervals, states, round);
            } else {
                encode_round(*intervals, states, round, last_size);
            }
        }
    }

    // Every lane has a whole unit. The intervals of all elements are looked up first, so that the loop that waits for the
    // states does little else; it is written out for each lane, because compilers leave the states in memory otherwise.
    void encode_round(const Intervals& intervals, States& states, std::span<const std::uint32_t> units) {
        States own = states;
        std::array<std::uint8_t, kUnit * kLaneLimit> slots;
        for (std::size_t lane = 0; lane < kLaneLimit; ++lane)
            find_slots(units[lane] * kUnit, slots.data() + lane * kUnit);
        std::uint16_t* words = first_word_;
        for (std::size_t step = kUnit; step-- > 0;) {
            const std::uint8_t* const of_step = slots.data() + step;
            [&]<std::size_t... kPlaces>(std::index_sequence<kPlaces...>) {
                (encode_element(intervals, own[kLaneLimit - 1 - kPlaces], of_step[(kLaneLimit - 1 - kPlaces) * kUnit],
                                units[kLaneLimit - 1 - kPlaces] * kUnit + step, words),
                 ...);
            }(std::make_index_sequence<kLaneLimit>());
        }
        first_word_ = words;
        states = own;
    }

    // Of a unit's elements. Stores of bytes may change any member, so that these are copied.
    void find_slots(std::size_t first, std::uint8_t* slots) const {
        const std::uint8_t* const base = base_ + first * sizeof(Word);
        const std::uint8_t* const found = found_.get() + first;
        const unsigned mantissa_bits = mantissa_bits_;
        for (std::size_t i = 0; i < kUnit; ++i)
            slots[i] = slot_of(load<Word>(base + i * sizeof(Word)), found[i], mantissa_bits);
    }

    // Which interval of those that stay or, from kChangedSlots on, of those that change is an element's.
    std::uint8_t slot_of(Word word, std::uint8_t found, unsigned mantissa_bits) const {
        const std::size_t place = places_[key_of<Word, kIsFloat>(word, mantissa_bits)];
        return static_cast<std::uint8_t>(place + found);
    }

    // The last lane's unit has `last_size` elements.
    void encode_round(const Intervals& intervals, States& states, std::span<const std::uint32_t> units,
                      std::size_t last_size) {
        for (std::size_t step = units.size() > 1 ? kUnit : last_size; step-- > 0;) {
            for (std::size_t lane = units.size(); lane-- > 0;) {
                if (lane + 1 == units.size() && step >= last_size) continue;
                const std::size_t i = units[lane] * kUnit + step;
                encode_element(intervals, states[lane], slot_of(base(i), found_[i], mantissa_bits_), i, first_word_);
            }
        }
    }

    [[gnu::always_inline]] void encode_element(const Intervals& intervals, std::uint32_t& state, std::size_t slot,
                                               std::size_t i, std::uint16_t*& words) {
        if (slot < kChangedSlots) {
            push_unchanged(state, intervals.unchanged[slot], words);
        } else {
            encode_change(intervals, state, slot - kChangedSlots, i, words);
        }
    }

    [[gnu::noinline]] void encode_change(const Intervals& intervals, std::uint32_t& state, std::size_t slot,
                                         std::size_t i, std::uint16_t*& words) {
        const std::size_t symbol = symbols_[i];
        const MagnitudeClass& of_symbol = kClasses[symbol >> 1];
        if (of_symbol.bits > 0) {
            std::uint64_t magnitude = 0;
            (void)symbol_of(distance<Word, kIsFloat>(base(i), other(i)), magnitude);
            *raw_end_++ = {magnitude - of_symbol.least, of_symbol.bits};
        }
        intervals.symbols[slot / kHistories][symbol].push(state, kSymbolPrecision, words);
        intervals.changed[slot].push(state, kFlagPrecision, words);
    }

    template <class Sink>
    void put_lengths(Sink& sink, unsigned order) const {
        std::size_t at = 0, next = 0;
        for (bool is_changed = false; at < count_units(size_); is_changed = !is_changed) {
            std::size_t end = at;
            if (is_changed) {
                while (next < units_.size() && units_[next] == end) ++next, ++end;
            } else {
                end = next < units_.size() ? units_[next] : count_units(size_);
            }
            put_golomb(sink, static_cast<std::uint32_t>(end - at - (at > 0 || is_changed ? 1 : 0)), order);
            at = end;
        }
    }

    void write_units(BitWriter& sink) const {
        sink.put(are_skipped_ ? 1 : 0, 1);
        if (!are_skipped_) return;
        unsigned best = 0;
        std::uint64_t least = UINT64_MAX;
        for (unsigned order = 0; order < 16; ++order) {
            BitCounter counter;
            put_lengths(counter, order);
            if (counter.bits() < least) {
                least = counter.bits();
                best = order;
            }
        }
        sink.put(best, 4);
        put_lengths(sink, best);
    }

    void write_raw(BitWriter sink) const {
        for (const RawBits* raw = raw_end_; raw != raw_.get();) {
            const auto [value, bits] = *--raw;
            if (bits > 32) sink.put(static_cast<std::uint32_t>(value >> 32), bits - 32);
            sink.put(static_cast<std::uint32_t>(value), std::min(bits, 32u));
        }
        sink.finish();
    }

    unsigned mantissa_bits_;
    const std::uint8_t* base_;
    const std::uint8_t* other_;
    std::size_t size_;
    bool are_skipped_ = true;
    std::vector<std::uint32_t> units_;  // that are coded
    std::vector<Counts> counts_;        // by exponent
    std::array<std::uint16_t, kKeys> places_{};
    std::unique_ptr<std::uint8_t[]> found_;    // by element, its history, and kChangedSlots if it has changed
    std::unique_ptr<std::uint8_t[]> symbols_;  // of the elements that have changed
    std::unique_ptr<std::uint16_t[]> words_;
    std::uint16_t* words_end_ = nullptr;
    std::uint16_t* first_word_ = nullptr;  // the words are written from the last to the first
    // In the order of writing, the reverse of that of reading.
    std::unique_ptr<RawBits[]> raw_;
    RawBits* raw_end_ = nullptr;
    std::uint64_t changed_ = 0;
};

// Appends the stream; returns how many elements differ. Both hold as many elements of this dtype,
// at most kElementsLimit.
inline std::uint64_t encode(const WordTraits& traits, std::span<const std::uint8_t> base,
                            std::span<const std::uint8_t> other, std::vector<std::uint8_t>& out) {
    return with_words(traits, [&](auto word, auto is_float) {
        return Encoder<decltype(word), is_float()>(traits.mantissa_bits, base, other).run(out);
    });
}

}  // namespace metaq::difference
