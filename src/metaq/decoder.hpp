// Whole `.mtq` files (docs/format.md) to tensors, with the standard library only.
//
//     metaq::File file;
//     metaq::FileError error = file.open(bytes);                          // the bytes outlive the file
//     for (const metaq::FileTensor& tensor : file.tensors()) ...          // name, dtype, shape
//     std::vector<std::uint8_t> out(file.tensors()[i].size_bytes());
//     error = file.decode(i, out);                                        // elements row-major, little-endian
//     if (error != metaq::FileStatus::ok) ...                             // describe(error) puts it in words
//
// A file may be a difference: what another network, its base, becomes this one by. `open` refuses it, so that nobody takes
// differences for weights, unless it is told to take it; `base()` then names the base, and decoding gives the differences.
// Of changed tensors (`change` is not null) `apply` makes the elements that they have in common with the base's, bit for bit.
//
// Nothing throws, and exceptions and run-time types may be switched off. Bytes are trusted in nothing: what breaks a rule of
// the format, and an allocation that fails, ends with a status that says so, and with its place.
//
// A file is not changed by decoding, which any number of threads may do at once; a `FileSession` is one's own or locked.
// For each thread, decoding allocates at most four bytes for each symbol of one chunk, of which there are at most 2^26 and at
// most 2^19 for each byte of the chunk, and what its coder needs; and some dozen megabytes for planes of kept tensors.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "metaq/base/buffer.hpp"
#include "metaq/base/default_floats.hpp"
#include "metaq/format/assembly.hpp"
#include "metaq/format/byte_source.hpp"
#include "metaq/format/cache.hpp"
#include "metaq/format/chunk.hpp"
#include "metaq/format/crc32.hpp"
#include "metaq/format/header.hpp"
#include "metaq/format/limits.hpp"
#include "metaq/format/sequence.hpp"
#include "metaq/format/status.hpp"
#include "metaq/text/coder.hpp"

namespace metaq {

// Work on one thread.
inline constexpr auto in_order = [](std::size_t count, const auto& work) {
    for (std::size_t i = 0; i < count; ++i) work(i);
};

// Whether a file that is one may be opened.
enum class Differences : bool { refused, taken };

class File {
public:
    using Output = FileOutput;

    // Checks all but the chunks' payloads. The file is empty unless this gives ok. `foreign_coders` are identifiers that the
    // format does not have, but the caller's ForeignDecoder. Where differences are not taken, the error that one is has its
    // base's checksum for a name. Who opens a stranger's file passes limits.
    FileError open(std::span<const std::uint8_t> data, std::span<const std::uint8_t> foreign_coders = {},
                   Differences differences = Differences::refused, const FileLimits& limits = {}) noexcept {
        *this = File();
        data_ = data;
        size_ = data.size();
        return opened(read_file(foreign_coders, limits), differences);
    }

    // As before, of a file that is not in memory: its header is read now, each chunk when it is decoded. The source outlives
    // the file. Where the file ends is not checked while its size is not known.
    FileError open_late(ByteSource& source, std::uint64_t size = kUnknownSize,
                        Differences differences = Differences::refused, const FileLimits& limits = {},
                        std::span<const std::uint8_t> foreign_coders = {}) noexcept {
        *this = File();
        size_ = size;
        layout_.source = &source;
        Buffer<std::uint8_t> start;
        FileError error;
        for (std::uint64_t wanted = std::min(size, kFirstRead);;) {
            const std::size_t before = start.size();
            error = {};
            error.status = FileStatus::no_memory;
            if (wanted > SIZE_MAX || !start.resize_for_overwrite(static_cast<std::size_t>(wanted))) break;
            error.status = FileStatus::read_failed;
            if (!source.read(before, std::span(start).subspan(before))) break;
            data_ = start;
            error = read_file(foreign_coders, limits);
            if (error.status != FileStatus::truncated || error.chunk != kNowhere || wanted == size) break;
            // No more than twice as much, since nothing vouches for the size that the file tells.
            error.found = number(size);
            wanted = std::min({static_cast<std::uint64_t>(error.expected.least), 2 * wanted, size});
        }
        data_ = {};
        chunks_begin_ = 0;
        return opened(error, differences);
    }

    // A file in two parts, of which others keep and check the first: its header before text coding, and all that is behind the
    // header. Texts are views of `header`, which outlives the file as `chunks` does.
    FileError open_parts(std::span<const std::uint8_t> header, std::span<const std::uint8_t> chunks,
                         Differences differences = Differences::refused) noexcept {
        *this = File();
        data_ = chunks;
        size_ = chunks.size();
        FieldReader fields(chunks, FileStatus::truncated);
        FileError error = HeaderReader(header, chunks.size()).read(header_);
        if (error.status == FileStatus::ok) error = place_chunks(fields, {});
        return opened(error, differences);
    }

    // The parts of a file that `open` has opened from memory, as `open_parts` takes them.
    std::span<const std::uint8_t> header_part() const { return header_bytes_; }
    std::span<const std::uint8_t> chunk_part() const { return data_.subspan(chunks_begin_); }

    // Of a difference the checksum of its base, 32 bytes; of a model nothing.
    std::span<const std::uint8_t> base() const { return header_.base; }

    const FileHeader& header() const { return header_; }
    std::span<const MetadataEntry> metadata() const { return header_.metadata; }
    std::span<const FileTensor> tensors() const { return header_.tensors; }
    std::span<const FileCodebook> codebooks() const { return header_.codebooks; }
    std::span<const PlacedChunk> chunks() const { return layout_.chunks; }
    std::span<const Run> runs_of(const PlacedChunk& chunk) const { return layout_.runs_of(chunk); }

    // The index of the tensor of that name.
    std::optional<std::size_t> find(std::string_view name) const {
        const auto is_before = [&](std::size_t index, std::string_view other) {
            return header_.tensors[index].name < other;
        };
        const std::size_t* const found = std::lower_bound(header_.by_name.begin(), header_.by_name.end(), name,
                                                          is_before);
        if (found == header_.by_name.end() || header_.tensors[*found].name != name) return std::nullopt;
        return *found;
    }

    // Which bytes of the file a tensor is decoded from: they are among these. None are for one without elements.
    std::pair<std::uint64_t, std::uint64_t> bytes_of(std::size_t index) const {
        std::uint64_t begin = size_, end = 0;
        visit_chunks(tensors()[index].target, [&](unsigned, std::size_t chunk) {
            begin = std::min(begin, layout_.chunks[chunk].offset);
            end = std::max(end, layout_.chunks[chunk].end());
        });
        return {std::min(begin, end), end};
    }

    // One tensor, also an alias: exactly `size_bytes()` bytes.
    FileError decode(std::size_t index, std::span<std::uint8_t> out) const noexcept {
        const Output output{index, out};
        return decode(std::span(&output, 1));
    }

    // Several tensors, or elements of them, each chunk decoded once at most. What the outputs hold after a failure is
    // unspecified.
    FileError decode(std::span<const Output> outputs, const DecodeOptions& options = {}) const noexcept {
        return decode(outputs, options, in_order);
    }

    // As before; `for_each(count, work)` calls work(i) for every i below count, in any order, on any threads.
    template <class ForEach>
    FileError decode(std::span<const Output> outputs, const DecodeOptions& options,
                     const ForEach& for_each) const noexcept {
        Assembly assembly(header_, layout_, options);
        const FileError error = assembly.plan(outputs);
        return error.status == FileStatus::ok ? assembly.run(for_each) : error;
    }

    // One chunk alone: the symbols of each of its runs, int32 of coded tensors and int8 of planes, to memory for as many.
    FileError decode_chunk(std::size_t chunk, std::span<std::uint8_t* const> places,
                           const DecodeOptions& options = {}) const noexcept {
        ChunkDecoder decoder(header_, layout_, chunk, Content::symbols, options.foreign);
        const FileError error = decoder.fetch();
        if (error.status != FileStatus::ok) return error;
        if (options.decoded_chunks != nullptr) ++*options.decoded_chunks;
        return decoder.decode(places);
    }

    // Of a difference: what a chunk of changes (whose run has the section `kChangeSection`) makes of as many elements of
    // the base as it has, both row-major and little-endian. They may be the same memory.
    FileError apply_chunk(std::size_t chunk, std::span<const std::uint8_t> base,
                          std::span<std::uint8_t> out) const noexcept {
        ChunkDecoder decoder(header_, layout_, chunk, Content::values, nullptr);
        const FileError error = decoder.fetch();
        return error.status == FileStatus::ok ? decoder.apply(base, out) : error;
    }

    // The elements that a changed tensor has in common with the base's tensor `change->source`, which begins with those of
    // `base`: `change->common` of them. Whatever lies behind them in the result is what `decode` gives.
    FileError apply(std::size_t index, std::span<const std::uint8_t> base, std::span<std::uint8_t> out) const noexcept {
        FileError error;
        error.tensor = index;
        error.status = FileStatus::bad_index;
        if (index >= tensors().size() || tensors()[index].change == nullptr) return error;
        const FileTensor& tensor = tensors()[index];
        const std::size_t width = traits_of(tensor.dtype).bytes;
        const std::uint64_t size = tensor.change->common * width;
        error.status = FileStatus::wrong_base;
        if (base.size() < size || out.size() != size) return error;
        if (tensor.change->differing == 0 && base.data() != out.data())
            std::copy_n(base.data(), out.size(), out.data());
        for (std::size_t i = layout_.find(kChangeSection, index, 0); i < layout_.runs.size(); ++i) {
            const Run& run = layout_.runs[i];
            if (run.tensor != index || run.section != kChangeSection) break;
            const std::size_t first = static_cast<std::size_t>(run.first()) * width, bytes = run.symbols() * width;
            error = apply_chunk(run.chunk, base.subspan(first, bytes), out.subspan(first, bytes));
            if (error.status != FileStatus::ok) return error;
        }
        return {};
    }

    // For those who ask for tensors in the order of the file: the end of the tensors that are best decoded together with the
    // first, for they lie in its chunks, or in those that as many threads decode meanwhile.
    std::size_t end_of_group(std::size_t first, std::size_t threads) const {
        constexpr std::uint64_t kMostSymbols = 1u << 25;
        std::array<std::size_t, 10>
            end{};  // by section: the chunks before this one are decoded, as far as they are needed
        std::uint64_t symbols = 0, largest = 0;
        std::size_t tensor = first;
        for (; tensor < tensors().size(); ++tensor) {
            if (tensors()[tensor].kind == TensorKind::alias || tensors()[tensor].size() == 0) continue;
            const bool is_full = symbols >= threads * largest || symbols >= kMostSymbols;
            if (tensor > first && is_full && needs_chunks(tensor, end)) break;
            add_chunks(tensor, end, symbols, largest);
        }
        return tensor;
    }

private:
    // What opening gives: a difference is an error where it is not taken, and with an error the file is empty.
    FileError opened(FileError error, Differences differences) {
        if (error.status == FileStatus::ok && differences == Differences::refused && !base().empty())
            error.status = FileStatus::difference;
        if (error.status == FileStatus::difference)
            error.name = std::string_view(reinterpret_cast<const char*>(base().data()), base().size());
        if (error.status != FileStatus::ok) {
            header_ = {};
            layout_ = {};
        }
        return error;
    }

    FileError read_file(std::span<const std::uint8_t> foreign_coders, const FileLimits& limits) {
        const DefaultFloats floats;  // in which steps and levels are compared
        static constexpr std::array<std::uint8_t, 3> kMagic{'M', 'T', 'Q'};
        FieldReader fields(data_, FileStatus::truncated);
        const bool is_mtq = data_.size() >= kMagic.size() && std::equal(kMagic.begin(), kMagic.end(), data_.begin());
        fields.expect(is_mtq, FileStatus::not_mtq);
        fields.take(kMagic.size());
        const std::uint8_t version = fields.byte();
        fields.expect(version == 1, FileStatus::wrong_version, version);
        const std::uint64_t size = fields.varint();
        const std::uint64_t coded_size = fields.varint();
        fields.expect(size > 0 && size <= kHeaderBytesLimit, FileStatus::header_size, size);
        fields.expect(size <= limits.header_bytes, FileStatus::beyond_limits, size, limits.header_bytes,
                      "header bytes");
        // Longer codes have bytes left over, which is seen before they are read.
        fields.expect(coded_size <= kCodedBytesPerByte * size + 8, FileStatus::header_coding, 0, 0, "corrupt");
        const std::size_t begin = fields.offset();
        fields.expect(coded_size + 4 <= fields.left(), FileStatus::truncated, data_.size(), begin + coded_size + 4);
        const auto coded = fields.take(coded_size);
        const auto covered = data_.first(fields.offset());
        const auto checksum = fields.take(4);
        chunks_begin_ = fields.offset();
        fields.expect(checksum.empty() || crc32(covered) == read_word(checksum), FileStatus::header_checksum);
        fields.expect(size <= kHeaderBytesPerByte * (coded_size + 8), FileStatus::header_size, size, coded_size);
        fields.error().header_byte = kNowhere;  // these are bytes of the file
        if (!fields.is_ok()) return fields.error();
        const FileError error = read_header(coded, static_cast<std::size_t>(size));
        if (error.status != FileStatus::ok) return error;
        const std::uint64_t decoded = decoded_bytes_of(header_);
        fields.expect(decoded <= limits.decoded_bytes, FileStatus::beyond_limits, decoded, limits.decoded_bytes,
                      "decoded bytes");
        fields.error().header_byte = kNowhere;
        return fields.is_ok() ? place_chunks(fields, foreign_coders) : fields.error();
    }

    FileError read_header(std::span<const std::uint8_t> coded, std::size_t size) {
        FileError error;
        error.status = FileStatus::no_memory;
        if (!header_bytes_.resize(size)) return error;
        const Status status = text::decode(coded, header_bytes_);
        error.what = status == Status::truncated ? "truncated" : "corrupt";
        if (status == Status::no_memory) return error;
        error.status = FileStatus::header_coding;
        if (status != Status::ok) return error;
        error = HeaderReader(header_bytes_, size_ - chunks_begin_).read(header_);
        if (error.status == FileStatus::truncated) {  // of bytes behind the header
            error.expected = number(static_cast<std::uint64_t>(error.expected.least) + chunks_begin_);
            error.found = number(size_);
        }
        return error;
    }

    // Moves `end` behind so many bytes of the file, which fails if it has not as many.
    void expect_bytes(FieldReader& fields, std::uint64_t& end, std::uint64_t count) const {
        const std::uint64_t after = end + std::min(count, kUnknownSize - end);
        if (fields.expect(count <= size_ - end, FileStatus::truncated, size_, after)) end = after;
    }

    FileError place_chunks(FieldReader& fields, std::span<const std::uint8_t> foreign_coders) {
        FileError error;
        error.status = FileStatus::no_memory;
        const std::size_t count = header_.chunks.size();
        if (!layout_.chunks.reserve(count) || !make_sequence(header_.tensors, count, layout_.runs)) return error;
        error = count_symbols(std::span(layout_.runs).subspan(count), header_.chunks);
        if (error.status != FileStatus::ok) return error;
        std::uint64_t end = fields.offset();  // of what is placed so far
        for (std::size_t i = 0; i < count; ++i) {
            const FileChunk& chunk = header_.chunks[i];
            const bool is_known = chunk.coder <= kDifferenceCoder ||
                                  std::find(foreign_coders.begin(), foreign_coders.end(), chunk.coder) !=
                                      foreign_coders.end();
            fields.expect(is_known, FileStatus::unknown_coder, chunk.coder);
            PlacedChunk placed{chunk.coder, static_cast<std::size_t>(chunk.symbols), 0, 0, end, chunk.payload_bytes,
                               {}};
            expect_bytes(fields, end, chunk.payload_bytes);
            expect_bytes(fields, end, kPayloadChecksumBytes);
            if (fields.is_ok() && layout_.source == nullptr) {
                placed.payload = fields.take(chunk.payload_bytes);
                fields.take(kPayloadChecksumBytes);
            }
            if (fields.expect(layout_.chunks.append(placed), FileStatus::no_memory)) continue;
            fields.error().chunk = i;
            break;
        }
        fields.expect(end == size_ || size_ == kUnknownSize, FileStatus::bytes_left_over, size_, end);
        fields.error().header_byte = kNowhere;
        return fields.is_ok() ? cut(layout_) : fields.error();
    }

    template <class Visit>
    void visit_chunks(std::size_t tensor, const Visit& visit) const {
        for (unsigned section = first_section(tensors()[tensor]); section < end_section(tensors()[tensor]); ++section) {
            std::size_t last = kNowhere;
            for (std::size_t run = layout_.find(section, tensor, 0); run < layout_.runs.size(); ++run) {
                const Run& found = layout_.runs[run];
                if (found.section != section || found.tensor != tensor) break;
                if (found.chunk != last) visit(section, found.chunk);
                last = found.chunk;
            }
        }
    }

    bool needs_chunks(std::size_t tensor, std::span<const std::size_t> end) const {
        bool needs = false;
        visit_chunks(tensor, [&](unsigned section, std::size_t chunk) { needs |= chunk >= end[section]; });
        return needs;
    }

    void add_chunks(std::size_t tensor, std::span<std::size_t> end, std::uint64_t& symbols,
                    std::uint64_t& largest) const {
        visit_chunks(tensor, [&](unsigned section, std::size_t chunk) {
            if (chunk < end[section]) return;
            end[section] = chunk + 1;
            symbols += layout_.chunks[chunk].symbols;
            largest = std::max<std::uint64_t>(largest, layout_.chunks[chunk].symbols);
        });
    }

    static constexpr std::uint64_t kFirstRead = 256;

    std::span<const std::uint8_t> data_;
    std::uint64_t size_ = 0;             // of the file
    std::size_t chunks_begin_ = 0;       // in the data
    Buffer<std::uint8_t> header_bytes_;  // which all texts are views of; they stay if opening fails, for its FileError
    FileHeader header_;
    FileLayout layout_;
};

// Reads tensors, and parts of tensors, one after the other: chunks that were decoded for others are kept, up to so many
// bytes. One call at a time.
class FileSession {
public:
    explicit FileSession(const File& file, std::size_t cache_bytes = std::size_t{1} << 26)
        : file_(file), cache_bytes_(cache_bytes) {}

    // As `File::decode`.
    template <class ForEach>
    FileError decode(std::span<const File::Output> outputs, DecodeOptions options, const ForEach& for_each) noexcept {
        options.cache = &cache_;
        options.cache_bytes = cache_bytes_;
        const FileError error = file_.decode(outputs, options, for_each);
        cache_.shrink(cache_bytes_);
        return error;
    }

private:
    const File& file_;
    std::size_t cache_bytes_;
    ChunkCache cache_;
};

}  // namespace metaq
