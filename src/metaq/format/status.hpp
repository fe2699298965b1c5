// What can be wrong with a `.mtq` file, where, and in words. docs/robustness.md has an example of each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace metaq {

// clang-format off
#define METAQ_FILE_STATUSES(STATUS) \
    STATUS(ok, "nothing is wrong") \
    /* The file as a whole */ \
    STATUS(not_mtq, "expected a .mtq file, found one that does not start with MTQ") \
    STATUS(wrong_version, "expected format version 1, found another; a newer metaq may read it") \
    STATUS(truncated, "expected more bytes, found the end of the file") \
    STATUS(bytes_left_over, "expected the end of the file, found more bytes") \
    /* Its header */ \
    STATUS(header_size, "expected a header of 1 to 2^26 bytes that its code can hold, found another size") \
    STATUS(header_checksum, "expected a header that matches its checksum, found another") \
    STATUS(header_coding, "expected a text-coded header, found bytes that no encoder writes") \
    STATUS(header_truncated, "header: expected more bytes, found its end") \
    STATUS(header_left_over, "header: expected its end, found more bytes") \
    STATUS(reserved_flags, "header: expected flags of 0 or 1, found others, such as that of a table of priors; a newer metaq may read it") \
    STATUS(difference, "expected a whole model, found a difference, which is nothing without its base") \
    STATUS(bad_varint, "expected a shortest varint below 2^63, found another") \
    STATUS(bad_utf8, "header: expected UTF-8, found other bytes") \
    STATUS(repeated_key, "header: expected distinct metadata keys, found one twice") \
    STATUS(repeated_name, "header: expected distinct tensor names, found one twice") \
    STATUS(too_many_tensors, "header: expected at most 2^20 tensors, found more") \
    STATUS(unknown_dtype, "header: expected a known dtype, found another; a newer metaq may read it") \
    STATUS(unknown_kind, "header: expected a tensor of kind 0 to 3, or of a difference 0 to 5, found another kind; a newer metaq may read it") \
    STATUS(kept_bool, "header: expected bool tensors to be coded, found a kept or a changed one") \
    STATUS(bad_alias, "header: expected an alias of an earlier tensor of its dtype, found another") \
    STATUS(too_many_dimensions, "header: expected at most 32 dimensions, found more") \
    STATUS(too_many_elements, "header: expected fewer than 2^40 elements, found more") \
    STATUS(unknown_codebook, "header: expected a codebook of kind 0, 1 or 2, found another; a newer metaq may read it") \
    STATUS(bad_step, "header: expected a positive finite step, found another") \
    STATUS(bad_levels, "header: expected 1 to 2^20 finite increasing levels and an origin among them, found others") \
    STATUS(bad_codebook_reference, "header: expected a codebook defined before, found another number") \
    STATUS(codebook_dtype, "header: expected a codebook for its tensor's dtype, found another") \
    STATUS(difference_dtype, "header: expected coded floats of a difference to be float32, found others") \
    STATUS(scaled_codebook, "header: expected a uniform codebook for a scaled tensor, found another") \
    STATUS(bad_layout, "header: expected a layout of 1 to 7 for a scaled tensor, found another; a newer metaq may read it") \
    STATUS(bad_leading, "header: expected some dimensions of a scaled tensor to make its rows, found none or all") \
    STATUS(empty_matrix, "header: expected a scaled tensor to have elements, found none") \
    STATUS(bad_row_scale, "header: expected row scales that keep the step finite, found one that does not") \
    STATUS(bad_common, "header: expected a changed tensor to have elements in common with the base's, found none or too many") \
    STATUS(bad_differing, "header: expected no more elements to differ than are in common, found more") \
    STATUS(bad_source, "header: expected a changed tensor to have the base's name, 0, or another, 1, found neither") \
    STATUS(unknown_coder, "header: expected a known coder, found another; a newer metaq may read it") \
    STATUS(chunk_symbols, "header: expected a chunk of 1 to 2^26 symbols that it can hold, found others") \
    STATUS(chunk_sum, "header: expected chunks of as many symbols as the tensors have, found others") \
    STATUS(chunk_of_changes, "header: expected chunks of the coder 9 for one changed tensor each, found others") \
    STATUS(chunk_inside_row, "header: expected chunks that end between rows, found one that does not") \
    /* Its chunks */ \
    STATUS(chunk_checksum, "expected a chunk that matches its checksum, found another") \
    STATUS(unsupported_coder, "coder not supported in this decoder: it reads stored, Huffman, range, mixing, adaptive, rans and difference chunks") \
    STATUS(stream_truncated, "chunk: expected more bytes, found the end of its payload") \
    STATUS(stream_corrupt, "chunk: expected a payload as encoders write it, found another") \
    STATUS(symbol_range, "chunk: expected symbols that have a value, found others") \
    STATUS(plane_range, "chunk: expected symbols of bytes, -128 to 127, found others") \
    /* The call */ \
    STATUS(bad_index, "expected the index of a tensor, found a larger one") \
    STATUS(bad_elements, "expected elements of the tensor, found some behind its end") \
    STATUS(wrong_output_size, "expected room for exactly the tensor's bytes, found another size") \
    STATUS(wrong_base, "expected the elements of the base that a chunk changes, found another number or another chunk") \
    STATUS(no_memory, "expected more memory, found none") \
    STATUS(beyond_limits, "expected a file within the caller's limits, found a larger header or more decoded bytes") \
    STATUS(read_failed, "expected the reader to give the file's bytes, found that it failed")
// clang-format on

enum class FileStatus : std::uint8_t {
#define METAQ_FILE_STATUS(name, words) name,
    METAQ_FILE_STATUSES(METAQ_FILE_STATUS)
#undef METAQ_FILE_STATUS
};

inline const char* describe(FileStatus status) {
    switch (status) {
#define METAQ_FILE_STATUS(name, words) \
    case FileStatus::name: return words;
        METAQ_FILE_STATUSES(METAQ_FILE_STATUS)
#undef METAQ_FILE_STATUS
    }
    return "unknown";
}

inline const char* name_of(FileStatus status) {
    switch (status) {
#define METAQ_FILE_STATUS(name, words) \
    case FileStatus::name: return #name;
        METAQ_FILE_STATUSES(METAQ_FILE_STATUS)
#undef METAQ_FILE_STATUS
    }
    return "unknown";
}

inline constexpr std::size_t kNowhere = SIZE_MAX;

// A status and its place, as far as the place is known; compares with a FileStatus. The numbers are those that the status
// speaks of: a size, a count, a byte; for `symbol_range` the least and the greatest symbol; for `bad_step` its bits.
struct FileError {
    FileStatus status = FileStatus::ok;
    std::size_t header_byte = kNowhere;  // of the header before text coding: behind what was read last
    std::size_t chunk = kNowhere;
    std::size_t tensor = kNowhere;
    std::string_view name;  // of the tensor, or the text that is wrong: bytes of the header, which the File keeps
    std::string_view what;  // what was counted, or of which dtype: words of this program
    struct Range {
        std::int64_t least = 0, greatest = 0;  // the same number twice, but for ranges
    };
    Range expected, found;

    operator FileStatus() const { return status; }
};

inline FileError::Range number(std::uint64_t value) {
    return {static_cast<std::int64_t>(value), static_cast<std::int64_t>(value)};
}

}  // namespace metaq
