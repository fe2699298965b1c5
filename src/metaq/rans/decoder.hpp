// Decoding of rANS streams, to symbols or straight to the values that they stand for.
//
// Kernels stage the entries of a tile of symbols; values.hpp turns each lane's run of them into output.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "metaq/base/alphabet.hpp"
#include "metaq/base/bits.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/rans/kernels.hpp"
#include "metaq/rans/tables.hpp"
#include "metaq/rans/values.hpp"

namespace metaq::rans {

// The first of the slots of an entry that occurs; those behind it are larger by one each.
template <class Layout>
typename Layout::Slot first_slot(const Header& header, std::size_t entry, std::uint32_t frequency) {
    using Slot = typename Layout::Slot;
    const unsigned field = Layout::field(header.precision);
    const Slot slot = Slot{frequency - 1} << field | static_cast<Slot>(entry) << Layout::kEntryShift;
    const unsigned context = header.contexts.of(entry, header.alphabet.listed.size());
    return context > 0 ? slot | Slot{context} << 2 * field : slot;
}

// Fills the slots of all tables. Returns false if there is no memory.
template <class Layout>
[[nodiscard]] bool make_slots(const Header& header, Buffer<typename Layout::Slot>& slots) {
    using Slot = typename Layout::Slot;
    if (!slots.resize_for_overwrite(header.slots())) return false;
    Slot* next = slots.data();
    for (std::size_t i = 0; i < header.tables(); ++i) {
        for (std::size_t entry = 0; entry < header.entries(); ++entry) {
            const std::uint32_t frequency = header.table(i)[entry];
            if (frequency == 0) continue;
            const Slot slot = first_slot<Layout>(header, entry, frequency);
            for (std::uint32_t offset = 0; offset < frequency; ++offset) *next++ = slot + offset;
        }
    }
    return true;
}

// The first place from `first` on that holds the entry, or the number of entries.
inline std::size_t find_entry(std::span<const std::uint8_t> entries, std::size_t first, std::uint8_t entry) {
    if (first == entries.size()) return first;
    // memchr is many times as fast as std::find.
    const void* found = std::memchr(entries.data() + first, entry, entries.size() - first);
    return found == nullptr ? entries.size()
                            : static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - entries.data());
}
inline std::size_t find_entry(std::span<const std::uint16_t> entries, std::size_t first, std::uint16_t entry) {
    const auto from = entries.begin() + static_cast<std::ptrdiff_t>(first);
    return static_cast<std::size_t>(std::find(from, entries.end(), entry) - entries.begin());
}

// What the header says, and where in the data the rest lies.
struct Stream {
    Header header;
    Buffer<UnitRun> units;
    std::span<const std::uint8_t> escaped;
    std::span<const std::uint8_t> words;
};

class SymbolDecoder {
public:
    // `path` has to be available on this machine, as `resolved` returns it.
    SymbolDecoder(const Stream& stream, const ValueWriter& writer, Path path)
        : stream_(stream), writer_(writer), escaped_(stream.escaped), path_(path) {
        const Header& header = stream.header;
        lanes_.precision = header.precision;
        lanes_.context_mask = header.contexts.are_used ? kContexts - 1 : 0;
        lanes_.words = stream.words.data();
        lanes_.end = stream.words.data() + stream.words.size();
        for (std::size_t lane = 0; lane < count(); ++lane) {
            const std::size_t start = lane_start(lane, count(), writer.size());
            lanes_.position[lane] = start;
            const auto is_before = [](std::size_t at, const UnitRun& unit) { return at < unit.end; };
            lanes_.unit[lane] = &*std::upper_bound(stream.units.begin(), stream.units.end() - 1, start, is_before);
            place_[lane] = writer.find(start);
        }
    }

    // Returns false if encoding ends with no such states.
    bool read_states() {
        lanes_.state.fill(kLeastState);
        if (stream_.header.is_constant()) return true;
        bool are_good = true;
        for (std::size_t lane = 0; lane < count(); ++lane) {
            const std::uint8_t* bytes = lanes_.words;
            lanes_.state[lane] = bytes[0] | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 |
                                 std::uint32_t{bytes[3]} << 24;
            lanes_.words += 4;
            are_good &= lanes_.state[lane] >= kLeastState;
        }
        return are_good;
    }

    template <class Layout>
    Status run() {
        Buffer<typename Layout::Slot> slots;
        if (!make_slots<Layout>(stream_.header, slots)) return Status::no_memory;
        const std::size_t steps = writer_.size() / count();
        const std::size_t tile = kTileSymbols / count();
        bool is_good = true;
        for (std::size_t first = 0; first < steps && is_good; first += tile) {
            is_good = decode_tile<Layout>(slots.data(), count(), std::min(tile, steps - first));
        }
        const std::size_t rest = writer_.size() % count();
        if (is_good && rest > 0) is_good = decode_tile<Layout>(slots.data(), rest, 1);
        if (lanes_.is_truncated) return Status::truncated;
        return is_good ? finish() : Status::corrupt;
    }

    // Where the words that the states have taken in end.
    const std::uint8_t* words_end() const { return lanes_.words; }

private:
    std::size_t count() const { return std::size_t{1} << stream_.header.lane_width; }

    template <class Layout>
    bool decode_tile(const typename Layout::Slot* slots, std::size_t active, std::size_t steps) {
        alignas(64) std::array<typename Layout::Entry, kTileSymbols> entries;
        lanes_.start_tile(active);
        decode_steps<Layout>(path_, lanes_, slots, entries.data(), active, steps);
        if (lanes_.is_truncated) return false;
        bool are_valid = write_tile(entries.data(), active, steps);
        if (stream_.header.alphabet.has_escape()) {
            are_valid &= read_escapes<typename Layout::Entry>({entries.data(), active * steps}, active);
        }
        for (std::size_t lane = 0; lane < active; ++lane) lanes_.position[lane] += steps;
        return are_valid;
    }

    template <class Entry>
    bool write_tile(const Entry* entries, std::size_t active, std::size_t steps) {
        std::size_t lane_stride = 1, step_stride = active;
#ifdef METAQ_RANS_X86
        alignas(64) std::array<std::uint8_t, kTileSymbols> turned;
        if constexpr (sizeof(Entry) == 1) {
            if (writer_.wants_neighbours() && active == kLaneLimit && steps % 16 == 0) {
                turn(entries, active, steps, turned.data());
                entries = turned.data();
                lane_stride = steps;
                step_stride = 1;
            }
        }
#endif
        bool are_valid = true;
        for (std::size_t lane = 0; lane < active; ++lane) {
            const Entry* first = entries + lane * lane_stride;
            are_valid &= writer_.write(place_[lane], lanes_.position[lane], first, step_stride, steps);
        }
        return are_valid;
    }

    // Fills in the symbols of a tile that escape.
    template <class Entry>
    bool read_escapes(std::span<const Entry> entries, std::size_t active) {
        const auto escape = static_cast<Entry>(stream_.header.alphabet.listed.size());
        std::size_t i = find_entry(entries, 0, escape);
        for (; i < entries.size(); i = find_entry(entries, i + 1, escape)) {
            std::int32_t symbol = 0;
            if (escapes_++ == stream_.header.escapes) return false;
            if (!read_escaped(escaped_, stream_.header.alphabet, symbol)) return false;
            if (!writer_.write_symbol(lanes_.position[i % active] + i / active, symbol)) return false;
        }
        return true;
    }

    Status finish() {
        const std::span states(lanes_.state.data(), count());
        const auto is_back = [](std::uint32_t state) { return state == kLeastState; };
        if (!std::all_of(states.begin(), states.end(), is_back)) return Status::corrupt;
        if (escapes_ != stream_.header.escapes) return Status::corrupt;
        return escaped_.finish();
    }

    const Stream& stream_;
    const ValueWriter& writer_;
    BitReader escaped_;
    std::uint32_t escapes_ = 0;
    Path path_;
    Lanes lanes_;
    std::array<std::size_t, kLaneLimit> place_{};
};

// Reads the header and finds the rest, which is checked to have room for the escaped symbols and the states.
inline Status open(std::span<const std::uint8_t> data, std::span<const ValueBlock> blocks, Stream& stream) {
    BitReader reader(data);
    Header& header = stream.header;
    const Status status = read_header(reader, blocks, header);
    if (status == Status::no_memory) return status;
    const bool is_padded = reader.pads_with_zeros();
    if (reader.status() != Status::ok) return Status::truncated;
    if (status != Status::ok || !is_padded) return Status::corrupt;
    const std::uint64_t escaped = (std::uint64_t{header.escapes} * header.alphabet.escape_width + 7) / 8;
    const std::uint64_t states = header.is_constant() ? 0 : std::uint64_t{4} << header.lane_width;
    std::span<const std::uint8_t> rest = data.subspan(reader.bytes());
    if (rest.size() < escaped + states) return Status::truncated;
    stream.escaped = rest.first(static_cast<std::size_t>(escaped));
    stream.words = rest.subspan(static_cast<std::size_t>(escaped));
    return Status::ok;
}

// Makes the runs of units, each with the first slot of its class's tables. Returns false if there is no memory.
[[nodiscard]] inline bool find_units(std::span<const ValueBlock> blocks, std::size_t size, Stream& stream) {
    const Header& header = stream.header;
    if (header.classes == 1) return stream.units.append({size, 0});
    if (!stream.units.resize_for_overwrite(header.unit_classes.size())) return false;
    const auto slots = static_cast<std::uint32_t>(header.contexts.count() << header.precision);
    std::size_t i = 0;
    for_each_unit_end(blocks, header.unit_width, [&](std::size_t end) {
        stream.units[i] = {end, header.unit_classes[i] * slots};
        ++i;
    });
    return true;
}

// Fills the blocks, whose sizes are those that were encoded. What they hold after a failure is unspecified.
[[nodiscard]] inline Status decode_values(std::span<const std::uint8_t> data, std::span<const ValueBlock> blocks,
                                          Path path = Path::best) {
    std::size_t size = 0;
    for (const ValueBlock& block : blocks) size += block.size();
    if (size == 0) return data.empty() ? Status::ok : Status::corrupt;
    const std::size_t least = (size - 1) / kSymbolsPerByte + 1;
    if (data.size() < least) return Status::truncated;
    Stream stream;
    const Status opened = open(data, blocks, stream);
    if (opened != Status::ok) return opened;
    if (!find_units(blocks, size, stream)) return Status::no_memory;
    path = resolved(path);
    ValueWriter writer;
    if (!writer.assign(blocks, stream.header.alphabet, path)) return Status::no_memory;
    SymbolDecoder decoder(stream, writer, path);
    if (!decoder.read_states()) return Status::corrupt;
    const Status status = is_narrow(stream.header) ? decoder.run<Narrow>() : decoder.run<Wide>();
    if (status != Status::ok) return status;
    // Zeros follow only where the stream would stand for too many symbols without them.
    const std::span filler(decoder.words_end(), data.data() + data.size());
    const bool is_filler = filler.empty() || data.size() == least;
    const bool are_zeros = std::all_of(filler.begin(), filler.end(), [](std::uint8_t byte) { return byte == 0; });
    return is_filler && are_zeros ? Status::ok : Status::corrupt;
}

[[nodiscard]] inline Status decode(std::span<const std::uint8_t> data, std::span<const Block> blocks, Path path) {
    Buffer<ValueBlock> values;
    if (!values.reserve(blocks.size())) return Status::no_memory;
    for (const Block& block : blocks) {
        auto* bytes = reinterpret_cast<std::uint8_t*>(block.symbols);
        if (!values.append({bytes, block.rows, block.channels, block.kernel, Form::int32, {}}))
            return Status::no_memory;
    }
    return decode_values(data, values, path);
}

[[nodiscard]] inline Status decode(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
    return decode(data, blocks, Path::best);
}

}  // namespace metaq::rans
