// Interleaved static rANS with shared tables: the fast coder.
//
// A stream: the header (tables.hpp) as bits, zeros filling its last byte; the escaped symbols' raw bits in the
// order of decoding, filled up likewise; unless every table has one entry only, the states, 32 bits each, and the words
// of 16 bits that they take in, both little-endian; and zeros up to a byte for every 2^19 symbols. The sequence of all
// symbols is cut into one share for each lane, and a step of decoding yields one symbol in each (kernels.hpp).
// After the last, all states are 2^16, where encoding, which runs backwards, began. Blocks without symbols take no
// bytes at all.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "metaq/base/bits.hpp"
#include "metaq/base/counting.hpp"
#include "metaq/base/frequencies.hpp"
#include "metaq/base/histogram.hpp"
#include "metaq/base/little_endian.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/rans/classes.hpp"
#include "metaq/rans/decoder.hpp"
#include "metaq/rans/encoder.hpp"
#include "metaq/rans/sequence.hpp"
#include "metaq/rans/tables.hpp"
#include "metaq/rans/unit_costs.hpp"

namespace metaq::rans {

// Chooses as many lanes as cost at most 1/128 of the stream, which takes about `size_bytes`. With few lanes, decoding waits
// for each symbol.
inline unsigned choose_lane_width(std::uint64_t size_bytes) {
    const std::uint64_t lanes = std::clamp<std::uint64_t>(size_bytes / 128 / sizeof(std::uint32_t), 1, kLaneLimit);
    return static_cast<unsigned>(std::bit_width(lanes)) - 1;
}

// Contexts of about a quarter of the symbols each, by their distance from the center.
inline Contexts contexts_around(std::size_t center, std::span<const std::uint64_t> counts, std::size_t listed) {
    Contexts contexts;
    contexts.are_used = true;
    const std::uint64_t total = std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
    std::uint64_t nearer = 0;
    unsigned found = 0;
    for (std::size_t distance = 0; found + 1 < kContexts; ++distance) {
        if (distance > 0 && nearer * kContexts >= total * (found + 1)) {
            contexts.thresholds[found++] = static_cast<std::uint32_t>(distance);
        }
        if (distance > listed) nearer = total;
        if (center + distance < listed) nearer += counts[center + distance];
        if (distance > 0 && distance <= center) nearer += counts[center - distance];
    }
    contexts.center = static_cast<std::uint32_t>(center);
    return contexts;
}

// Around the most frequent entry, contexts tell magnitudes; around the first they tell signs, and the order of exponents.
inline std::array<std::size_t, 2> context_centers(std::span<const std::uint64_t> counts, const Header& header) {
    const auto first = counts.begin();
    const auto end = first + static_cast<std::ptrdiff_t>(header.alphabet.listed.size());
    return {static_cast<std::size_t>(std::max_element(first, end) - first), 0};
}

template <class AnyBlock>
std::vector<std::size_t> unit_ends(std::span<const AnyBlock> blocks, unsigned unit_width) {
    std::vector<std::size_t> ends;
    for_each_unit_end(blocks, unit_width, [&](std::size_t end) { ends.push_back(end); });
    return ends;
}

// The symbols as keys: context * number of entries + entry.
class Keys {
public:
    Keys(std::span<const std::uint16_t> entries, const Header& header, const Contexts& contexts)
        : entries_(entries),
          lanes_(std::size_t{1} << header.lane_width),
          contexts_(contexts.count()),
          count_(header.entries() * contexts.count()),
          offsets_(header.entries()) {
        for (std::size_t i = 0; i < offsets_.size(); ++i) {
            const unsigned context = contexts.of(i, header.alphabet.listed.size());
            offsets_[i] = static_cast<std::uint16_t>(context * header.entries());
        }
    }

    unsigned contexts() const { return contexts_; }
    std::size_t count() const { return count_; }

    // Those of some symbols, until it is called again.
    std::span<const std::uint16_t> between(std::size_t begin, std::size_t end) {
        if (contexts_ == 1) return entries_.subspan(begin, end - begin);
        if (found_.size() < end - begin) found_.resize(end - begin);
        std::uint16_t* const found = found_.data();
        for (std::size_t i = std::max<std::size_t>(begin, 1); i < end; ++i)
            found[i - begin] = static_cast<std::uint16_t>(entries_[i] + offsets_[entries_[i - 1]]);
        for (std::size_t lane = 0; lane < lanes_; ++lane) {
            const std::size_t start = lane_start(lane, lanes_, entries_.size());
            if (begin <= start && start < end) found[start - begin] = entries_[start];
        }
        return {found, end - begin};
    }

    UnitCounts count_units(std::span<const std::size_t> ends, std::size_t stride) {
        return {count_, ends, stride, [&](std::size_t begin, std::size_t end) { return between(begin, end); }};
    }

private:
    std::span<const std::uint16_t> entries_;
    std::size_t lanes_;
    unsigned contexts_;
    std::size_t count_;
    std::vector<std::uint16_t> offsets_;  // of the keys after each entry
    std::vector<std::uint16_t> found_;
};

// Frequencies that suit the counts; entries that do not occur have none, and a table without any has the first only.
inline std::vector<std::uint32_t> scaled_table(std::span<const std::uint64_t> counts, unsigned precision) {
    std::vector<std::uint64_t> positive;
    std::copy_if(counts.begin(), counts.end(), std::back_inserter(positive), [](std::uint64_t c) { return c > 0; });
    std::vector<std::uint32_t> result(counts.size(), 0);
    if (positive.empty()) {
        result[0] = 1u << precision;
        return result;
    }
    const range::Frequencies scaled = range::scale_counts(positive, precision);
    std::size_t next = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] > 0) result[i] = scaled.frequencies[next++];
    }
    return result;
}

// Sets precision and frequencies: the least precision that costs at most 1/4096 more than the best. Precisions that the
// fast kernels do not take have to save 1/256. False if there is no memory.
[[nodiscard]] inline bool choose_tables(Header& header, std::span<const std::uint64_t> counts) {
    struct Candidate {
        unsigned precision;
        std::uint64_t cost;
        std::vector<std::uint32_t> frequencies;
        bool is_narrow;
    };
    std::size_t most = 1;
    for (std::size_t i = 0; i < header.tables(); ++i) {
        const auto table = counts.subspan(i * header.entries(), header.entries());
        most = std::max(most, table.size() - static_cast<std::size_t>(std::count(table.begin(), table.end(), 0u)));
    }
    std::vector<Candidate> candidates;
    std::uint64_t least = UINT64_MAX;
    for (auto precision = static_cast<unsigned>(std::bit_width(most - 1)); precision <= kPrecisionLimit; ++precision) {
        header.precision = precision;
        if (header.slots() > kSlotLimit) break;
        BitCounter counter;
        Candidate candidate{precision, 0, {}, is_narrow(header)};
        for (std::size_t i = 0; i < header.tables(); ++i) {
            const auto table = counts.subspan(i * header.entries(), header.entries());
            const std::vector<std::uint32_t> scaled = scaled_table(table, precision);
            write_table(counter, std::span<const std::uint32_t>(scaled), precision);
            for (std::size_t j = 0; j < table.size(); ++j) {
                if (table[j] == 0) continue;
                candidate.cost += table[j] * ((std::uint64_t{precision} << 16) - fixed_log2(scaled[j]));
            }
            candidate.frequencies.insert(candidate.frequencies.end(), scaled.begin(), scaled.end());
        }
        candidate.cost += counter.bits() << 16;
        if (!candidate.is_narrow) candidate.cost += candidate.cost / 256;
        candidates.push_back(std::move(candidate));
        least = std::min(least, candidates.back().cost);
        if (candidates.back().cost > least + least / 64) break;  // it only grows after this
    }
    const auto is_near = [&](const Candidate& candidate) { return candidate.cost <= least + least / 4096; };
    const Candidate& chosen = *std::find_if(candidates.begin(), candidates.end(), is_near);
    header.precision = chosen.precision;
    return header.frequencies.append_all(chosen.frequencies);
}

// Units for the classes to be tried, from a few symbols to whole blocks.
inline constexpr std::array<unsigned, 4> kUnitWidths = {5, 7, 9, kLeastUnitWidth + 15};

// Whether contexts save 1/256; with them decoding takes about a quarter longer.
inline bool is_worth_contexts(std::uint64_t with, std::uint64_t without) { return with + with / 256 < without; }

// The units, classes and contexts with the fewest bits, and the keys of the chosen contexts. False if there is no memory.
template <class Symbol>
[[nodiscard]] bool choose_model(std::span<const BasicBlock<const Symbol>> blocks, const Sequence<Symbol>& sequence,
                                Header& header, Keys& keys) {
    std::optional<Partition> best;
    std::vector<std::size_t> previous;
    const auto partition = [&](Keys& of_contexts, std::span<const std::size_t> ends) {
        const std::size_t stride = sample_stride(ends.size());
        const UnitCounts sample = of_contexts.count_units(ends, stride);
        return choose_partition(sample, header.entries(), of_contexts.contexts(), stride);
    };
    for (const unsigned width : kUnitWidths) {
        std::vector<std::size_t> ends = unit_ends(blocks, width);
        if (ends == previous) continue;
        Partition found = partition(keys, ends);
        if (!best || found.cost < best->cost) {
            best = std::move(found);
            header.unit_width = width;
        }
        previous = std::move(ends);
    }
    // Contexts go together with the unit width that is best without them.
    const std::vector<std::size_t> ends = unit_ends(blocks, header.unit_width);
    if (header.alphabet.listed.size() > 1) {
        const std::uint64_t limit = best->cost;
        for (const std::size_t center : context_centers(sequence.counts, header)) {
            const Contexts contexts = contexts_around(center, sequence.counts, header.alphabet.listed.size());
            Keys with_contexts(sequence.entries, header, contexts);
            Partition found = partition(with_contexts, ends);
            if (found.cost >= best->cost || !is_worth_contexts(found.cost, limit)) continue;
            best = std::move(found);
            header.contexts = contexts;
            keys = std::move(with_contexts);
        }
    }
    std::vector<std::uint8_t> classes(ends.size());
    if (best->classes.count() > 1) classes = settled_classes(best->classes, keys.count_units(ends, 1));
    header.classes = renumber(classes);
    return header.unit_classes.append_all(classes);
}

// Which table's entry each symbol is, class * keys + key, and how often each occurs.
template <class Place>
struct Places {
    std::unique_ptr<Place[]> places;
    std::vector<std::uint64_t> counts;
};

template <class Place>
Places<Place> find_places(Keys& keys, const Header& header, std::span<const std::size_t> ends) {
    Places<Place> result;
    result.places = std::make_unique_for_overwrite<Place[]>(ends.back());
    const std::size_t number = header.classes * keys.count();
    Counter counter(number);
    std::size_t begin = 0;
    for (std::size_t unit = 0; unit < ends.size(); ++unit) {
        const auto first = static_cast<Place>(header.unit_classes[unit] * keys.count());
        const std::span<const std::uint16_t> found = keys.between(begin, ends[unit]);
        Place* const out = result.places.get() + begin;
        for (std::size_t i = 0; i < found.size(); ++i) out[i] = static_cast<Place>(first + found[i]);
        counter.add(found.size(), [&](std::size_t i) { return out[i]; });
        begin = ends[unit];
    }
    for (std::size_t i = 0; i < number; ++i) result.counts.push_back(counter.count(i));
    return result;
}

template <class Integer>
void append_little_endian(std::vector<std::uint8_t>& out, std::span<const Integer> values) {
    std::size_t at = out.size();
    out.resize(at + values.size_bytes());
    for (const Integer value : values) {
        write_little_endian(out.data() + at, value);
        at += sizeof(Integer);
    }
}

// The stream but for its filler.
template <class Place, class Symbol>
[[nodiscard]] Status write_stream(std::span<const BasicBlock<const Symbol>> blocks, const Sequence<Symbol>& sequence,
                                  Keys& keys, Header& header, std::vector<std::uint8_t>& out) {
    const Places<Place> places = find_places<Place>(keys, header, unit_ends(blocks, header.unit_width));
    if (!choose_tables(header, places.counts)) return Status::no_memory;
    BitWriter writer(out);
    write_header(writer, header);
    writer.finish();
    BitWriter escaped(out);
    if (header.escapes > 0) write_escaped(header, sequence, escaped);
    if (header.is_constant()) return Status::ok;
    Encoder<Place> encoder(header, {places.places.get(), sequence.symbols.size()});
    encoder.run();
    append_little_endian(out, encoder.states());
    append_little_endian(out, encoder.words());
    return Status::ok;
}

// Appends the code of `blocks`, of at most 2^32 - 1 symbols of int32 or int8, to `out`. The status is ok, or there is no
// memory.
template <class Symbol>
[[nodiscard]] Status encode_any(std::span<const BasicBlock<const Symbol>> blocks, std::vector<std::uint8_t>& out) {
    const std::size_t begin = out.size();
    Sequence<Symbol> sequence{concatenated(blocks), {}, {}};
    const std::size_t size = sequence.symbols.size();
    if (size == 0) return Status::ok;
    Header header;
    header.alphabet = list_entries(Histogram(BasicBlock<const Symbol>{sequence.symbols.data(), size, 1, 1}),
                                   least_count(size), sequence);
    if (header.alphabet.has_escape()) header.escapes = static_cast<std::uint32_t>(sequence.counts.back());
    std::uint64_t entropy = weighted_log2(size);
    for (const std::uint64_t count : sequence.counts) entropy -= weighted_log2(count);
    header.lane_width = choose_lane_width(entropy >> (16 + 3));
    Keys keys(sequence.entries, header, header.contexts);
    if (!choose_model(blocks, sequence, header, keys)) return Status::no_memory;
    const bool is_short = header.classes * keys.count() <= UINT16_MAX;
    const Status status = is_short ? write_stream<std::uint16_t>(blocks, sequence, keys, header, out)
                                   : write_stream<std::uint32_t>(blocks, sequence, keys, header, out);
    if (status != Status::ok) return status;
    const std::size_t least = (size + kSymbolsPerByte - 1) / kSymbolsPerByte;
    if (out.size() < begin + least) out.resize(begin + least, 0);
    return Status::ok;
}

[[nodiscard]] inline Status encode(std::span<const ConstBlock> blocks, std::vector<std::uint8_t>& out) {
    return encode_any(blocks, out);
}

}  // namespace metaq::rans
