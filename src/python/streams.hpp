// The chunks of a file as a GPU decodes them: what their headers say, in a few arrays.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <vector>

#include "metaq/decoder.hpp"
#include "metaq/rans/decoder.hpp"
#include "metaq/stored/coder.hpp"
#include "python/in_threads.hpp"

namespace metaq::python {

// Of one chunk. Places are bytes of the file. Below `first_tensor` all is zero of chunks that are left to the CPU, and below
// `size_bytes` of those that hold the bytes of planes as they are.
struct StreamFields {
    enum Kind : std::int64_t { elsewhere, stored, rans };

    std::int64_t kind = elsewhere;
    std::int64_t section = 0;  // as of a `Run`
    std::int64_t first_tensor = 0;
    std::int64_t last_tensor = 0;
    std::int64_t symbols = 0;
    std::int64_t place = 0;  // of the bytes, or of the states
    std::int64_t words = 0;  // 16 bits each, behind the states
    std::int64_t precision = 0;
    std::int64_t context_mask = 0;
    std::int64_t slots = 0;        // of all tables
    std::int64_t frequencies = 0;  // with each of them goes the slot that it begins with
    std::int64_t listed = 0;       // symbols of the alphabet
    std::int64_t units = 0;
    std::int64_t escapes = 0;  // symbols whose entry is the one behind those that are listed
    std::int64_t escape_base = 0;
    std::int64_t escape_width = 0;
    std::int64_t escaped_place = 0;  // of their bits
    std::int64_t lanes = 0;
};
inline constexpr std::size_t kStreamFields = sizeof(StreamFields) / sizeof(std::int64_t);

struct OpenedChunk {
    StreamFields fields;
    std::vector<std::uint32_t> frequencies, first_slots;
    std::vector<std::int32_t> listed;
    std::vector<std::uint32_t> unit_ends, unit_tables;
};

// Those whose tables a GPU looks into, and whose words are all that is left of the payload.
inline bool open_rans(std::span<const std::uint8_t> payload, std::span<const Run> runs, OpenedChunk& chunk) {
    std::vector<rans::ValueBlock> blocks;
    for (const Run& run : runs) {
        blocks.push_back({nullptr, static_cast<std::size_t>(run.rows), run.channels, run.kernel, rans::Form::int8, {}});
    }
    const std::size_t size = static_cast<std::size_t>(chunk.fields.symbols);
    rans::Stream stream;
    if (rans::open(payload, blocks, stream) != Status::ok || !rans::find_units(blocks, size, stream)) return false;
    const rans::Header& header = stream.header;
    const std::size_t lanes = std::size_t{1} << header.lane_width;
    if (header.is_constant() || !rans::is_narrow(header) || stream.words.size() % 2 != 0) return false;
    if (header.slots() > std::max<std::size_t>(size, 1u << 12)) return false;  // memory is in proportion to symbols
    StreamFields& fields = chunk.fields;
    const auto place_of = [&](const std::uint8_t* at) { return fields.place + (at - payload.data()); };
    fields.escaped_place = place_of(stream.escaped.data());
    fields.place = place_of(stream.words.data());
    fields.words = static_cast<std::int64_t>((stream.words.size() - sizeof(std::uint32_t) * lanes) / 2);
    fields.precision = header.precision;
    fields.context_mask = header.contexts.are_used ? rans::kContexts - 1 : 0;
    fields.slots = static_cast<std::int64_t>(header.slots());
    fields.escapes = header.escapes;
    fields.escape_base = header.alphabet.escape_base;
    fields.escape_width = header.alphabet.escape_width;
    fields.lanes = static_cast<std::int64_t>(lanes);
    for (std::size_t table = 0; table < header.tables(); ++table) {
        for (std::size_t entry = 0; entry < header.entries(); ++entry) {
            const std::uint32_t frequency = header.table(table)[entry];
            if (frequency == 0) continue;
            chunk.frequencies.push_back(frequency);
            chunk.first_slots.push_back(rans::first_slot<rans::Narrow>(header, entry, frequency));
        }
    }
    chunk.listed.assign(header.alphabet.listed.begin(), header.alphabet.listed.end());
    for (const rans::UnitRun& unit : stream.units) {
        chunk.unit_ends.push_back(static_cast<std::uint32_t>(unit.end));
        chunk.unit_tables.push_back(unit.table);
    }
    fields.frequencies = static_cast<std::int64_t>(chunk.frequencies.size());
    fields.listed = static_cast<std::int64_t>(chunk.listed.size());
    fields.units = static_cast<std::int64_t>(chunk.unit_ends.size());
    return true;
}

// A chunk of a file in memory. One that does not match its checksum is left to the CPU, which says so, and so is one for which there
// is no memory: threads let nothing be thrown.
inline OpenedChunk open_chunk(const File& file, std::size_t number) {
    const PlacedChunk& placed = file.chunks()[number];
    const std::span runs = file.runs_of(placed);
    OpenedChunk chunk;
    StreamFields& fields = chunk.fields;
    fields.section = runs.front().section;
    fields.first_tensor = static_cast<std::int64_t>(runs.front().tensor);
    fields.last_tensor = static_cast<std::int64_t>(runs.back().tensor);
    fields.symbols = static_cast<std::int64_t>(placed.symbols);
    fields.place = static_cast<std::int64_t>(placed.offset);
    if (crc32(placed.payload) != read_word(placed.checksum())) return chunk;
    if (static_cast<CoderId>(placed.coder) == CoderId::stored && fields.section > 0) {
        const std::uint8_t* const bytes = stored::borrow_bytes(placed.payload, runs.size(),
                                                               [&](std::size_t i) { return runs[i].symbols(); });
        if (bytes == nullptr) return chunk;
        fields.kind = StreamFields::stored;
        fields.place += bytes - placed.payload.data();
    } else if (static_cast<CoderId>(placed.coder) == CoderId::rans) {
        const StreamFields before = fields;
        bool is_open = false;
        try {
            is_open = open_rans(placed.payload, runs, chunk);
        } catch (const std::bad_alloc&) {
        }
        if (is_open) {
            fields.kind = StreamFields::rans;
        } else {
            chunk = {before, {}, {}, {}, {}, {}};
        }
    }
    return chunk;
}

}  // namespace metaq::python
