// The decoder for small devices: no heap, no exceptions, no run-time types, no threads, and rows one after the other, so that
// a layer need not fit into memory. docs/devices.md has what it takes.
//
//     #define METAQ_CODERS (METAQ_CODER_HUFFMAN | METAQ_CODER_RANS)          // all, if it is not defined
//     #include "metaq/device.hpp"
//
//     alignas(16) std::byte memory[16384];
//     metaq::device::Decoder decoder(memory);
//     metaq::FileError error = decoder.open(image);                          // the bytes outlive the decoder
//     error = decoder.decode([&](const metaq::device::Elements& elements) {  // of one row, or all of a small tensor
//         ... elements.tensor, elements.first, elements.count, elements.bytes ...
//         return true;                                                       // false stops
//     });
//     if (error == metaq::FileStatus::no_memory) ... decoder.needed_bytes() ...
//
// What is opened is an image, which `metaq pack` makes of a `.mtq` file; with METAQ_CODER_TEXT also the file itself, for whose
// header the arena takes 0.9 MB more. Compile with -DMETAQ_SMALL -DMETAQ_NO_SIMD -DMETAQ_NO_THREADS -DMETAQ_NO_HEAP
// -DMETAQ_NO_DIFFERENCES: tables become small, what only differences take is left out, and nothing but the arena can be allocated
// from; then one decoder at a time may work in a program.
//
// Elements are little-endian. They live until the function that takes them returns. Statuses, their places and checks are those
// of decoder.hpp; a difference is refused.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "metaq/base/buffer.hpp"
#include "metaq/base/memory.hpp"
#include "metaq/decoder.hpp"
#include "metaq/device/arena.hpp"
#include "metaq/device/image.hpp"
#include "metaq/device/whole_rows.hpp"
#include "metaq/huffman/rows.hpp"
#include "metaq/mixing/rows.hpp"
#include "metaq/range/rows.hpp"
#include "metaq/rans/rows.hpp"
#include "metaq/stored/rows.hpp"

// Stored chunks are in files of every coder, and always decoded.
#define METAQ_CODER_HUFFMAN 1
#define METAQ_CODER_RANGE 2
#define METAQ_CODER_MIXING 4
#define METAQ_CODER_RANS 8
#define METAQ_CODER_ADAPTIVE 16  // not row by row: four bytes for each symbol of a chunk
#define METAQ_CODER_TEXT 32      // of the headers of files
#ifndef METAQ_CODERS
#define METAQ_CODERS 63
#endif

namespace metaq::device {

// Some elements of a tensor: `first`, and each `stride` further.
struct Elements {
    std::size_t tensor;
    std::uint64_t first, stride;
    std::size_t count;
    std::span<const std::uint8_t> bytes;
};

// Which tensors are decoded.
enum class Wanted : std::uint8_t { all, coded, kept };

class Decoder {
public:
    // Decodes in that memory, which is the caller's and outlives the decoder.
    explicit Decoder(std::span<std::byte> memory) : arena_(memory) {}

    // Checks all but the chunks' payloads.
    FileError open(std::span<const std::uint8_t> data) {
        const AllocatorScope scope(arena_.allocator());
        image_ = {};
        if constexpr ((METAQ_CODERS & METAQ_CODER_TEXT) != 0) {
            if (!is_image(data)) return file_.open(data);
        }
        FileError error;
        error.status = read_image(data, image_);
        return error.status == FileStatus::ok ? file_.open_parts(image_.header, image_.chunks) : error;
    }

    std::span<const FileTensor> tensors() const { return file_.tensors(); }

    // Calls take(elements) for all tensors but aliases: row by row in the order of the file for those that are coded, and of one that
    // is scanned by columns column by column; at once for those that are kept without loss, after all others.
    template <class Take>
    FileError decode(const Take& take, Wanted wanted = Wanted::all) {
        const AllocatorScope scope(arena_.allocator());
        wanted_ = wanted;
        Kept kept;
        if (!place_kept(kept)) return failed(FileStatus::no_memory, kNowhere);
        bool goes_on = true;
        for (std::size_t i = 0; i < file_.chunks().size() && goes_on; ++i) {
            const auto runs = file_.runs_of(file_.chunks()[i]);
            if (std::none_of(runs.begin(), runs.end(), [&](const Run& run) { return is_wanted(run); })) continue;
            const FileError error = decode_chunk(i, kept, take, goes_on);
            if (error.status != FileStatus::ok) return error;
        }
        return {};
    }

    // What the arena had to have: after a failure that has no_memory, at least so many bytes.
    std::size_t needed_bytes() const { return std::max(arena_.needed_bytes(), image_.arena_bytes); }
    // How many bytes of it were in use at most.
    std::size_t most_bytes() const { return arena_.most_bytes(); }

private:
    // Elements of kept tensors, whose bytes come plane by plane.
    struct Kept {
        Buffer<std::uint8_t> bytes;
        Buffer<std::size_t> places;  // by tensor
    };

    static FileError failed(FileStatus status, std::size_t chunk) {
        FileError error;
        error.status = status;
        error.chunk = chunk;
        return error;
    }

    bool is_wanted(const Run& run) const {
        return wanted_ == Wanted::all || (run.section == 0) == (wanted_ == Wanted::coded);
    }

    [[nodiscard]] bool place_kept(Kept& kept) const {
        if (wanted_ == Wanted::coded) return true;
        std::uint64_t size_bytes = 0;
        if (!kept.places.assign_zeros(tensors().size())) return false;
        for (std::size_t i = 0; i < tensors().size(); ++i) {
            kept.places[i] = static_cast<std::size_t>(size_bytes);
            if (tensors()[i].kind == TensorKind::kept) size_bytes += tensors()[i].size_bytes();
            if (size_bytes > SIZE_MAX / 2) return false;
        }
        return kept.bytes.assign_zeros(static_cast<std::size_t>(size_bytes));
    }

    template <class Take>
    FileError decode_chunk(std::size_t chunk, Kept& kept, const Take& take, bool& goes_on) {
        const PlacedChunk& placed = file_.chunks()[chunk];
        if (crc32(placed.payload) != read_word(placed.checksum())) return failed(FileStatus::chunk_checksum, chunk);
        const auto with = [&]<class Coder>(Coder coder) { return decode_rows(chunk, coder, kept, take, goes_on); };
        constexpr auto has = [](int coder) { return (METAQ_CODERS & coder) != 0; };
        switch (static_cast<CoderId>(placed.coder)) {
            case CoderId::stored: return with(stored::RowDecoder());
            case CoderId::huffman:
                if constexpr (has(METAQ_CODER_HUFFMAN)) return with(huffman::RowDecoder());
                break;
            case CoderId::range:
                if constexpr (has(METAQ_CODER_RANGE)) return with(range::RowDecoder());
                break;
            case CoderId::mixing:
                if constexpr (has(METAQ_CODER_MIXING)) return with(mixing::RowDecoder());
                break;
            case CoderId::rans:
                if constexpr (has(METAQ_CODER_RANS)) return with(rans::RowDecoder());
                break;
            case CoderId::adaptive:
                if constexpr (has(METAQ_CODER_ADAPTIVE)) return with(WholeRows<adaptive::decode>());
                break;
            default: break;
        }
        return failed(FileStatus::unsupported_coder, chunk);
    }

    // Symbols of a row, behind those of the row before. Its values take their place if they are as wide.
    struct Row {
        Buffer<std::int32_t> symbols;
        Buffer<std::uint8_t> other_values;
        std::int32_t* now = nullptr;
        std::span<std::uint8_t> values;

        [[nodiscard]] bool make_room(std::size_t size, std::size_t width) {
            const bool are_there = width == sizeof(std::int32_t);
            if (!symbols.resize_for_overwrite(2 * size)) return false;
            if (!other_values.resize_for_overwrite(are_there ? 0 : size * width)) return false;
            now = symbols.data() + size;
            values = {are_there ? reinterpret_cast<std::uint8_t*>(now) : other_values.data(), size * width};
            return true;
        }
    };

    std::size_t longest_row(const PlacedChunk& chunk) const {
        std::uint64_t longest = 0;
        for (const Run& run : file_.runs_of(chunk)) longest = std::max(longest, run.row_symbols());
        return static_cast<std::size_t>(longest);
    }

    [[nodiscard]] bool make_room(const Run& part, Row& row) const {
        return row.make_room(part.symbols(), part.section > 0 ? 1 : traits_of(tensors()[part.tensor].dtype).bytes);
    }

    template <class Coder, class Take>
    FileError decode_rows(std::size_t chunk, Coder& coder, Kept& kept, const Take& take, bool& goes_on) {
        const PlacedChunk& placed = file_.chunks()[chunk];
        const auto runs = file_.runs_of(placed);
        Buffer<Block> blocks;
        if (!blocks.reserve(runs.size())) return failed(FileStatus::no_memory, chunk);
        for (const Run& run : runs) {
            const Block block{nullptr, static_cast<std::size_t>(run.rows), static_cast<std::size_t>(run.channels),
                              static_cast<std::size_t>(run.kernel)};
            if (!blocks.append(block)) return failed(FileStatus::no_memory, chunk);
        }
        Row row;
        if (!row.symbols.reserve(2 * longest_row(placed))) return failed(FileStatus::no_memory, chunk);
        Status status = coder.open(placed.payload, blocks);
        for (std::size_t i = 0; i < runs.size() && status == Status::ok; ++i) {
            Run part = runs[i];
            part.rows = 1;
            if (!make_room(part, row)) return failed(FileStatus::no_memory, chunk);
            status = coder.start_block(blocks[i]);
            for (std::size_t j = 0; j < blocks[i].rows && status == Status::ok; ++j, ++part.first_row) {
                status = coder.read_row(row.now);
                if (status != Status::ok) break;
                std::memcpy(row.symbols.data(), row.now, part.symbols() * sizeof(std::int32_t));
                const FileError error = hand_out(chunk, part, row, kept, take, goes_on);
                if (error.status != FileStatus::ok || !goes_on) return error;
            }
        }
        return stream_error(status == Status::ok ? coder.finish() : status, chunk);
    }

    template <class Take>
    FileError hand_out(std::size_t chunk, const Run& run, Row& row, Kept& kept, const Take& take, bool& goes_on) {
        FileError error = failed(FileStatus::ok, chunk);
        if (!is_wanted(run)) return error;
        const FileTensor& tensor = tensors()[run.tensor];
        Elements elements{run.tensor, run.first(), 1, run.symbols(), row.values};
        if (tensor.is_scanned_by_columns()) {
            write_scanned(run, row, elements);
        } else if (!convert_run(file_.header(), run, row.now, Content::values, row.values.data(), error)) {
            return error;
        }
        if (run.section > 0) {
            std::uint8_t* const bytes = kept.bytes.data() + kept.places[run.tensor];
            add_plane(run, row.values, tensor, bytes);
            const bool is_last = run.section + 1u == end_section(tensor) && run.end() == tensor.size();
            if (!is_last) return {};
            finish_kept(tensor, bytes);
            elements = {run.tensor,
                        0,
                        1,
                        static_cast<std::size_t>(tensor.size()),
                        {bytes, static_cast<std::size_t>(tensor.size_bytes())}};
        }
        goes_on = take(elements);
        return {};
    }

    // Of a tensor that is scanned by columns, symbols of one column, or a single one, to values and their places.
    void write_scanned(const Run& run, Row& row, Elements& elements) const {
        const FileTensor& tensor = tensors()[run.tensor];
        const FileMatrix& matrix = *tensor.matrix;
        const float step = file_.codebooks()[tensor.codebook].step;
        const std::uint64_t column = run.first() / matrix.rows, first_row = run.first() % matrix.rows;
        const float scale = column_scale(matrix, column);
        for (std::size_t i = 0; i < elements.count; ++i) {
            const float value = static_cast<float>(row.now[i]) * row_step(matrix, first_row + i, step) * scale;
            const auto bits = std::bit_cast<std::int32_t>(value);
            write_float_bits({&bits, 1}, tensor.dtype, row.values.data() + i * traits_of(tensor.dtype).bytes);
        }
        elements.first = first_row * matrix.columns + column;
        elements.stride = matrix.columns;
        elements.bytes = elements.bytes.first(elements.count * traits_of(tensor.dtype).bytes);
    }

    // Bytes of a plane to where they are in little-endian elements. Those of the most significant come first.
    static void add_plane(const Run& run, std::span<const std::uint8_t> plane, const FileTensor& tensor,
                          std::uint8_t* bytes) {
        const unsigned width = traits_of(tensor.dtype).bytes;
        std::uint8_t* out = bytes + run.first() * width + (width - run.section);
        for (const std::uint8_t byte : plane) {
            *out = byte ^ 0x80u;
            out += width;
        }
    }

    // Undoes that the planes of floats are of words that were rotated by a bit.
    static void finish_kept(const FileTensor& tensor, std::uint8_t* bytes) {
        const unsigned width = traits_of(tensor.dtype).bytes;
        if (!traits_of(tensor.dtype).is_float) return;
        for (std::uint64_t i = 0; i < tensor.size(); ++i, bytes += width) {
            const unsigned lowest = bytes[0] & 1u;
            for (unsigned k = 0; k < width; ++k) {
                const unsigned above = k + 1 < width ? bytes[k + 1] & 1u : lowest;
                bytes[k] = static_cast<std::uint8_t>(bytes[k] >> 1 | above << 7);
            }
        }
    }

    Arena arena_;
    Image image_;
    File file_;
    Wanted wanted_ = Wanted::all;
};

}  // namespace metaq::device
