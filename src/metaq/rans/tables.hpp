// What a rANS stream says before its first state: the alphabet, which table codes which symbols, and the tables.
//
// All blocks of a stream are one sequence, its rows cut into units. Each unit belongs to a class and each class has a
// table of frequencies for every context, so that rows of like statistics share one, within a block and across blocks.
// The context is the class of magnitude of the symbol before, if the stream distinguishes any (order 1).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>

#include "metaq/base/alphabet.hpp"
#include "metaq/base/bits.hpp"
#include "metaq/base/bounded_list.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/sparse_frequencies.hpp"
#include "metaq/base/symbols.hpp"

namespace metaq::rans {

inline constexpr unsigned kPrecisionLimit = 16;  // frequencies sum to at most 2^16
inline constexpr unsigned kClassLimit = 64;
inline constexpr unsigned kContexts = 4;             // of order 1
inline constexpr std::size_t kSlotLimit = 1u << 20;  // of all tables together: what a stream can make a decoder build
inline constexpr unsigned kLeastUnitWidth = 4;       // a unit has 2^4 symbols or more, or all of its block
inline constexpr unsigned kLaneWidthLimit = 5;       // at most 2^5 interleaved states
inline constexpr unsigned kEscapeCountOrder = 8;

// Contexts tell how far, in entries, the symbol before lies from a central one. An escaped symbol has the last context.
struct Contexts {
    bool are_used = false;
    std::uint32_t center = 0;
    std::array<std::uint32_t, kContexts - 1> thresholds{};  // increasing, the first at least one

    unsigned count() const { return are_used ? kContexts : 1; }

    // The context after an entry of an alphabet with `listed` listed symbols.
    unsigned of(std::size_t entry, std::size_t listed) const {
        if (!are_used) return 0;
        if (entry == listed) return kContexts - 1;
        const std::size_t distance = entry < center ? center - entry : entry - center;
        unsigned context = 0;
        for (const std::uint32_t threshold : thresholds) context += distance >= threshold ? 1 : 0;
        return context;
    }
};

// With `Listed` as of a BasicAlphabet.
template <class Listed>
struct BasicHeader {
    BasicAlphabet<Listed> alphabet;
    std::uint32_t escapes = 0;  // how many symbols escape
    unsigned precision = 0;
    unsigned classes = 1;
    unsigned unit_width = kLeastUnitWidth;
    Contexts contexts;
    unsigned lane_width = 0;            // log2 of the number of states
    Buffer<std::uint32_t> frequencies;  // by class, context and entry; zero: does not occur
    Buffer<std::uint8_t> unit_classes;  // one for every unit, unless there is one class

    std::size_t tables() const { return std::size_t{classes} * contexts.count(); }
    std::size_t entries() const { return alphabet.entries(); }
    std::size_t slots() const { return tables() << precision; }

    std::span<const std::uint32_t> table(std::size_t i) const {
        return {frequencies.data() + i * entries(), entries()};
    }

    // Whether every table has one entry only, so that no state ever changes.
    bool is_constant() const {
        const std::uint32_t whole = 1u << precision;
        return static_cast<std::size_t>(std::count(frequencies.begin(), frequencies.end(), whole)) == tables();
    }
};

using Header = BasicHeader<BoundedList<std::int32_t, kListedLimit>>;

// Calls `visit` with where each unit ends in the sequence: as many rows as make 2^unit_width symbols, the last of a block
// maybe fewer.
template <class AnyBlock, class Visit>
void for_each_unit_end(std::span<const AnyBlock> blocks, unsigned unit_width, Visit visit) {
    std::size_t end = 0;
    for (const AnyBlock& block : blocks) {
        if (block.rows == 0 || block.channels == 0 || block.kernel == 0) continue;
        const std::size_t row = block.channels * block.kernel;
        const std::size_t rows = ((std::size_t{1} << unit_width) + row - 1) / row;
        for (std::size_t first = 0; first < block.rows; first += rows) {
            end += std::min(rows, block.rows - first) * row;
            visit(end);
        }
    }
}

template <class AnyBlock>
std::size_t count_units(std::span<const AnyBlock> blocks, unsigned unit_width) {
    std::size_t count = 0;
    for_each_unit_end(blocks, unit_width, [&](std::size_t) { ++count; });
    return count;
}

// The classes of the units, each as its place in a list of all, to the front of which it then moves.
class RecentClasses {
public:
    explicit RecentClasses(unsigned classes) {
        list_.resize(classes);
        std::iota(list_.begin(), list_.end(), std::uint8_t{0});
    }

    std::uint32_t place_of(std::uint8_t value) {
        const auto place = std::find(list_.begin(), list_.end(), value) - list_.begin();
        (void)at(static_cast<std::size_t>(place));
        return static_cast<std::uint32_t>(place);
    }

    std::uint8_t at(std::size_t place) {
        const std::uint8_t found = list_[place];
        std::copy_backward(list_.begin(), list_.begin() + place, list_.begin() + place + 1);
        return list_[0] = found;
    }

private:
    BoundedList<std::uint8_t, kClassLimit> list_;
};

template <class Sink>
void write_classes(Sink& sink, const Header& header) {
    const auto write = [&](auto& any, unsigned order) {
        RecentClasses recent(header.classes);
        for (const std::uint8_t value : header.unit_classes) put_golomb(any, recent.place_of(value), order);
    };
    std::array<BitCounter, 2> counters;
    for (unsigned order = 0; order < 2; ++order) write(counters[order], order);
    const unsigned order = counters[1].bits() < counters[0].bits() ? 1 : 0;
    sink.put(order, 1);
    write(sink, order);
}

template <class Source, class Listed>
bool read_classes(Source& source, BasicHeader<Listed>& header) {
    const unsigned order = source.get(1);
    RecentClasses recent(header.classes);
    for (std::uint8_t& value : header.unit_classes) {
        std::uint32_t place = 0;
        if (!get_golomb(source, order, place) || place >= header.classes) return false;
        value = recent.at(place);
    }
    return true;
}

template <class Sink>
void write_contexts(Sink& sink, const Contexts& contexts) {
    sink.put(contexts.are_used ? 1 : 0, 1);
    if (!contexts.are_used) return;
    put_golomb(sink, contexts.center, 4);
    std::uint32_t previous = 0;
    for (const std::uint32_t threshold : contexts.thresholds) {
        put_golomb(sink, threshold - previous - 1, 0);
        previous = threshold;
    }
}

template <class Source>
bool read_contexts(Source& source, Contexts& contexts) {
    contexts.are_used = source.get(1) == 1;
    if (!contexts.are_used) return true;
    if (!get_golomb(source, 4, contexts.center) || contexts.center > kListedLimit) return false;
    std::uint32_t previous = 0;
    for (std::uint32_t& threshold : contexts.thresholds) {
        std::uint32_t gap = 0;
        if (!get_golomb(source, 0, gap) || gap > kListedLimit) return false;
        previous = threshold = previous + 1 + gap;
    }
    return true;
}

template <class Sink>
void write_header(Sink& sink, const Header& header) {
    write_alphabet(sink, header.alphabet);
    if (header.alphabet.has_escape()) put_golomb(sink, header.escapes, kEscapeCountOrder);
    sink.put(header.precision, 5);
    write_contexts(sink, header.contexts);
    put_golomb(sink, header.classes - 1, 0);
    for (std::size_t i = 0; i < header.tables(); ++i) write_table(sink, header.table(i), header.precision);
    sink.put(header.lane_width, 3);
    if (header.classes == 1) return;
    sink.put(header.unit_width - kLeastUnitWidth, 4);
    write_classes(sink, header);
}

// The status is corrupt if no encoder writes this. Zeros are read behind the end, so callers check the source's status as well.
template <class Source, class AnyBlock, class Listed>
Status read_header(Source& source, std::span<const AnyBlock> blocks, BasicHeader<Listed>& header) {
    if (!read_alphabet(source, header.alphabet)) return Status::corrupt;
    if (header.alphabet.has_escape() && !get_golomb(source, kEscapeCountOrder, header.escapes)) return Status::corrupt;
    header.precision = source.get(5);
    if (header.precision > kPrecisionLimit || !read_contexts(source, header.contexts)) return Status::corrupt;
    std::uint32_t more = 0;
    if (!get_golomb(source, 0, more) || more >= kClassLimit) return Status::corrupt;
    header.classes = more + 1;
    if (header.slots() > kSlotLimit) return Status::corrupt;
    if (!header.frequencies.assign_zeros(header.tables() * header.entries())) return Status::no_memory;
    for (std::size_t i = 0; i < header.tables(); ++i) {
        const std::span table(header.frequencies.data() + i * header.entries(), header.entries());
        if (!read_table(source, table, header.precision)) return Status::corrupt;
    }
    header.lane_width = source.get(3);
    if (header.lane_width > kLaneWidthLimit) return Status::corrupt;
    if (header.classes == 1) return Status::ok;
    header.unit_width = kLeastUnitWidth + source.get(4);
    if (!header.unit_classes.resize_for_overwrite(count_units(blocks, header.unit_width))) return Status::no_memory;
    return read_classes(source, header) ? Status::ok : Status::corrupt;
}

// Where each lane's share of the sequence begins: shares of consecutive symbols, the first size % lanes longer by one.
inline std::size_t lane_start(std::size_t lane, std::size_t lanes, std::size_t size) {
    return lane * (size / lanes) + std::min(lane, size % lanes);
}

}  // namespace metaq::rans
