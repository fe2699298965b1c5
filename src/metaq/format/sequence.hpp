// The symbol sequence of a file, cut into chunks of whole rows (docs/format.md, "Symbol sequence and chunks").
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/base/buffer.hpp"
#include "metaq/format/byte_source.hpp"
#include "metaq/format/status.hpp"
#include "metaq/format/tensors.hpp"

namespace metaq {

inline constexpr std::uint64_t kChunkSymbolsLimit = 1u << 26;
inline constexpr std::uint64_t kRowSymbolsLimit = 1u << 20;

// Rows of a coded tensor, or of a plane of a kept one, as they follow each other in the symbol sequence. It is small, since there is
// one for each byte of an element of every kept tensor. Sections are 0: of coded tensors; 1 to 8: of the planes, the most
// significant first; 9: of changed elements.
struct Run {
    std::size_t tensor, chunk;
    std::uint64_t rows, first_row;
    std::uint32_t channels;  // these and the kernel make kRowSymbolsLimit at most
    std::uint32_t kernel : 24;
    std::uint32_t section : 8;

    std::uint64_t row_symbols() const { return std::uint64_t{channels} * kernel; }
    std::size_t symbols() const { return static_cast<std::size_t>(rows * row_symbols()); }
    // Of the tensor's elements, of which a plane has a byte each; of the transpose's, where that is scanned.
    std::uint64_t first() const { return first_row * row_symbols(); }
    std::uint64_t end() const { return (first_row + rows) * row_symbols(); }
};

struct PlacedChunk {
    std::uint8_t coder;
    std::size_t symbols;
    std::size_t first_run, end_run;         // in FileLayout::runs
    std::uint64_t offset, payload_bytes;    // of the payload, which its checksum follows, in the file
    std::span<const std::uint8_t> payload;  // empty if a source has it

    // Of a payload in memory.
    std::span<const std::uint8_t> checksum() const { return {payload.data() + payload.size(), kPayloadChecksumBytes}; }

    std::uint64_t end() const { return offset + payload_bytes + kPayloadChecksumBytes; }
};

struct FileLayout {
    Buffer<PlacedChunk> chunks;
    Buffer<Run> runs;              // those of each chunk; in the order of section, tensor and row
    ByteSource* source = nullptr;  // of chunks that are not in memory

    std::span<const Run> runs_of(const PlacedChunk& chunk) const {
        return std::span<const Run>(runs).subspan(chunk.first_run, chunk.end_run - chunk.first_run);
    }

    // The position of the first run of a tensor's section that ends behind an element.
    std::size_t find(unsigned section, std::size_t tensor, std::uint64_t element) const {
        const auto is_before = [&](const Run& run, std::uint64_t at) {
            if (run.section != section) return run.section < section;
            return run.tensor != tensor ? run.tensor < tensor : run.end() <= at;
        };
        return static_cast<std::size_t>(std::lower_bound(runs.begin(), runs.end(), element, is_before) - runs.begin());
    }
};

inline unsigned first_section(const FileTensor& tensor) { return tensor.has_symbols() ? 0 : 1; }
inline unsigned end_section(const FileTensor& tensor) {
    return tensor.has_symbols() ? 1 : 1 + traits_of(tensor.dtype).bytes;
}

inline constexpr unsigned kChangeSection = 9;

inline bool has_section(const FileTensor& tensor, unsigned section) {
    if (tensor.kind == TensorKind::alias) return false;
    if (section == kChangeSection) return kReadsDifferences && tensor.change != nullptr && tensor.change->differing > 0;
    return first_section(tensor) <= section && section < end_section(tensor) && tensor.size() > 0;
}

// Coders see d0 rows of d1 channels of the rest, or else as many rows as there are elements; of a tensor that is scanned by
// columns, a row for each column.
inline Run whole_run(std::size_t index, const FileTensor& tensor, unsigned section) {
    const auto run_of = [&](std::uint64_t rows, std::uint64_t channels, std::uint64_t kernel) {
        Run run{index, 0, rows, 0, static_cast<std::uint32_t>(channels), 0, 0};
        run.kernel = static_cast<std::uint32_t>(kernel);
        run.section = section;
        return run;
    };
    if (kReadsDifferences && section == kChangeSection) return run_of(tensor.change->common, 1, 1);
    if (tensor.is_scanned_by_columns()) {
        const FileMatrix& matrix = *tensor.matrix;
        if (matrix.rows > kRowSymbolsLimit) return run_of(tensor.size(), 1, 1);
        return run_of(matrix.columns, matrix.rows, 1);
    }
    std::uint64_t row = 1;
    for (std::size_t i = 1; i < tensor.shape.size(); ++i) row *= tensor.shape[i];
    if (tensor.shape.size() < 2 || row > kRowSymbolsLimit) return run_of(tensor.size(), 1, 1);
    return run_of(tensor.shape[0], tensor.shape[1], row / tensor.shape[1]);
}

// One run for each coded tensor, each plane of a kept one, and what has changed of each changed one, behind so many that hold
// anything. False if memory runs out.
[[nodiscard]] inline bool make_sequence(std::span<const FileTensor> tensors, std::size_t room, Buffer<Run>& runs) {
    const auto for_each_section = [&](const auto& visit) {
        for (unsigned section = 0; section <= kChangeSection; ++section) {
            for (std::size_t i = 0; i < tensors.size(); ++i) {
                if (has_section(tensors[i], section)) visit(section, i);
            }
        }
    };
    std::size_t next = room, end = room;
    for_each_section([&](unsigned, std::size_t) { ++end; });
    if (!runs.resize_for_overwrite(end)) return false;
    for_each_section([&](unsigned section, std::size_t i) { runs[next++] = whole_run(i, tensors[i], section); });
    return true;
}

// Puts numbers of symbols in the place of those that are left to be inferred, and checks them all.
inline FileError count_symbols(std::span<const Run> sequence, std::span<FileChunk> chunks) {
    FileError error;
    std::uint64_t total = 0;
    for (const Run& run : sequence) {
        total += run.rows * run.row_symbols();
        error.status = FileStatus::chunk_sum;
        // A header has room for 2^25 chunks at most.
        if (total >= std::uint64_t{1} << 60) return error;
    }
    std::uint64_t left = total;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
        FileChunk& chunk = chunks[i];
        if (chunk.symbols == 0) chunk.symbols = left;
        std::uint64_t most = std::min(left, kChunkSymbolsLimit);
        if (chunk.payload_bytes <= most / kSymbolsPerByte) most = std::min(most, chunk.payload_bytes * kSymbolsPerByte);
        if (chunk.symbols == 0 || chunk.symbols > most) {
            error.status = FileStatus::chunk_symbols;
            error.chunk = i;
            error.expected = number(most);
            error.found = number(chunk.symbols);
            return error;
        }
        left -= chunk.symbols;
    }
    error.status = left == 0 ? FileStatus::ok : FileStatus::chunk_sum;
    error.expected = number(total);
    error.found = number(total - left);
    return error;
}

inline constexpr std::uint8_t kDifferenceCoder = 9;

// Whether a chunk is of one changed tensor and of the coder for it, or of neither.
inline bool suits_coder(const PlacedChunk& chunk, const FileLayout& layout) {
    if constexpr (!kReadsDifferences) return chunk.coder != kDifferenceCoder;
    const std::span<const Run> runs = layout.runs_of(chunk);
    const auto is_change = [](const Run& run) { return run.section == kChangeSection; };
    if (chunk.coder != kDifferenceCoder) return std::none_of(runs.begin(), runs.end(), is_change);
    return runs.size() == 1 && is_change(runs[0]);
}

// Makes the runs of every chunk of those of the sequence, which the chunks cover exactly. Before the sequence there is room for one
// run of each chunk: none cuts more than one in two, so that what is written never reaches what is to be read.
inline FileError cut(FileLayout& layout) {
    FileError error;
    Buffer<Run>& runs = layout.runs;
    std::size_t next = layout.chunks.size(), end = 0;
    std::uint64_t first_row = 0;
    for (std::size_t i = 0; i < layout.chunks.size(); ++i) {
        PlacedChunk& chunk = layout.chunks[i];
        chunk.first_run = end;
        for (std::uint64_t left = chunk.symbols; left > 0;) {
            Run run = runs[next];
            run.first_row = first_row;
            run.rows = std::min(run.rows - first_row, left / run.row_symbols());
            run.chunk = error.chunk = i;
            error.status = FileStatus::chunk_inside_row;
            if (run.rows == 0) return error;
            runs[end++] = run;
            left -= run.rows * run.row_symbols();
            first_row += run.rows;
            if (first_row == runs[next].rows) {
                ++next;
                first_row = 0;
            }
        }
        chunk.end_run = end;
        error.status = FileStatus::chunk_of_changes;
        if (!suits_coder(chunk, layout)) return error;
    }
    runs.truncate(end);
    return {};
}

}  // namespace metaq
