// What a `.mtq` file's header lists: tensors, codebooks, chunks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "metaq/base/buffer.hpp"
#include "metaq/base/symbols.hpp"

namespace metaq {

// Whether differences can be opened. Without, what they alone take is not compiled, and all of them are refused.
#ifdef METAQ_NO_DIFFERENCES
inline constexpr bool kReadsDifferences = false;
#else
inline constexpr bool kReadsDifferences = true;
#endif

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

enum class TensorKind : std::uint8_t { coded = 0, kept = 1, alias = 2, scaled = 3, changed = 4, removed = 5 };
enum class CodebookKind : std::uint8_t { uniform = 0, table = 1, integer = 2 };

struct FileCodebook {
    CodebookKind kind = CodebookKind::integer;
    float step = 0;
    std::int64_t origin = 0;
    std::span<const float> levels;
};

// How a scaled tensor is seen as a matrix. Scales are int8, logarithms in eighths of an octave; none: there are no scales.
struct FileMatrix {
    std::uint64_t leading = 0;  // dimensions, which make a row
    std::uint64_t rows = 0, columns = 0;
    std::span<const std::uint8_t> row_logs, column_logs;
    bool by_columns = false;  // symbols are scanned so
};

// How a changed tensor of a difference is made of the base's.
struct FileChange {
    std::span<const std::uint64_t> shape;  // of the result
    std::uint64_t common = 0;     // elements, the first of both: those behind them the file holds as it holds kept ones
    std::uint64_t differing = 0;  // of these, as the file says; if none, it holds nothing of them
    std::string_view source;      // the base's tensor
};

struct FileTensor {
    std::string_view name;
    Dtype dtype = Dtype::float32;
    TensorKind kind = TensorKind::kept;
    std::span<const std::uint64_t>
        shape;                 // of what the file holds as a tensor: of a changed one what it has beyond the base's
    std::size_t codebook = 0;  // of a coded or scaled one, in FileHeader::codebooks
    std::size_t target = 0;    // of an alias, in FileHeader::tensors; its own position otherwise
    const FileMatrix* matrix = nullptr;  // of a scaled one
    const FileChange* change = nullptr;  // of a changed one

    bool has_symbols() const { return kind == TensorKind::coded || kind == TensorKind::scaled; }
    bool is_scanned_by_columns() const { return matrix != nullptr && matrix->by_columns; }

    std::uint64_t size() const {
        std::uint64_t product = 1;
        for (const std::uint64_t length : shape) product *= length;
        return product;
    }
    std::uint64_t size_bytes() const { return size() * traits_of(dtype).bytes; }
};

inline constexpr std::uint64_t kPayloadChecksumBytes = 4;  // behind each chunk's payload

struct FileChunk {
    std::uint8_t coder = 0;
    std::uint64_t symbols = 0;
    std::uint64_t payload_bytes = 0;
};

struct MetadataEntry {
    std::string_view key, value;
};

// Texts, scales and checksum are views of the header's bytes, shapes, levels, matrices and changes of the last lists.
struct FileHeader {
    std::span<const std::uint8_t> base;  // of a difference, its base's checksum; empty otherwise
    Buffer<MetadataEntry> metadata;
    Buffer<FileTensor> tensors;
    Buffer<FileCodebook> codebooks;
    Buffer<FileChunk> chunks;
    Buffer<std::size_t> by_name;  // positions of tensors, in the order of their names
    Buffer<std::uint64_t> lengths;
    Buffer<float> levels;
    Buffer<FileMatrix> matrices;  // of the scaled tensors, in their order
    Buffer<FileChange> changes;   // of the changed ones
};

}  // namespace metaq
