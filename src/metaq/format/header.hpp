// The header of a `.mtq` file: bytes to lists of tensors, codebooks and chunks, every rule of docs/format.md checked.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "metaq/base/buffer.hpp"
#include "metaq/base/heap_sort.hpp"
#include "metaq/format/fields.hpp"
#include "metaq/format/scales.hpp"
#include "metaq/format/status.hpp"
#include "metaq/format/tensors.hpp"

namespace metaq {

inline constexpr std::uint64_t kHeaderBytesLimit = 1u << 26;
inline constexpr std::uint64_t kHeaderBytesPerByte = 1u << 12;  // and 8 bytes more, which may be implied
inline constexpr std::uint64_t kCodedBytesPerByte = 11;         // of the header: 81 bits, and a few bytes more
inline constexpr std::uint64_t kElementsLimit = std::uint64_t{1} << 40;
inline constexpr std::uint64_t kTensorsLimit = 1u << 20;
inline constexpr std::uint64_t kLevelsLimit = 1u << 20;
inline constexpr std::uint8_t kDimensionsLimit = 32;
inline constexpr std::uint8_t kDifferenceFlag = 1;
inline constexpr std::uint64_t kChecksumBytes = 32;  // of a difference's base
inline constexpr std::uint64_t kShortTexts = 1 + 128 + 128 * 128 +
                                             1920;  // of UTF-8 in no more than two bytes, and different

class HeaderReader {
public:
    // `chunk_bytes` are behind the header, as far as that is known: each chunk takes some of them.
    explicit HeaderReader(std::span<const std::uint8_t> data, std::uint64_t chunk_bytes = UINT64_MAX)
        : data_(data), fields_(data, FileStatus::header_truncated), chunk_bytes_(chunk_bytes) {}

    // Reads everything; nothing in `header` is to be used unless this gives ok. Its texts are views of the data.
    FileError read(FileHeader& header) {
        const std::uint8_t flags = fields_.byte();
        fields_.expect(flags <= kDifferenceFlag, FileStatus::reserved_flags, flags);
        if (flags == kDifferenceFlag) header.base = fields_.take(kChecksumBytes);
        if (!kReadsDifferences && !fields_.expect(header.base.empty(), FileStatus::difference)) return fields_.error();
        read_metadata(header);
        read_tensors(header);
        const std::uint64_t chunks = read_chunks(header);
        fields_.expect(fields_.left() == 0, FileStatus::header_left_over, fields_.left());
        if (!fields_.is_ok()) return fields_.error();
        link(header);
        const bool has_room = chunks == header.chunks.size();
        const std::uint64_t least = chunks * kPayloadChecksumBytes;
        if (!fields_.expect(has_room, FileStatus::truncated, chunk_bytes_, least))
            fields_.error().chunk = header.chunks.size();
        return fields_.error();
    }

private:
    struct Part {  // of the list that a view is of, which moves while it grows
        std::size_t first = 0, count = 0;
    };

    using TextOf = std::string_view (*)(const FileHeader&,
                                        std::size_t);  // a function, so that sorting is compiled once

    // Fails if memory ran out.
    bool keep(bool has_memory) { return fields_.expect(has_memory, FileStatus::no_memory); }

    void read_metadata(FileHeader& header) {
        const std::uint64_t count = fields_.count("metadata entries", 2);
        if (!fields_.is_ok()) return;
        // Keys are different, so that most take a byte for their size, three or more, and one for the value's size.
        const std::uint64_t most = kShortTexts + fields_.left() / 5;
        if (!fields_.expect(count <= most, FileStatus::header_truncated, count, most, "metadata entries")) return;
        for (std::uint64_t left = count; left > 0 && fields_.is_ok(); --left) {
            MetadataEntry entry;
            entry.key = fields_.string();
            entry.value = fields_.string();
            keep(header.metadata.append(entry));
        }
        Buffer<std::size_t> order;
        const TextOf key_of = [](const FileHeader& from, std::size_t i) { return from.metadata[i].key; };
        check_distinct(header, header.metadata.size(), key_of, FileStatus::repeated_key, order);
    }

    // Gives the number of chunks, of which no more are kept than the file has room for.
    std::uint64_t read_chunks(FileHeader& header) {
        const std::uint64_t count = fields_.count("chunks", 3);
        const std::uint64_t most = chunk_bytes_ / kPayloadChecksumBytes;
        for (std::uint64_t left = count; left > 0 && fields_.is_ok(); --left) {
            FileChunk chunk;
            chunk.coder = fields_.byte();
            chunk.symbols = fields_.varint();
            chunk.payload_bytes = fields_.varint();
            if (header.chunks.size() < most) keep(header.chunks.append(chunk));
        }
        return count;
    }

    void read_tensors(FileHeader& header) {
        const std::uint64_t count = fields_.varint();
        fields_.expect(count <= kTensorsLimit, FileStatus::too_many_tensors, count);
        fields_.check_count(count, "tensors", 4);
        if (fields_.is_ok()) keep(header.tensors.reserve(count) && shapes_.reserve(count));
        for (std::uint64_t left = count; left > 0 && fields_.is_ok(); --left) {
            FileTensor tensor;
            tensor.name = fields_.string();
            Part shape{header.lengths.size(), 0};
            if (fields_.is_ok()) read_tensor(header, tensor, shape);
            if (fields_.is_ok()) keep(header.tensors.append(tensor) && shapes_.append(shape));
        }
        const TextOf name_of_tensor = [](const FileHeader& from, std::size_t i) { return from.tensors[i].name; };
        check_distinct(header, header.tensors.size(), name_of_tensor, FileStatus::repeated_name, header.by_name);
    }

    // Fills `order` with positions in the order of their texts. Fails behind the first text that was there before.
    void check_distinct(const FileHeader& header, std::size_t count, TextOf text_in, FileStatus otherwise,
                        Buffer<std::size_t>& order) {
        const auto text_of = [&](std::size_t i) { return text_in(header, i); };
        if (!fields_.is_ok() || !keep(order.resize(count))) return;
        for (std::size_t i = 0; i < count; ++i) order[i] = i;
        const auto is_before = [&](std::size_t a, std::size_t b) {
            const int difference = text_of(a).compare(text_of(b));
            return difference < 0 || (difference == 0 && a < b);
        };
        heap_sort(order.begin(), order.end(), is_before);
        std::size_t repeated = kNowhere;
        for (std::size_t i = 1; i < count; ++i) {
            if (text_of(order[i - 1]) == text_of(order[i])) repeated = std::min(repeated, order[i]);
        }
        if (repeated == kNowhere) return;
        fields_.expect(false, otherwise);
        fields_.error().name = text_of(repeated);
        const auto* const end = reinterpret_cast<const std::uint8_t*>(text_of(repeated).data()) +
                                text_of(repeated).size();
        fields_.error().header_byte = static_cast<std::size_t>(end - data_.data());
    }

    void read_tensor(FileHeader& header, FileTensor& tensor, Part& shape) {
        const std::uint8_t dtype = fields_.byte();
        tensor.dtype = static_cast<Dtype>(dtype);
        fields_.expect(traits_of(tensor.dtype).name != nullptr, FileStatus::unknown_dtype, dtype);
        const std::uint8_t kind = fields_.is_ok() ? fields_.byte() : std::uint8_t{0};
        const std::uint8_t most = kReadsDifferences && !header.base.empty() ? 5 : 3;
        fields_.expect(kind <= most, FileStatus::unknown_kind, kind, most);
        tensor.kind = static_cast<TensorKind>(kind);
        tensor.target = header.tensors.size();
        const bool has_words = tensor.kind == TensorKind::kept || tensor.kind == TensorKind::changed;
        fields_.expect(!has_words || tensor.dtype != Dtype::boolean, FileStatus::kept_bool);
        if (fields_.is_ok()) read_layout(header, tensor, shape);
        if (fields_.is_ok() && tensor.has_symbols()) read_codebook_reference(header, tensor);
        if (fields_.is_ok() && tensor.kind == TensorKind::scaled) read_matrix(header, tensor, shape);
        if (fields_.is_ok()) return;
        fields_.error().tensor = header.tensors.size();
        fields_.error().name = tensor.name;
    }

    void read_layout(FileHeader& header, FileTensor& tensor, Part& shape) {
        switch (tensor.kind) {
            case TensorKind::alias: return read_alias(header, tensor, shape);
            case TensorKind::changed:
                if constexpr (kReadsDifferences) return read_change(header, tensor, shape);
                break;
            case TensorKind::removed:
                if constexpr (kReadsDifferences) return set_length(header, 0, shape);
                break;
            default: read_shape(header, shape);
        }
    }

    void set_length(FileHeader& header, std::uint64_t length, Part& shape) {
        shape = {header.lengths.size(), 1};
        keep(header.lengths.append(length));
    }

    void read_change(FileHeader& header, const FileTensor& tensor, Part& shape) {
        Part whole{header.lengths.size(), 0};
        read_shape(header, whole);
        if (!fields_.is_ok()) return;
        std::uint64_t size = 1;
        for (std::size_t i = 0; i < whole.count; ++i) size *= header.lengths[whole.first + i];
        FileChange change;
        change.common = fields_.varint();
        if (!fields_.expect(1 <= change.common && change.common <= size, FileStatus::bad_common, change.common, size))
            return;
        change.differing = fields_.varint();
        if (!fields_.expect(change.differing <= change.common, FileStatus::bad_differing, change.differing,
                            change.common))
            return;
        const std::uint8_t is_renamed = fields_.byte();
        if (!fields_.expect(is_renamed <= 1, FileStatus::bad_source, is_renamed)) return;
        change.source = is_renamed == 1 ? fields_.string() : tensor.name;
        if (keep(header.changes.append(change) && whole_shapes_.append(whole)))
            set_length(header, size - change.common, shape);
    }

    void read_alias(const FileHeader& header, FileTensor& tensor, Part& shape) {
        const std::uint64_t target = fields_.varint();
        if (!fields_.expect(target < header.tensors.size(), FileStatus::bad_alias, target)) return;
        tensor.target = static_cast<std::size_t>(target);
        const FileTensor& original = header.tensors[tensor.target];
        const bool is_tensor = original.kind != TensorKind::alias && original.kind != TensorKind::removed;
        const bool fits = is_tensor && original.dtype == tensor.dtype;
        fields_.expect(fits, FileStatus::bad_alias, target);
        shape = shapes_[tensor.target];
    }

    void read_shape(FileHeader& header, Part& shape) {
        const std::uint8_t dimensions = fields_.byte();
        if (!fields_.expect(dimensions <= kDimensionsLimit, FileStatus::too_many_dimensions, dimensions)) return;
        shape.count = dimensions;
        std::uint64_t product = 1;  // each zero counted as one
        for (std::uint8_t i = 0; i < dimensions && fields_.is_ok(); ++i) {
            const std::uint64_t length = fields_.varint();
            const std::uint64_t factor = std::max<std::uint64_t>(length, 1);
            fields_.expect(factor <= (kElementsLimit - 1) / product, FileStatus::too_many_elements, length);
            product *= fields_.is_ok() ? factor : 1;
            keep(header.lengths.append(length));
        }
    }

    void read_matrix(FileHeader& header, const FileTensor& tensor, const Part& shape) {
        const FileCodebook& codebook = header.codebooks[tensor.codebook];
        const auto kind = static_cast<std::uint64_t>(codebook.kind);
        if (!fields_.expect(codebook.kind == CodebookKind::uniform, FileStatus::scaled_codebook, kind)) return;
        const std::uint8_t layout = fields_.byte();
        if (!fields_.expect(1 <= layout && layout <= 7, FileStatus::bad_layout, layout)) return;
        FileMatrix matrix;
        matrix.by_columns = (layout & 4) != 0;
        matrix.leading = fields_.varint();
        const bool is_leading = 1 <= matrix.leading && matrix.leading < shape.count;
        if (!fields_.expect(is_leading, FileStatus::bad_leading, matrix.leading, shape.count)) return;
        matrix.rows = matrix.columns = 1;
        for (std::size_t i = 0; i < shape.count; ++i)
            (i < matrix.leading ? matrix.rows : matrix.columns) *= header.lengths[shape.first + i];
        if (!fields_.expect(matrix.rows * matrix.columns > 0, FileStatus::empty_matrix)) return;
        if ((layout & 1) != 0) matrix.row_logs = fields_.take(matrix.rows);
        check_row_scales(matrix.row_logs, codebook.step);
        if ((layout & 2) != 0) matrix.column_logs = fields_.take(matrix.columns);
        keep(header.matrices.append(matrix));
    }

    // A symbol 0 has no value in a row whose step is infinite.
    void check_row_scales(std::span<const std::uint8_t> logs, float step) {
        int most = -128;
        for (const std::uint8_t log : logs) most = std::max<int>(most, static_cast<std::int8_t>(log));
        const float largest = step * scale_of(static_cast<std::uint8_t>(most));
        if (logs.empty() || std::isfinite(largest)) return;
        fields_.expect(false, FileStatus::bad_row_scale, static_cast<std::uint64_t>(most));
    }

    void read_codebook_reference(FileHeader& header, FileTensor& tensor) {
        std::uint64_t reference = fields_.varint();
        if (!fields_.is_ok()) return;
        if (reference == 0) {
            read_codebook(header);
            reference = header.codebooks.size();
        }
        const bool is_defined = reference > 0 && reference <= header.codebooks.size();
        if (!fields_.expect(is_defined, FileStatus::bad_codebook_reference, reference)) return;
        tensor.codebook = static_cast<std::size_t>(reference) - 1;
        const CodebookKind kind = header.codebooks[tensor.codebook].kind;
        const DtypeTraits traits = traits_of(tensor.dtype);
        const bool fits = kind == CodebookKind::integer ? !traits.is_float : tensor.dtype <= Dtype::float64;
        if (!fields_.expect(fits, FileStatus::codebook_dtype, static_cast<std::uint64_t>(kind), 0, traits.name)) return;
        const bool is_whole = !kReadsDifferences || header.base.empty();
        const bool is_sum = is_whole || !traits.is_float || tensor.dtype == Dtype::float32;
        fields_.expect(is_sum, FileStatus::difference_dtype, 0, 0, traits.name);
    }

    void read_codebook(FileHeader& header) {
        FileCodebook codebook;
        Part levels{header.levels.size(), 0};
        const std::uint8_t kind = fields_.byte();
        if (!fields_.expect(kind <= 2, FileStatus::unknown_codebook, kind)) return;
        codebook.kind = static_cast<CodebookKind>(kind);
        if (codebook.kind == CodebookKind::uniform) {
            codebook.step = fields_.float32();
            const bool is_step = std::isfinite(codebook.step) && codebook.step > 0;
            fields_.expect(is_step, FileStatus::bad_step, std::bit_cast<std::uint32_t>(codebook.step));
        } else if (codebook.kind == CodebookKind::table) {
            read_levels(header, codebook, levels);
        }
        if (fields_.is_ok()) keep(header.codebooks.append(codebook) && levels_.append(levels));
    }

    void read_levels(FileHeader& header, FileCodebook& codebook, Part& levels) {
        const std::uint64_t count = fields_.varint();
        const std::uint64_t origin = fields_.varint();
        const bool is_count = count >= 1 && count <= kLevelsLimit;
        if (!fields_.expect(is_count, FileStatus::bad_levels, count, 0, "count")) return;
        const auto bytes = fields_.take(4 * count);
        if (!fields_.is_ok()) return;
        if (!fields_.expect(origin < count, FileStatus::bad_levels, origin, count - 1, "origin")) return;
        codebook.origin = static_cast<std::int64_t>(origin);
        levels.count = static_cast<std::size_t>(count);
        if (!keep(header.levels.resize(levels.first + levels.count))) return;
        float* const values = header.levels.data() + levels.first;
        bool are_good = true;
        for (std::size_t i = 0; i < levels.count; ++i) {
            values[i] = std::bit_cast<float>(read_word(bytes.subspan(4 * i, 4)));
            are_good &= std::isfinite(values[i]) && (i == 0 || values[i - 1] < values[i]);
        }
        fields_.expect(are_good, FileStatus::bad_levels);
    }

    // Views of lists that do not move any more.
    void link(FileHeader& header) const {
        const FileMatrix* matrix = header.matrices.data();
        for (std::size_t i = 0; i < header.changes.size(); ++i)
            header.changes[i].shape = view(header, whole_shapes_[i]);
        const FileChange* change = header.changes.data();
        for (std::size_t i = 0; i < header.tensors.size(); ++i) {
            FileTensor& tensor = header.tensors[i];
            tensor.shape = view(header, shapes_[i]);
            if (tensor.kind == TensorKind::changed) tensor.change = change++;
            if (tensor.kind == TensorKind::scaled) tensor.matrix = matrix++;
        }
        for (std::size_t i = 0; i < header.codebooks.size(); ++i) {
            header.codebooks[i].levels =
                std::span<const float>(header.levels).subspan(levels_[i].first, levels_[i].count);
        }
    }

    static std::span<const std::uint64_t> view(const FileHeader& header, const Part& part) {
        return std::span<const std::uint64_t>(header.lengths).subspan(part.first, part.count);
    }

    std::span<const std::uint8_t> data_;
    FieldReader fields_;
    std::uint64_t chunk_bytes_;
    Buffer<Part> shapes_;        // by tensor
    Buffer<Part> whole_shapes_;  // of the changed ones
    Buffer<Part> levels_;        // by codebook
};

}  // namespace metaq
