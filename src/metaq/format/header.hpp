// The header of a `.mtq` file: bytes to lists of tensors, codebooks and chunks, every rule of docs/format.md checked.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "metaq/format/status.hpp"
#include "metaq/base/symbols.hpp"

namespace metaq {

inline constexpr std::uint64_t kHeaderBytesLimit = 1u << 26;
inline constexpr std::uint64_t kHeaderBytesPerByte = 1u << 12;  // and 8 bytes more, which may be implied
inline constexpr std::uint64_t kElementsLimit = std::uint64_t{1} << 40;
inline constexpr std::uint64_t kLevelsLimit = 1u << 20;
inline constexpr std::uint64_t kChunkSymbolsLimit = 1u << 26;
inline constexpr std::uint64_t kRowSymbolsLimit = 1u << 20;
inline constexpr std::uint8_t kDimensionsLimit = 32;

enum class Dtype : std::uint8_t {
    float32 = 0,
    float16 = 1,
    bfloat16 = 2,
    float64 = 3,
    float8_e4m3fn = 4,
    float8_e5m2 = 5,
    uint8 = 16,
    int8 = 17,
    int16 = 18,
    int32 = 19,
    int64 = 20,
    boolean = 21,
};

struct DtypeTraits {
    const char* name = nullptr;  // none: no such dtype
    unsigned bytes = 0;
    bool is_float = false;
};

inline DtypeTraits traits_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::float32: return {"float32", 4, true};
        case Dtype::float16: return {"float16", 2, true};
        case Dtype::bfloat16: return {"bfloat16", 2, true};
        case Dtype::float64: return {"float64", 8, true};
        case Dtype::float8_e4m3fn: return {"float8_e4m3fn", 1, true};
        case Dtype::float8_e5m2: return {"float8_e5m2", 1, true};
        case Dtype::uint8: return {"uint8", 1, false};
        case Dtype::int8: return {"int8", 1, false};
        case Dtype::int16: return {"int16", 2, false};
        case Dtype::int32: return {"int32", 4, false};
        case Dtype::int64: return {"int64", 8, false};
        case Dtype::boolean: return {"bool", 1, false};
    }
    return {};
}

enum class TensorKind : std::uint8_t { coded = 0, kept = 1, alias = 2 };
enum class CodebookKind : std::uint8_t { uniform = 0, table = 1, integer = 2 };

struct FileCodebook {
    CodebookKind kind = CodebookKind::integer;
    float step = 0;
    std::int64_t origin = 0;
    std::vector<float> levels;
};

struct FileTensor {
    std::string name;
    Dtype dtype = Dtype::float32;
    TensorKind kind = TensorKind::kept;
    std::vector<std::uint64_t> shape;
    std::size_t codebook = 0;  // of a coded one, in FileHeader::codebooks
    std::size_t target = 0;    // of an alias, in FileHeader::tensors; its own position otherwise

    std::uint64_t size() const {
        std::uint64_t product = 1;
        for (const std::uint64_t length : shape) product *= length;
        return product;
    }
    std::uint64_t size_bytes() const { return size() * traits_of(dtype).bytes; }
};

struct FileChunk {
    std::uint8_t coder = 0;
    std::uint64_t symbols = 0;
    std::uint64_t payload_bytes = 0;
};

struct FileHeader {
    std::vector<std::pair<std::string, std::string>> metadata;
    std::vector<FileTensor> tensors;
    std::vector<FileCodebook> codebooks;
    std::vector<FileChunk> chunks;
};

inline bool is_utf8(std::string_view text) {
    for (std::size_t i = 0; i < text.size();) {
        const auto byte = [&](std::size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
        const unsigned first = byte(i);
        const std::size_t more = first < 0x80 ? 0 : first < 0xc2 ? 4 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : 4;
        if (more == 4) return false;
        std::uint32_t point = more == 0 ? first : first & (0x3fu >> more);
        for (std::size_t n = 1; n <= more; ++n) {
            if (byte(i + n) >> 6 != 2) return false;
            point = point << 6 | (byte(i + n) & 0x3f);
        }
        if (more == 2 && (point < 0x800 || (point >> 11) == 0x1b)) return false;  // overlong, or a surrogate
        if (more == 3 && (point < 0x10000 || point > 0x10ffff)) return false;
        i += more + 1;
    }
    return true;
}

// Reads values one after the other. The first failure stays, and what is read from then on is zero.
class FieldReader {
public:
    explicit FieldReader(std::span<const std::uint8_t> data, FileStatus at_end) : data_(data), at_end_(at_end) {}

    FileStatus status() const { return status_; }
    bool is_ok() const { return status_ == FileStatus::ok; }
    std::size_t offset() const { return offset_; }
    std::size_t left() const { return data_.size() - offset_; }

    // Fails with `otherwise` unless `holds`. False after any failure.
    bool expect(bool holds, FileStatus otherwise) {
        if (is_ok() && !holds) status_ = otherwise;
        return is_ok();
    }

    std::span<const std::uint8_t> take(std::uint64_t size) {
        if (!expect(size <= left(), at_end_)) return {};
        const auto taken = data_.subspan(offset_, static_cast<std::size_t>(size));
        offset_ += taken.size();
        return taken;
    }

    std::uint8_t byte() {
        const auto taken = take(1);
        return taken.empty() ? std::uint8_t{0} : taken[0];
    }

    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (unsigned i = 0; i < 9 && is_ok(); ++i) {  // nine bytes hold 63 bits
            const std::uint8_t next = byte();
            value |= std::uint64_t{next & 0x7fu} << 7 * i;
            if (next < 0x80) return expect(next > 0 || i == 0, FileStatus::bad_varint) ? value : 0;
        }
        expect(false, FileStatus::bad_varint);
        return 0;
    }

    float float32() {
        const auto bytes = take(4);
        if (bytes.empty()) return 0;
        return std::bit_cast<float>(bytes[0] | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 |
                                    std::uint32_t{bytes[3]} << 24);
    }

    std::string string() {
        const auto bytes = take(varint());
        std::string text(bytes.begin(), bytes.end());
        expect(is_utf8(text), FileStatus::bad_utf8);
        return text;
    }

private:
    std::span<const std::uint8_t> data_;
    FileStatus at_end_;
    std::size_t offset_ = 0;
    FileStatus status_ = FileStatus::ok;
};

class HeaderReader {
public:
    explicit HeaderReader(std::span<const std::uint8_t> data) : fields_(data, FileStatus::header_truncated) {}

    // Reads everything; nothing in `header` is to be used unless this gives ok.
    FileStatus read(FileHeader& header) {
        fields_.expect(fields_.byte() == 0, FileStatus::reserved_flags);
        read_metadata(header);
        read_tensors(header);
        for (std::uint64_t left = fields_.varint(); left > 0 && fields_.is_ok(); --left) {
            const std::uint8_t coder = fields_.byte();
            const std::uint64_t symbols = fields_.varint();
            header.chunks.push_back({coder, symbols, fields_.varint()});
        }
        fields_.expect(fields_.left() == 0, FileStatus::header_left_over);
        return fields_.status();
    }

private:
    void read_metadata(FileHeader& header) {
        std::unordered_set<std::string> keys;
        for (std::uint64_t left = fields_.varint(); left > 0 && fields_.is_ok(); --left) {
            std::string key = fields_.string();
            fields_.expect(keys.insert(key).second, FileStatus::repeated_key);
            header.metadata.emplace_back(std::move(key), fields_.string());
        }
    }

    void read_tensors(FileHeader& header) {
        std::unordered_set<std::string> names;
        for (std::uint64_t left = fields_.varint(); left > 0 && fields_.is_ok(); --left) {
            FileTensor tensor;
            tensor.name = fields_.string();
            if (!fields_.expect(names.insert(tensor.name).second, FileStatus::repeated_name)) return;
            read_tensor(header, tensor);
            header.tensors.push_back(std::move(tensor));
        }
    }

    void read_tensor(FileHeader& header, FileTensor& tensor) {
        tensor.dtype = static_cast<Dtype>(fields_.byte());
        if (!fields_.expect(traits_of(tensor.dtype).name != nullptr, FileStatus::unknown_dtype)) return;
        const std::uint8_t kind = fields_.byte();
        if (!fields_.expect(kind <= 2, FileStatus::unknown_kind)) return;
        tensor.kind = static_cast<TensorKind>(kind);
        tensor.target = header.tensors.size();
        const bool is_kept_bool = tensor.kind == TensorKind::kept && tensor.dtype == Dtype::boolean;
        if (!fields_.expect(!is_kept_bool, FileStatus::kept_bool)) return;
        if (tensor.kind == TensorKind::alias) return read_alias(header, tensor);
        read_shape(tensor);
        if (tensor.kind == TensorKind::coded) read_codebook_reference(header, tensor);
    }

    void read_alias(const FileHeader& header, FileTensor& tensor) {
        const std::uint64_t target = fields_.varint();
        if (!fields_.expect(target < header.tensors.size(), FileStatus::bad_alias)) return;
        const FileTensor& original = header.tensors[static_cast<std::size_t>(target)];
        const bool fits = original.kind != TensorKind::alias && original.dtype == tensor.dtype;
        if (!fields_.expect(fits, FileStatus::bad_alias)) return;
        tensor.target = static_cast<std::size_t>(target);
        tensor.shape = original.shape;
    }

    void read_shape(FileTensor& tensor) {
        const std::uint8_t dimensions = fields_.byte();
        if (!fields_.expect(dimensions <= kDimensionsLimit, FileStatus::too_many_dimensions)) return;
        std::uint64_t product = 1;  // each zero counted as one
        for (std::uint8_t i = 0; i < dimensions; ++i) {
            const std::uint64_t length = fields_.varint();
            const std::uint64_t factor = std::max<std::uint64_t>(length, 1);
            if (!fields_.expect(factor <= (kElementsLimit - 1) / product, FileStatus::too_many_elements)) return;
            product *= factor;
            tensor.shape.push_back(length);
        }
    }

    void read_codebook_reference(FileHeader& header, FileTensor& tensor) {
        std::uint64_t reference = fields_.varint();
        if (!fields_.is_ok()) return;
        if (reference == 0) {
            header.codebooks.push_back(read_codebook());
            reference = header.codebooks.size();
        }
        if (!fields_.expect(reference <= header.codebooks.size(), FileStatus::bad_codebook_reference)) return;
        tensor.codebook = static_cast<std::size_t>(reference) - 1;
        const bool is_integer = header.codebooks[tensor.codebook].kind == CodebookKind::integer;
        const bool fits = is_integer ? !traits_of(tensor.dtype).is_float : tensor.dtype <= Dtype::float64;
        fields_.expect(fits, FileStatus::codebook_dtype);
    }

    FileCodebook read_codebook() {
        FileCodebook codebook;
        const std::uint8_t kind = fields_.byte();
        if (!fields_.expect(kind <= 2, FileStatus::unknown_codebook)) return codebook;
        codebook.kind = static_cast<CodebookKind>(kind);
        if (codebook.kind == CodebookKind::uniform) {
            codebook.step = fields_.float32();
            fields_.expect(std::isfinite(codebook.step) && codebook.step > 0, FileStatus::bad_step);
        } else if (codebook.kind == CodebookKind::table) {
            read_levels(codebook);
        }
        return codebook;
    }

    void read_levels(FileCodebook& codebook) {
        const std::uint64_t count = fields_.varint();
        const std::uint64_t origin = fields_.varint();
        if (!fields_.expect(count <= kLevelsLimit && origin < count, FileStatus::bad_levels)) return;
        codebook.origin = static_cast<std::int64_t>(origin);
        for (std::uint64_t i = 0; i < count && fields_.is_ok(); ++i) {
            const float level = fields_.float32();
            const bool is_next = codebook.levels.empty() || codebook.levels.back() < level;
            fields_.expect(std::isfinite(level) && is_next, FileStatus::bad_levels);
            codebook.levels.push_back(level);
        }
    }

    FieldReader fields_;
};

}  // namespace metaq
