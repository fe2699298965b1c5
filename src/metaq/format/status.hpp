// What can be wrong with a `.mtq` file, and in words. docs/robustness.md has an example of each.
#pragma once

#include <cstdint>

namespace metaq {

enum class FileStatus : std::uint8_t {
    ok,
    // The file as a whole
    not_mtq,
    wrong_version,
    truncated,
    bytes_left_over,
    // Its header
    header_size,
    header_checksum,
    header_coding,
    header_truncated,
    header_left_over,
    reserved_flags,
    bad_varint,
    bad_utf8,
    repeated_key,
    repeated_name,
    unknown_dtype,
    unknown_kind,
    kept_bool,
    bad_alias,
    too_many_dimensions,
    too_many_elements,
    unknown_codebook,
    bad_step,
    bad_levels,
    bad_codebook_reference,
    codebook_dtype,
    unknown_coder,
    chunk_symbols,
    chunk_sum,
    chunk_inside_row,
    // Its chunks
    chunk_checksum,
    unsupported_coder,
    stream_truncated,
    stream_corrupt,
    symbol_range,
    plane_range,
    // The call
    bad_index,
    wrong_output_size,
    no_memory,
};

inline const char* describe(FileStatus status) {
    switch (status) {
        case FileStatus::ok: return "nothing is wrong";
        case FileStatus::not_mtq: return "expected a .mtq file, found one that does not start with MTQ";
        case FileStatus::wrong_version: return "expected format version 1, found another";
        case FileStatus::truncated: return "expected more bytes, found the end of the file";
        case FileStatus::bytes_left_over: return "expected the end of the file, found more bytes";
        case FileStatus::header_size: return "expected a header of 1 to 2^26 bytes that its code can hold, found another size";
        case FileStatus::header_checksum: return "expected a header that matches its checksum, found another";
        case FileStatus::header_coding: return "expected a text-coded header, found bytes that no encoder writes";
        case FileStatus::header_truncated: return "header: expected more bytes, found its end";
        case FileStatus::header_left_over: return "header: expected its end, found more bytes";
        case FileStatus::reserved_flags: return "header: expected flags of 0, found others";
        case FileStatus::bad_varint: return "expected a shortest varint below 2^63, found another";
        case FileStatus::bad_utf8: return "header: expected UTF-8, found other bytes";
        case FileStatus::repeated_key: return "header: expected distinct metadata keys, found one twice";
        case FileStatus::repeated_name: return "header: expected distinct tensor names, found one twice";
        case FileStatus::unknown_dtype: return "header: expected a known dtype, found another";
        case FileStatus::unknown_kind: return "header: expected a tensor of kind 0, 1 or 2, found another";
        case FileStatus::kept_bool: return "header: expected bool tensors to be coded, found a kept one";
        case FileStatus::bad_alias: return "header: expected an alias of an earlier tensor of its dtype, found another";
        case FileStatus::too_many_dimensions: return "header: expected at most 32 dimensions, found more";
        case FileStatus::too_many_elements: return "header: expected fewer than 2^40 elements, found more";
        case FileStatus::unknown_codebook: return "header: expected a codebook of kind 0, 1 or 2, found another";
        case FileStatus::bad_step: return "header: expected a positive finite step, found another";
        case FileStatus::bad_levels:
            return "header: expected 1 to 2^20 finite increasing levels and an origin among them, found others";
        case FileStatus::bad_codebook_reference: return "header: expected a codebook defined before, found another number";
        case FileStatus::codebook_dtype: return "header: expected a codebook for its tensor's dtype, found another";
        case FileStatus::unknown_coder: return "header: expected a known coder, found another";
        case FileStatus::chunk_symbols: return "header: expected a chunk of 1 to 2^26 symbols that it can hold, found others";
        case FileStatus::chunk_sum: return "header: expected chunks of as many symbols as the tensors have, found others";
        case FileStatus::chunk_inside_row: return "header: expected chunks that end between rows, found one that does not";
        case FileStatus::chunk_checksum: return "expected a chunk that matches its checksum, found another";
        case FileStatus::unsupported_coder:
            return "coder not supported in this decoder: it reads stored, Huffman, range, mixing, adaptive and rans chunks";
        case FileStatus::stream_truncated: return "chunk: expected more bytes, found the end of its payload";
        case FileStatus::stream_corrupt: return "chunk: expected a payload as encoders write it, found another";
        case FileStatus::symbol_range: return "chunk: expected symbols that have a value, found others";
        case FileStatus::plane_range: return "chunk: expected symbols of bytes, -128 to 127, found others";
        case FileStatus::bad_index: return "expected the index of a tensor, found a larger one";
        case FileStatus::wrong_output_size: return "expected room for exactly the tensor's bytes, found another size";
        case FileStatus::no_memory: return "expected more memory, found none";
    }
    return "unknown";
}

}  // namespace metaq
