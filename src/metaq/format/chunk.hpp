// One chunk: its payload to symbols, values and bytes of planes, each by the shortest way: rANS straight to values,
// other coders in the place of the values if those are as wide as symbols.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "metaq/adaptive/coder.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/difference/decoder.hpp"
#include "metaq/format/crc32.hpp"
#include "metaq/format/scales.hpp"
#include "metaq/format/sequence.hpp"
#include "metaq/format/status.hpp"
#include "metaq/format/tensors.hpp"
#include "metaq/format/values.hpp"
#include "metaq/huffman/coder.hpp"
#include "metaq/mixing/coder.hpp"
#include "metaq/range/coder.hpp"
#include "metaq/rans/decoder.hpp"
#include "metaq/stored/coder.hpp"

namespace metaq {

enum class CoderId : std::uint8_t {
    stored = 0,
    huffman = 1,
    range = 2,
    mixing = 3,
    gzip = 4,
    zstd = 5,
    lzma = 6,
    rans = 7,
    adaptive = 8,
    difference = kDifferenceCoder
};

inline bool is_native(CoderId coder) {
    return coder <= CoderId::mixing || coder == CoderId::rans || coder == CoderId::adaptive;
}

inline difference::WordTraits word_traits_of(Dtype dtype) {
    const DtypeTraits traits = traits_of(dtype);
    const auto mantissa_bits = [&]() -> unsigned {
        switch (dtype) {
            case Dtype::float32: return 23;
            case Dtype::float16: return 10;
            case Dtype::bfloat16: return 7;
            case Dtype::float64: return 52;
            case Dtype::float8_e4m3fn: return 3;
            case Dtype::float8_e5m2: return 2;
            default: return 0;
        }
    };
    return {traits.bytes, mantissa_bits(), traits.is_float};
}

// What becomes of coded tensors. Kept ones are elements in any case.
enum class Content : std::uint8_t { values, symbols };

// Coders that are not in this decoder, of the caller. Called from all threads that decode.
class ForeignDecoder {
public:
    // Fills the blocks with symbols.
    virtual Status decode(std::size_t chunk, std::uint8_t coder, std::span<const std::uint8_t> payload,
                          std::span<const Block> blocks) noexcept = 0;

protected:
    ~ForeignDecoder() = default;
};

// What becomes of a run's symbols. Those that are scanned by columns stay symbols until they are at their places.
inline Content content_of(const FileTensor& tensor, Content content) {
    return tensor.is_scanned_by_columns() ? Content::symbols : content;
}

// The bytes of an element of a run as it is decoded: a plane has one of them each.
inline std::size_t run_width(const FileHeader& header, const Run& run, Content content) {
    if (run.section > 0) return 1;
    const FileTensor& tensor = header.tensors[run.tensor];
    return content_of(tensor, content) == Content::symbols ? sizeof(std::int32_t) : traits_of(tensor.dtype).bytes;
}

// What the status of a chunk's stream is for its file.
inline FileError stream_error(Status status, std::size_t chunk) {
    FileError error;
    if (status == Status::ok) return error;
    error.chunk = chunk;
    error.status = status == Status::truncated   ? FileStatus::stream_truncated
                   : status == Status::no_memory ? FileStatus::no_memory
                                                 : FileStatus::stream_corrupt;
    return error;
}

// A run's symbols to what its place takes, which may be where they are if that is as wide. False with an error if some have no
// value.
inline bool convert_run(const FileHeader& header, const Run& run, std::int32_t* first, Content content,
                        std::uint8_t* place, FileError& error) {
    const std::span<const std::int32_t> symbols(first, run.symbols());
    const FileTensor& tensor = header.tensors[run.tensor];
    error.tensor = run.tensor;
    if (run.section > 0) {
        if (!check_range(symbols, {-128, 127}, FileStatus::plane_range, error)) return false;
        write_each<std::uint8_t>(symbols, place, [](std::int32_t symbol) { return static_cast<std::uint8_t>(symbol); });
        return true;
    }
    const FileCodebook& codebook = header.codebooks[tensor.codebook];
    const bool is_uniform = codebook.kind == CodebookKind::uniform;  // for which every symbol has a value
    if (!is_uniform && !check_range(symbols, symbol_range(codebook, tensor.dtype), FileStatus::symbol_range, error))
        return false;
    const bool is_there = reinterpret_cast<std::uint8_t*>(first) == place;
    if (content_of(tensor, content) == Content::symbols) {
        if (!is_there)
            write_each<std::uint32_t>(symbols, place,
                                      [](std::int32_t symbol) { return static_cast<std::uint32_t>(symbol); });
    } else if (tensor.matrix != nullptr) {
        ScaledValues(*tensor.matrix, codebook.step, tensor.dtype).write(symbols, run.first(), place);
    } else if (is_there && is_uniform) {
        to_float32(first, symbols.size(), codebook.step);
    } else {
        write_values(symbols, codebook, tensor.dtype, place);
    }
    return true;
}

class ChunkDecoder {
public:
    ChunkDecoder(const FileHeader& header, const FileLayout& layout, std::size_t chunk, Content content,
                 ForeignDecoder* foreign)
        : header_(header),
          chunk_(layout.chunks[chunk]),
          runs_(layout.runs_of(chunk_)),
          index_(chunk),
          content_(content),
          foreign_(foreign),
          source_(layout.source),
          payload_(chunk_.payload) {}

    // Reads the payload unless it is in memory. Whether it is the one that was written.
    FileError fetch() {
        if (source_ != nullptr) {
            const std::uint64_t size_bytes = chunk_.end() - chunk_.offset;
            if (size_bytes > SIZE_MAX || !read_.resize_for_overwrite(static_cast<std::size_t>(size_bytes)))
                return failed(FileStatus::no_memory);
            if (!source_->read(chunk_.offset, read_)) return failed(FileStatus::read_failed);
            payload_ = std::span(read_).first(read_.size() - kPayloadChecksumBytes);
        }
        const std::span checksum(payload_.data() + payload_.size(), kPayloadChecksumBytes);
        return crc32(payload_) == read_word(checksum) ? FileError{} : failed(FileStatus::chunk_checksum);
    }

    // Where the chunk's content is in the file's memory already, or among the bytes that were fetched: bytes of planes that are
    // stored as such; null elsewhere.
    const std::uint8_t* borrow() const {
        if (coder() != CoderId::stored) return nullptr;
        for (const Run& run : runs_) {
            if (run.section == 0) return nullptr;
        }
        return stored::borrow_bytes(payload_, runs_.size(), [&](std::size_t i) { return runs_[i].symbols(); });
    }

    // The bytes that were fetched, for who has borrowed some of them. There is nothing to decode afterwards.
    Buffer<std::uint8_t> take_fetched() { return std::move(read_); }

    // Fills the places, one for each run, with `run_width` bytes for each symbol; null where nobody wants them.
    FileError decode(std::span<std::uint8_t* const> places) const {
        if (coder() == CoderId::difference) return failed(FileStatus::wrong_base);
        if (!is_native(coder()) && foreign_ == nullptr) return failed(FileStatus::unsupported_coder);
        if (coder() == CoderId::rans) return decode_values(places);
        Symbols symbols;
        if (!allocate(places, symbols, [&](std::size_t i) { return holds_symbols(runs_[i], places[i]); }))
            return failed(FileStatus::no_memory);
        const FileError error = of_stream(decode_symbols(symbols.blocks));
        return error.status == FileStatus::ok ? convert(places, symbols) : error;
    }

    // What a chunk of changes makes of as many elements of the base; both may be the same memory.
    FileError apply(std::span<const std::uint8_t> base, std::span<std::uint8_t> out) const {
        if (coder() != CoderId::difference) return failed(FileStatus::wrong_base);
        const Dtype dtype = header_.tensors[runs_[0].tensor].dtype;
        const std::size_t size = runs_[0].symbols() * traits_of(dtype).bytes;
        if (base.size() != size || out.size() != size) return failed(FileStatus::wrong_base);
        return of_stream(difference::decode(payload_, word_traits_of(dtype), base, out));
    }

private:
    struct Symbols {
        Buffer<std::int32_t> memory;  // of those without a place
        Buffer<Block> blocks;
    };

    CoderId coder() const { return static_cast<CoderId>(chunk_.coder); }

    FileError failed(FileStatus status) const {
        FileError error;
        error.status = status;
        error.chunk = index_;
        return error;
    }

    FileError of_stream(Status status) const { return stream_error(status, index_); }

    // Whether a run's place is as wide as its symbols, which are decoded there.
    bool holds_symbols(const Run& run, const std::uint8_t* place) const {
        if (place == nullptr || run.section > 0 || run_width(header_, run, content_) != sizeof(std::int32_t))
            return false;
        return reinterpret_cast<std::uintptr_t>(place) % alignof(std::int32_t) == 0;
    }

    // Blocks of symbols for all runs: in their places if those take them, otherwise in memory of their own.
    template <class IsInPlace>
    [[nodiscard]] bool allocate(std::span<std::uint8_t* const> places, Symbols& symbols,
                                const IsInPlace& is_in_place) const {
        std::size_t elsewhere = 0;
        for (std::size_t i = 0; i < runs_.size(); ++i) elsewhere += is_in_place(i) ? 0 : runs_[i].symbols();
        if (!symbols.memory.resize_for_overwrite(elsewhere) || !symbols.blocks.reserve(runs_.size())) return false;
        std::int32_t* next = symbols.memory.data();
        for (std::size_t i = 0; i < runs_.size(); ++i) {
            const Run& run = runs_[i];
            auto* first = reinterpret_cast<std::int32_t*>(places[i]);
            if (!is_in_place(i)) {
                first = next;
                next += run.symbols();
            }
            const Block block{first, static_cast<std::size_t>(run.rows), static_cast<std::size_t>(run.channels),
                              static_cast<std::size_t>(run.kernel)};
            if (!symbols.blocks.append(block)) return false;
        }
        return true;
    }

    Status decode_symbols(std::span<const Block> blocks) const {
        switch (coder()) {
            case CoderId::stored: return stored::decode(payload_, blocks);
            case CoderId::huffman: return huffman::decode(payload_, blocks);
            case CoderId::range: return range::decode(payload_, blocks);
            case CoderId::mixing: return mixing::decode(payload_, blocks);
            case CoderId::adaptive: return adaptive::decode(payload_, blocks);
            default: return foreign_->decode(index_, chunk_.coder, payload_, blocks);
        }
    }

    FileError convert(std::span<std::uint8_t* const> places, const Symbols& symbols) const {
        for (std::size_t i = 0; i < runs_.size(); ++i) {
            FileError error = failed(FileStatus::ok);
            if (places[i] != nullptr && !convert_run(i, symbols, places[i], error)) return error;
        }
        return {};
    }

    bool convert_run(std::size_t i, const Symbols& symbols, std::uint8_t* place, FileError& error) const {
        return metaq::convert_run(header_, runs_[i], symbols.blocks[i].symbols, content_, place, error);
    }

    bool is_scaled(const Run& run) const { return header_.tensors[run.tensor].matrix != nullptr; }

    // Whether rANS fills the run's place by itself, and in which form: with symbols, if values have scales.
    bool is_fillable(const Run& run, const std::uint8_t* place, rans::Form& form) const {
        form = run.section > 0 ? rans::Form::int8 : rans::Form::int32;
        if (place == nullptr || run.section > 0) return place != nullptr;
        if (content_ == Content::symbols || is_scaled(run)) return holds_symbols(run, place);
        switch (header_.tensors[run.tensor].dtype) {
            case Dtype::float32: form = rans::Form::float32; return true;
            case Dtype::float16: form = rans::Form::float16; return true;
            case Dtype::bfloat16: form = rans::Form::bfloat16; return true;
            case Dtype::int8: form = rans::Form::int8; return true;
            case Dtype::int32: return std::endian::native == std::endian::little;
            default: return false;
        }
    }

    FileError decode_values(std::span<std::uint8_t* const> places) const {
        rans::Form form;
        Symbols symbols;
        const auto is_filled = [&](std::size_t i) { return is_fillable(runs_[i], places[i], form); };
        Buffer<rans::ValueBlock> blocks;
        if (!allocate(places, symbols, is_filled) || !blocks.reserve(runs_.size()))
            return failed(FileStatus::no_memory);
        for (std::size_t i = 0; i < runs_.size(); ++i) {
            const Block& block = symbols.blocks[i];
            auto* const bytes = reinterpret_cast<std::uint8_t*>(block.symbols);
            rans::ValueBlock values{bytes, block.rows, block.channels, block.kernel, rans::Form::int32, {}};
            if (is_filled(i)) values.form = form;
            if (values.form != rans::Form::int32 && runs_[i].section == 0) values.codebook = value_codebook(runs_[i]);
            if (!blocks.append(values)) return failed(FileStatus::no_memory);
        }
        FileError error = of_stream(rans::decode_values(payload_, blocks));
        for (std::size_t i = 0; i < runs_.size() && error.status == FileStatus::ok; ++i) {
            const bool has_values = is_filled(i) && content_ == Content::values && !is_scaled(runs_[i]);
            if (places[i] == nullptr || has_values || runs_[i].section > 0) continue;
            error = failed(FileStatus::ok);
            convert_run(i, symbols, places[i], error);
        }
        return error;
    }

    rans::Codebook value_codebook(const Run& run) const {
        const FileCodebook& codebook = header_.codebooks[header_.tensors[run.tensor].codebook];
        return {codebook.step, codebook.levels, static_cast<std::int32_t>(codebook.origin)};
    }

    const FileHeader& header_;
    const PlacedChunk& chunk_;
    std::span<const Run> runs_;
    std::size_t index_;
    Content content_;
    ForeignDecoder* foreign_;
    ByteSource* source_;
    Buffer<std::uint8_t> read_;  // from the source
    std::span<const std::uint8_t> payload_;
};

}  // namespace metaq
