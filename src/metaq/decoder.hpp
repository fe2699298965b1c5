// Whole `.mtq` files (docs/format.md) to tensors, with the standard library only.
//
//     metaq::File file;
//     metaq::FileStatus status = file.open(bytes);                        // the bytes outlive the file
//     for (const metaq::FileTensor& tensor : file.tensors()) ...          // name, dtype, shape
//     std::vector<std::uint8_t> out(file.tensors()[i].size_bytes());
//     status = file.decode(i, out);                                       // elements row-major, little-endian
//
// Nothing throws. Bytes are trusted in nothing: what breaks a rule of the format ends with a status that says so, and
// `describe` puts it in words. Decoding allocates four bytes for each symbol of one chunk, of which there are at most
// 2^26 and at most 2^19 for each byte of the chunk, a copy of the chunk for the coder adaptive, and a few megabytes for a
// coder; `decode` on several threads, as much for each.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "metaq/adaptive/coder.hpp"
#include "metaq/format/header.hpp"
#include "metaq/format/status.hpp"
#include "metaq/format/values.hpp"
#include "metaq/huffman/coder.hpp"
#include "metaq/mixing/coder.hpp"
#include "metaq/range/coder.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/text/coder.hpp"

#if __has_include("metaq/rans/decoder.hpp")
#include "metaq/rans/decoder.hpp"
#define METAQ_DECODER_HAS_RANS 1
#endif

namespace metaq {

enum class CoderId : std::uint8_t { stored = 0, huffman = 1, range = 2, mixing = 3, gzip = 4, zstd = 5, lzma = 6, rans = 7, adaptive = 8 };

inline std::uint32_t read_word(std::span<const std::uint8_t> bytes) {
    return bytes[0] | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 | std::uint32_t{bytes[3]} << 24;
}

// Four bytes at a time: entry n of table k is what a byte n does to the checksum once k bytes have followed it.
inline std::uint32_t crc32(std::span<const std::uint8_t> data) {
    static constexpr auto tables = [] {
        std::array<std::array<std::uint32_t, 256>, 4> entries{};
        for (std::uint32_t i = 0; i < 256; ++i) {
            std::uint32_t value = i;
            for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (0xedb88320u & (0u - (value & 1)));
            entries[0][i] = value;
        }
        for (std::size_t k = 1; k < entries.size(); ++k) {
            for (std::size_t i = 0; i < 256; ++i) entries[k][i] = entries[k - 1][i] >> 8 ^ entries[0][entries[k - 1][i] & 255];
        }
        return entries;
    }();
    std::uint32_t crc = 0xffffffffu;
    for (; data.size() >= 4; data = data.subspan(4)) {
        crc ^= read_word(data);
        crc = tables[3][crc & 255] ^ tables[2][crc >> 8 & 255] ^ tables[1][crc >> 16 & 255] ^ tables[0][crc >> 24];
    }
    for (const std::uint8_t byte : data) crc = crc >> 8 ^ tables[0][(crc ^ byte) & 255];
    return ~crc;
}

namespace stored {

// Every block's width of 1, 2 or 4 bytes, then all symbols, little-endian.
inline Status decode(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
    if (data.size() < blocks.size()) return Status::truncated;
    std::size_t expected = blocks.size();
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        if (data[i] != 1 && data[i] != 2 && data[i] != 4) return Status::corrupt;
        if (blocks[i].size() > (data.size() - expected) / data[i]) return Status::truncated;
        expected += blocks[i].size() * data[i];
    }
    if (data.size() != expected) return Status::corrupt;
    const std::uint8_t* bytes = data.data() + blocks.size();
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const unsigned width = data[i];
        const unsigned unused = 32 - 8 * width;
        for (std::size_t n = 0; n < blocks[i].size(); ++n, bytes += width) {
            std::uint32_t word = 0;
            for (unsigned at = 0; at < width; ++at) word |= std::uint32_t{bytes[at]} << 8 * at;
            const std::int32_t symbol = static_cast<std::int32_t>(word << unused) >> unused;
            if (!is_symbol(symbol)) return Status::corrupt;
            blocks[i].symbols[n] = symbol;
        }
    }
    return Status::ok;
}

}  // namespace stored

class File {
public:
    // What is to be decoded, and to where: exactly `size_bytes()` bytes of the tensor at `index`.
    struct Output {
        std::size_t index;
        std::span<std::uint8_t> bytes;
    };

    // Checks all but the chunks' payloads. The file is empty unless this gives ok.
    FileStatus open(std::span<const std::uint8_t> data) noexcept {
        FileStatus status = FileStatus::no_memory;
        try {
            *this = File();
            data_ = data;
            status = read_file();
        } catch (...) {
        }
        if (status != FileStatus::ok) *this = File();
        return status;
    }

    const std::vector<std::pair<std::string, std::string>>& metadata() const { return header_.metadata; }
    const std::vector<FileTensor>& tensors() const { return header_.tensors; }

    // One tensor, also an alias.
    FileStatus decode(std::size_t index, std::span<std::uint8_t> out) const noexcept {
        const Output output{index, out};
        return decode(std::span(&output, 1));
    }

    // Several tensors, each chunk decoded once at most. What the outputs hold after a failure is unspecified.
    FileStatus decode(std::span<const Output> outputs) const noexcept {
        return decode(outputs, [](std::size_t count, const auto& work) {
            for (std::size_t i = 0; i < count; ++i) work(i);
        });
    }

    // As before; `for_each(count, work)` calls work(i) for every i below count, in any order, on any threads.
    template <class ForEach>
    FileStatus decode(std::span<const Output> outputs, const ForEach& for_each) const noexcept {
        try {
            return decode_outputs(outputs, for_each);
        } catch (...) {
            return FileStatus::no_memory;
        }
    }

private:
    // Rows of a coded tensor, or of a plane of a kept one, as they follow each other in the symbol sequence.
    struct Run {
        std::size_t tensor;
        unsigned plane;  // of a kept one
        std::uint64_t rows, channels, kernel;
        std::uint64_t first_row = 0;

        std::uint64_t row_symbols() const { return channels * kernel; }
        std::size_t symbols() const { return static_cast<std::size_t>(rows * row_symbols()); }
    };

    struct PlacedChunk {
        std::uint8_t coder;
        std::size_t symbols;
        std::size_t first_run, end_run;  // in runs_
        std::span<const std::uint8_t> payload;
        std::span<const std::uint8_t> checksum;
    };

    FileStatus read_file() {
        static constexpr std::array<std::uint8_t, 3> kMagic{'M', 'T', 'Q'};
        FieldReader fields(data_, FileStatus::truncated);
        if (data_.size() < 3 || !std::equal(kMagic.begin(), kMagic.end(), data_.begin())) return FileStatus::not_mtq;
        fields.take(3);
        const std::uint8_t version = fields.byte();
        if (!fields.expect(version == 1, FileStatus::wrong_version)) return fields.status();
        const std::uint64_t size = fields.varint();
        const std::uint64_t coded_size = fields.varint();
        fields.expect(size > 0 && size <= kHeaderBytesLimit, FileStatus::header_size);
        const auto coded = fields.take(coded_size);
        const auto covered = data_.first(fields.offset());
        const auto checksum = fields.take(4);
        if (!fields.is_ok()) return fields.status();
        if (crc32(covered) != read_word(checksum)) return FileStatus::header_checksum;
        if (size > kHeaderBytesPerByte * (coded_size + 8)) return FileStatus::header_size;
        std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size));
        if (text::decode(coded, bytes) != Status::ok) return FileStatus::header_coding;
        const FileStatus status = HeaderReader(bytes).read(header_);
        return status == FileStatus::ok ? place_chunks(fields) : status;
    }

    FileStatus place_chunks(FieldReader& fields) {
        const std::vector<Run> sequence = make_sequence();
        std::uint64_t left = 0;
        for (const Run& run : sequence) {
            left += run.rows * run.row_symbols();
            // A header has room for 2^25 chunks at most.
            if (left >= std::uint64_t{1} << 60) return FileStatus::chunk_sum;
        }
        for (FileChunk& chunk : header_.chunks) {
            if (chunk.symbols == 0) chunk.symbols = left;
            const bool fits = chunk.symbols > 0 && chunk.symbols <= std::min(left, kChunkSymbolsLimit) &&
                              (chunk.symbols - 1) / kSymbolsPerByte < chunk.payload_bytes;
            if (!fits) return FileStatus::chunk_symbols;
            left -= chunk.symbols;
        }
        if (left > 0) return FileStatus::chunk_sum;
        for (const FileChunk& chunk : header_.chunks) {
            if (chunk.coder > static_cast<std::uint8_t>(CoderId::adaptive)) return FileStatus::unknown_coder;
            const auto payload = fields.take(chunk.payload_bytes);
            const auto checksum = fields.take(4);
            chunks_.push_back({chunk.coder, static_cast<std::size_t>(chunk.symbols), 0, 0, payload, checksum});
        }
        fields.expect(fields.left() == 0, FileStatus::bytes_left_over);
        return fields.is_ok() ? cut(sequence) : fields.status();
    }

    // Coders see d0 rows of d1 channels of the rest, or else as many rows as there are elements.
    static Run whole_run(std::size_t index, const FileTensor& tensor, unsigned plane) {
        std::uint64_t row = 1;
        for (std::size_t i = 1; i < tensor.shape.size(); ++i) row *= tensor.shape[i];
        if (tensor.shape.size() < 2 || row > kRowSymbolsLimit) return {index, plane, tensor.size(), 1, 1};
        return {index, plane, tensor.shape[0], tensor.shape[1], row / tensor.shape[1]};
    }

    std::vector<Run> make_sequence() const {
        std::vector<Run> sequence;
        for (std::size_t i = 0; i < tensors().size(); ++i) {
            const FileTensor& tensor = tensors()[i];
            if (tensor.kind == TensorKind::coded && tensor.size() > 0) sequence.push_back(whole_run(i, tensor, 0));
        }
        for (unsigned plane = 0; plane < 8; ++plane) {
            for (std::size_t i = 0; i < tensors().size(); ++i) {
                const FileTensor& tensor = tensors()[i];
                const bool has_plane = tensor.kind == TensorKind::kept && plane < traits_of(tensor.dtype).bytes;
                if (has_plane && tensor.size() > 0) sequence.push_back(whole_run(i, tensor, plane));
            }
        }
        return sequence;
    }

    // The runs of every chunk.
    FileStatus cut(const std::vector<Run>& sequence) {
        auto next = sequence.begin();
        std::uint64_t first_row = 0;
        for (PlacedChunk& chunk : chunks_) {
            chunk.first_run = runs_.size();
            for (std::uint64_t left = chunk.symbols; left > 0;) {
                Run run = *next;  // chunks cover the sequence exactly
                run.first_row = first_row;
                run.rows = std::min(next->rows - first_row, left / run.row_symbols());
                if (run.rows == 0) return FileStatus::chunk_inside_row;
                runs_.push_back(run);
                left -= run.rows * run.row_symbols();
                first_row += run.rows;
                if (first_row == next->rows) {
                    ++next;
                    first_row = 0;
                }
            }
            chunk.end_run = runs_.size();
        }
        return FileStatus::ok;
    }

    template <class ForEach>
    FileStatus decode_outputs(std::span<const Output> outputs, const ForEach& for_each) const {
        std::vector<std::span<std::uint8_t>> parts(tensors().size());  // by tensor, aliases resolved; empty: not wanted
        for (const Output& output : outputs) {
            if (output.index >= tensors().size()) return FileStatus::bad_index;
            const FileTensor& tensor = tensors()[output.index];
            if (output.bytes.size() != tensor.size_bytes()) return FileStatus::wrong_output_size;
            parts[tensor.target] = output.bytes;
        }
        std::atomic<FileStatus> worst = FileStatus::ok;
        for_each(chunks_.size(), [&](std::size_t index) noexcept {
            if (worst != FileStatus::ok) return;
            FileStatus status = FileStatus::no_memory;
            try {
                status = decode_chunk(chunks_[index], parts);
            } catch (...) {
            }
            if (status != FileStatus::ok) worst = status;
        });
        if (worst != FileStatus::ok) return worst;
        for (std::size_t i = 0; i < parts.size(); ++i) {
            const DtypeTraits traits = traits_of(tensors()[i].dtype);
            if (tensors()[i].kind == TensorKind::kept && traits.is_float) restore_signs(parts[i], traits.bytes);
        }
        for (const Output& output : outputs) {
            const auto part = parts[tensors()[output.index].target];
            if (!part.empty()) std::memmove(output.bytes.data(), part.data(), part.size());
        }
        return FileStatus::ok;
    }

    FileStatus decode_chunk(const PlacedChunk& chunk, std::span<const std::span<std::uint8_t>> parts) const {
        const std::span runs = std::span(runs_).subspan(chunk.first_run, chunk.end_run - chunk.first_run);
        const auto is_wanted = [&](const Run& run) { return !parts[run.tensor].empty(); };
        if (std::none_of(runs.begin(), runs.end(), is_wanted)) return FileStatus::ok;
        if (crc32(chunk.payload) != read_word(chunk.checksum)) return FileStatus::chunk_checksum;
        std::size_t elsewhere = 0;
        for (const Run& run : runs) elsewhere += in_place(run, parts[run.tensor]) ? 0 : run.symbols();
        const auto memory = std::make_unique_for_overwrite<std::int32_t[]>(elsewhere);
        std::vector<Block> blocks;
        std::int32_t* next = memory.get();
        for (const Run& run : runs) {
            std::int32_t* first = in_place(run, parts[run.tensor]);
            if (!first) first = std::exchange(next, next + run.symbols());
            blocks.push_back({first, static_cast<std::size_t>(run.rows), static_cast<std::size_t>(run.channels),
                              static_cast<std::size_t>(run.kernel)});
        }
        const FileStatus status = decode_symbols(chunk, blocks);
        if (status != FileStatus::ok) return status;
        for (std::size_t i = 0; i < runs.size(); ++i) {
            const Run& run = runs[i];
            if (!is_wanted(run)) continue;
            const std::span symbols(blocks[i].symbols, run.symbols());
            FileStatus written = FileStatus::ok;
            if (in_place(run, parts[run.tensor])) {
                to_float32(symbols, header_.codebooks[tensors()[run.tensor].codebook].step);
            } else {
                written = write_run(run, symbols, parts[run.tensor]);
            }
            if (written != FileStatus::ok) return written;
        }
        return FileStatus::ok;
    }

    // Where the run's values are, if its symbols can be decoded there: those of most networks.
    std::int32_t* in_place(const Run& run, std::span<std::uint8_t> whole) const {
        const FileTensor& tensor = tensors()[run.tensor];
        if (whole.empty() || tensor.kind != TensorKind::coded || tensor.dtype != Dtype::float32) return nullptr;
        if (header_.codebooks[tensor.codebook].kind != CodebookKind::uniform) return nullptr;
        if (reinterpret_cast<std::uintptr_t>(whole.data()) % alignof(std::int32_t) != 0) return nullptr;
        return reinterpret_cast<std::int32_t*>(whole.data()) + run.first_row * run.row_symbols();
    }

    static FileStatus decode_symbols(const PlacedChunk& chunk, std::span<const Block> blocks) {
        Status status = Status::corrupt;
        switch (static_cast<CoderId>(chunk.coder)) {
            case CoderId::stored: status = stored::decode(chunk.payload, blocks); break;
            case CoderId::huffman: status = huffman::decode(chunk.payload, blocks); break;
            case CoderId::range: status = range::decode(chunk.payload, blocks); break;
            case CoderId::mixing: status = mixing::decode(chunk.payload, blocks); break;
            case CoderId::adaptive: status = adaptive::decode(chunk.payload, blocks); break;
#ifdef METAQ_DECODER_HAS_RANS
            case CoderId::rans: status = rans::decode(chunk.payload, blocks); break;
#endif
            default: return FileStatus::unsupported_coder;
        }
        if (status == Status::ok) return FileStatus::ok;
        return status == Status::truncated ? FileStatus::stream_truncated : FileStatus::stream_corrupt;
    }

    FileStatus write_run(const Run& run, std::span<const std::int32_t> symbols, std::span<std::uint8_t> whole) const {
        const FileTensor& tensor = tensors()[run.tensor];
        const unsigned width = traits_of(tensor.dtype).bytes;
        std::uint8_t* const out = whole.data() + run.first_row * run.row_symbols() * width;
        if (tensor.kind == TensorKind::kept) return write_plane(symbols, run.plane, width, out);
        return write_values(symbols, header_.codebooks[tensor.codebook], tensor.dtype, out);
    }

    std::span<const std::uint8_t> data_;
    FileHeader header_;
    std::vector<PlacedChunk> chunks_;
    std::vector<Run> runs_;
};

}  // namespace metaq
