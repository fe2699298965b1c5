// metaq.h by way of decoder.hpp: statuses, places and structs of C++ as those of C.
#include "metaq/metaq.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>

#include "metaq/base/buffer.hpp"
#include "metaq/base/memory.hpp"
#include "metaq/decoder.hpp"

namespace {

// A reader of the caller's, as C++ calls it.
class LateReader final : public metaq::ByteSource {
public:
    metaq_reader reader = METAQ_READER_INIT;

    bool read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept override {
        return out.empty() || reader.read(reader.user, offset, out.data(), out.size()) == 0;
    }
};

}  // namespace

struct metaq_file {
    metaq::Allocator allocator;  // which `memory` points to
    const metaq::Allocator* memory = nullptr;
    metaq::Buffer<std::uint8_t> bytes;  // that a reader gave at once
    LateReader source;
    metaq::File file;
};

namespace {

using metaq::FileError;
using metaq::FileStatus;

// The statuses that C++ has are numbered as they are there, and this fails to compile if they are not any more.
constexpr metaq_status to_c(FileStatus status) {
    switch (status) {
        case FileStatus::beyond_limits: return METAQ_BEYOND_LIMITS;
        case FileStatus::read_failed: return METAQ_READ_FAILED;
        default: return static_cast<metaq_status>(status);
    }
}
#define METAQ_SAME(c, cpp) static_assert(to_c(FileStatus::cpp) == c)
METAQ_SAME(METAQ_OK, ok);
METAQ_SAME(METAQ_NOT_MTQ, not_mtq);
METAQ_SAME(METAQ_WRONG_VERSION, wrong_version);
METAQ_SAME(METAQ_TRUNCATED, truncated);
METAQ_SAME(METAQ_BYTES_LEFT_OVER, bytes_left_over);
METAQ_SAME(METAQ_HEADER_SIZE, header_size);
METAQ_SAME(METAQ_HEADER_CHECKSUM, header_checksum);
METAQ_SAME(METAQ_HEADER_CODING, header_coding);
METAQ_SAME(METAQ_HEADER_TRUNCATED, header_truncated);
METAQ_SAME(METAQ_HEADER_LEFT_OVER, header_left_over);
METAQ_SAME(METAQ_RESERVED_FLAGS, reserved_flags);
METAQ_SAME(METAQ_DIFFERENCE, difference);
METAQ_SAME(METAQ_BAD_VARINT, bad_varint);
METAQ_SAME(METAQ_BAD_UTF8, bad_utf8);
METAQ_SAME(METAQ_REPEATED_KEY, repeated_key);
METAQ_SAME(METAQ_REPEATED_NAME, repeated_name);
METAQ_SAME(METAQ_TOO_MANY_TENSORS, too_many_tensors);
METAQ_SAME(METAQ_UNKNOWN_DTYPE, unknown_dtype);
METAQ_SAME(METAQ_UNKNOWN_KIND, unknown_kind);
METAQ_SAME(METAQ_KEPT_BOOL, kept_bool);
METAQ_SAME(METAQ_BAD_ALIAS, bad_alias);
METAQ_SAME(METAQ_TOO_MANY_DIMENSIONS, too_many_dimensions);
METAQ_SAME(METAQ_TOO_MANY_ELEMENTS, too_many_elements);
METAQ_SAME(METAQ_UNKNOWN_CODEBOOK, unknown_codebook);
METAQ_SAME(METAQ_BAD_STEP, bad_step);
METAQ_SAME(METAQ_BAD_LEVELS, bad_levels);
METAQ_SAME(METAQ_BAD_CODEBOOK_REFERENCE, bad_codebook_reference);
METAQ_SAME(METAQ_CODEBOOK_DTYPE, codebook_dtype);
METAQ_SAME(METAQ_DIFFERENCE_DTYPE, difference_dtype);
METAQ_SAME(METAQ_SCALED_CODEBOOK, scaled_codebook);
METAQ_SAME(METAQ_BAD_LAYOUT, bad_layout);
METAQ_SAME(METAQ_BAD_LEADING, bad_leading);
METAQ_SAME(METAQ_EMPTY_MATRIX, empty_matrix);
METAQ_SAME(METAQ_BAD_ROW_SCALE, bad_row_scale);
METAQ_SAME(METAQ_BAD_COMMON, bad_common);
METAQ_SAME(METAQ_BAD_DIFFERING, bad_differing);
METAQ_SAME(METAQ_BAD_SOURCE, bad_source);
METAQ_SAME(METAQ_UNKNOWN_CODER, unknown_coder);
METAQ_SAME(METAQ_CHUNK_SYMBOLS, chunk_symbols);
METAQ_SAME(METAQ_CHUNK_SUM, chunk_sum);
METAQ_SAME(METAQ_CHUNK_OF_CHANGES, chunk_of_changes);
METAQ_SAME(METAQ_CHUNK_INSIDE_ROW, chunk_inside_row);
METAQ_SAME(METAQ_CHUNK_CHECKSUM, chunk_checksum);
METAQ_SAME(METAQ_UNSUPPORTED_CODER, unsupported_coder);
METAQ_SAME(METAQ_STREAM_TRUNCATED, stream_truncated);
METAQ_SAME(METAQ_STREAM_CORRUPT, stream_corrupt);
METAQ_SAME(METAQ_SYMBOL_RANGE, symbol_range);
METAQ_SAME(METAQ_PLANE_RANGE, plane_range);
METAQ_SAME(METAQ_BAD_INDEX, bad_index);
METAQ_SAME(METAQ_BAD_ELEMENTS, bad_elements);
METAQ_SAME(METAQ_WRONG_OUTPUT_SIZE, wrong_output_size);
METAQ_SAME(METAQ_WRONG_BASE, wrong_base);
METAQ_SAME(METAQ_NO_MEMORY, no_memory);
METAQ_SAME(METAQ_BEYOND_LIMITS, beyond_limits);
METAQ_SAME(METAQ_READ_FAILED, read_failed);
#undef METAQ_SAME

// Of a struct of the caller's, as much as the caller knows of it. Its size is set.
template <class Struct>
Struct read_struct(const Struct& theirs, const Struct& otherwise) {
    Struct ours = otherwise;
    std::memcpy(&ours, &theirs, std::min(theirs.struct_size, sizeof ours));
    return ours;
}

template <class Struct>
void write_struct(const Struct& ours, Struct* theirs) {
    const std::size_t size = theirs->struct_size;
    std::memcpy(theirs, &ours, std::min(size, sizeof ours));
    theirs->struct_size = size;
}

std::uint64_t place(std::size_t at) { return at == metaq::kNowhere ? METAQ_NOWHERE : at; }

metaq_status report(const FileError& found, metaq_error* error) {
    const metaq_status status = to_c(found.status);
    if (error == nullptr || error->struct_size == 0) return status;
    metaq_error ours = METAQ_ERROR_INIT;
    ours.status = status;
    ours.header_byte = place(found.header_byte);
    ours.chunk = place(found.chunk);
    ours.tensor = place(found.tensor);
    ours.expected_least = found.expected.least;
    ours.expected_greatest = found.expected.greatest;
    ours.found_least = found.found.least;
    ours.found_greatest = found.found.greatest;
    if (!found.what.empty()) ours.what = found.what.data();  // a literal, with its zero
    ours.name_size = found.name.size();
    std::copy_n(found.name.begin(), std::min(found.name.size(), sizeof ours.name), ours.name);
    write_struct(ours, error);
    return status;
}

metaq_status report(metaq_status status, metaq_error* error) {
    if (error == nullptr || error->struct_size == 0) return status;
    metaq_error ours = METAQ_ERROR_INIT;
    ours.status = status;
    write_struct(ours, error);
    return status;
}

// A file that is not opened yet; null if there is no memory.
metaq_file* make_file(const metaq_options& options) {
    metaq::Allocator allocator{};
    const metaq::Allocator* memory = nullptr;
    if (options.allocator != nullptr) {
        allocator = {options.allocator->allocate, options.allocator->release, options.allocator->user};
        memory = &allocator;
    }
    void* const place = metaq::allocate_bytes(memory, sizeof(metaq_file), alignof(metaq_file));
    if (place == nullptr) return nullptr;
    auto* const file = ::new (place) metaq_file;
    file->allocator = allocator;
    if (memory != nullptr) file->memory = &file->allocator;
    return file;
}

std::optional<metaq_options> checked(const metaq_options* options) {
    const metaq_options none = METAQ_OPTIONS_INIT;
    if (options == nullptr) return none;
    if (options->struct_size == 0) return std::nullopt;
    const metaq_options ours = read_struct(*options, none);
    const bool is_usable = ours.allocator == nullptr ||
                           (ours.allocator->allocate != nullptr && ours.allocator->release != nullptr);
    if (!is_usable || (ours.flags & ~(METAQ_TAKE_DIFFERENCES | METAQ_READ_LATE)) != 0) return std::nullopt;
    return ours;
}

metaq::FileLimits limits_of(const metaq_options& options) {
    metaq::FileLimits limits;
    if (options.header_bytes > 0) limits.header_bytes = options.header_bytes;
    if (options.decoded_bytes > 0) limits.decoded_bytes = options.decoded_bytes;
    return limits;
}

metaq::Differences differences_of(std::uint32_t flags) {
    return (flags & METAQ_TAKE_DIFFERENCES) != 0 ? metaq::Differences::taken : metaq::Differences::refused;
}

// Hands a file out; one that could not be opened is closed.
metaq_status hand_out(metaq_file* made, const FileError& found, metaq_file** file, metaq_error* error) {
    const metaq_status status = report(found, error);
    if (status == METAQ_OK) {
        *file = made;
    } else {
        metaq_close(made);
    }
    return status;
}

const metaq::FileTensor* tensor_at(const metaq_file* file, std::size_t index) {
    return file == nullptr || index >= file->file.tensors().size() ? nullptr : &file->file.tensors()[index];
}

std::uint64_t rows_of(const metaq::FileTensor& tensor) { return tensor.shape.empty() ? 1 : tensor.shape[0]; }

std::uint64_t row_elements(const metaq::FileTensor& tensor) {
    std::uint64_t elements = 1;
    for (std::size_t i = 1; i < tensor.shape.size(); ++i) elements *= tensor.shape[i];
    return elements;
}

metaq_status decode(const metaq_file* file, const metaq::File::Output& output, metaq_error* error) {
    const metaq::AllocatorScope scope(file->memory);
    return report(file->file.decode(std::span(&output, 1)), error);
}

std::span<std::uint8_t> bytes_at(void* out, std::size_t size) { return {static_cast<std::uint8_t*>(out), size}; }

}  // namespace

extern "C" {

uint32_t metaq_version(void) { return METAQ_VERSION; }

const char* metaq_status_name(metaq_status status) {
    switch (status) {
        case METAQ_BAD_ARGUMENT: return "bad_argument";
        case METAQ_BEYOND_LIMITS: return metaq::name_of(FileStatus::beyond_limits);
        case METAQ_READ_FAILED: return metaq::name_of(FileStatus::read_failed);
        case METAQ_NO_NAME: return "no_name";
        default: return metaq::name_of(static_cast<FileStatus>(status));
    }
}

const char* metaq_status_text(metaq_status status) {
    switch (status) {
        case METAQ_BAD_ARGUMENT: return "expected no null pointer and structs that begin with their size, found others";
        case METAQ_BEYOND_LIMITS: return metaq::describe(FileStatus::beyond_limits);
        case METAQ_READ_FAILED: return metaq::describe(FileStatus::read_failed);
        case METAQ_NO_NAME: return "expected the name of a tensor, found another";
        default: return metaq::describe(static_cast<FileStatus>(status));
    }
}

const char* metaq_dtype_name(metaq_dtype dtype) { return metaq::traits_of(static_cast<metaq::Dtype>(dtype)).name; }

metaq_status metaq_open_memory(const void* data, size_t size, const metaq_options* options, metaq_file** file,
                               metaq_error* error) {
    if (file != nullptr) *file = nullptr;
    const std::optional<metaq_options> asked = checked(options);
    if (file == nullptr || (data == nullptr && size > 0) || !asked) return report(METAQ_BAD_ARGUMENT, error);
    metaq_file* const made = make_file(*asked);
    if (made == nullptr) return report(METAQ_NO_MEMORY, error);
    const metaq::AllocatorScope scope(made->memory);
    const std::span<const std::uint8_t> bytes(static_cast<const std::uint8_t*>(data), size);
    return hand_out(made, made->file.open(bytes, {}, differences_of(asked->flags), limits_of(*asked)), file, error);
}

metaq_status metaq_open_reader(const metaq_reader* reader, const metaq_options* options, metaq_file** file,
                               metaq_error* error) {
    if (file != nullptr) *file = nullptr;
    const std::optional<metaq_options> asked = checked(options);
    if (file == nullptr || reader == nullptr || reader->struct_size == 0 || !asked)
        return report(METAQ_BAD_ARGUMENT, error);
    const metaq_reader ours = read_struct(*reader, METAQ_READER_INIT);
    if (ours.read == nullptr) return report(METAQ_BAD_ARGUMENT, error);
    const bool is_late = (asked->flags & METAQ_READ_LATE) != 0;
    if (ours.size > SIZE_MAX && !is_late) return report(METAQ_NO_MEMORY, error);
    metaq_file* const made = make_file(*asked);
    if (made == nullptr) return report(METAQ_NO_MEMORY, error);
    const metaq::AllocatorScope scope(made->memory);
    made->source.reader = ours;
    if (is_late) {
        const std::uint64_t size = std::min(ours.size, metaq::kUnknownSize);
        const FileError found = made->file.open_late(made->source, size, differences_of(asked->flags),
                                                     limits_of(*asked));
        return hand_out(made, found, file, error);
    }
    metaq_status status = METAQ_OK;
    if (!made->bytes.resize_for_overwrite(static_cast<std::size_t>(ours.size))) {
        status = METAQ_NO_MEMORY;
    } else if (!made->source.read(0, made->bytes)) {
        status = METAQ_READ_FAILED;
    }
    if (status == METAQ_OK)
        return hand_out(made, made->file.open(made->bytes, {}, differences_of(asked->flags), limits_of(*asked)), file,
                        error);
    metaq_close(made);
    return report(status, error);
}

void metaq_close(metaq_file* file) {
    if (file == nullptr) return;
    const metaq::Allocator allocator = file->allocator;
    const bool is_callers = file->memory != nullptr;
    file->~metaq_file();
    metaq::release_bytes(is_callers ? &allocator : nullptr, file, sizeof(metaq_file), alignof(metaq_file));
}

size_t metaq_tensor_count(const metaq_file* file) { return file == nullptr ? 0 : file->file.tensors().size(); }

metaq_status metaq_get_tensor(const metaq_file* file, size_t index, metaq_tensor* tensor) {
    if (file == nullptr || tensor == nullptr || tensor->struct_size == 0) return METAQ_BAD_ARGUMENT;
    const metaq::FileTensor* const found = tensor_at(file, index);
    if (found == nullptr) return METAQ_BAD_INDEX;
    metaq_tensor ours = METAQ_TENSOR_INIT;
    ours.name = found->name.data();
    ours.name_size = found->name.size();
    ours.dtype = static_cast<metaq_dtype>(found->dtype);
    ours.element_bytes = metaq::traits_of(found->dtype).bytes;
    ours.dimensions = found->shape.size();
    ours.shape = found->shape.data();
    ours.size = found->size();
    ours.size_bytes = found->size_bytes();
    ours.rows = rows_of(*found);
    ours.row_bytes = row_elements(*found) * ours.element_bytes;
    ours.target = found->target;
    std::tie(ours.begin_byte, ours.end_byte) = file->file.bytes_of(index);
    write_struct(ours, tensor);
    return METAQ_OK;
}

metaq_status metaq_find_tensor(const metaq_file* file, const char* name, size_t name_size, size_t* index) {
    if (file == nullptr || (name == nullptr && name_size > 0) || index == nullptr) return METAQ_BAD_ARGUMENT;
    const std::optional<std::size_t> found = file->file.find({name, name_size});
    if (!found) return METAQ_NO_NAME;
    *index = *found;
    return METAQ_OK;
}

size_t metaq_metadata_count(const metaq_file* file) { return file == nullptr ? 0 : file->file.metadata().size(); }

metaq_status metaq_get_metadata(const metaq_file* file, size_t index, const char** key, size_t* key_size,
                                const char** value, size_t* value_size) {
    const bool is_complete = key != nullptr && key_size != nullptr && value != nullptr && value_size != nullptr;
    if (file == nullptr || !is_complete) return METAQ_BAD_ARGUMENT;
    if (index >= file->file.metadata().size()) return METAQ_BAD_INDEX;
    const metaq::MetadataEntry& entry = file->file.metadata()[index];
    *key = entry.key.data();
    *key_size = entry.key.size();
    *value = entry.value.data();
    *value_size = entry.value.size();
    return METAQ_OK;
}

const uint8_t* metaq_base(const metaq_file* file) {
    return file == nullptr || file->file.base().empty() ? nullptr : file->file.base().data();
}

metaq_status metaq_decode(const metaq_file* file, size_t index, void* out, size_t out_size, metaq_error* error) {
    if (file == nullptr || (out == nullptr && out_size > 0)) return report(METAQ_BAD_ARGUMENT, error);
    return decode(file, {index, bytes_at(out, out_size)}, error);
}

metaq_status metaq_decode_rows(const metaq_file* file, size_t index, uint64_t first_row, uint64_t rows, void* out,
                               size_t out_size, metaq_error* error) {
    if (file == nullptr || (out == nullptr && out_size > 0)) return report(METAQ_BAD_ARGUMENT, error);
    FileError found;
    found.tensor = index;
    found.status = FileStatus::bad_index;
    const metaq::FileTensor* const tensor = tensor_at(file, index);
    if (tensor == nullptr) return report(found, error);
    found.status = FileStatus::bad_elements;
    const std::uint64_t count = rows_of(*tensor);
    if (first_row > count) return report(found, error);
    if (rows == METAQ_ALL) rows = count - first_row;
    if (rows > count - first_row) return report(found, error);
    const std::uint64_t elements = row_elements(*tensor);
    return decode(file, {index, bytes_at(out, out_size), first_row * elements, rows * elements}, error);
}

metaq_status metaq_decode_many(const metaq_file* file, const metaq_output* outputs, size_t count, metaq_error* error) {
    if (file == nullptr || (outputs == nullptr && count > 0)) return report(METAQ_BAD_ARGUMENT, error);
    const metaq::AllocatorScope scope(file->memory);
    metaq::Buffer<metaq::File::Output> wanted;
    if (!wanted.reserve(count)) return report(METAQ_NO_MEMORY, error);
    const std::size_t stride = count > 0 ? outputs->struct_size : 0;  // of the caller's header
    for (std::size_t i = 0; i < count; ++i) {
        const auto* const theirs =
            reinterpret_cast<const metaq_output*>(reinterpret_cast<const unsigned char*>(outputs) + i * stride);
        if (stride == 0 || theirs->struct_size != stride) return report(METAQ_BAD_ARGUMENT, error);
        const metaq_output output = read_struct(*theirs, METAQ_OUTPUT_INIT);
        if (output.out == nullptr && output.out_size > 0) return report(METAQ_BAD_ARGUMENT, error);
        if (!wanted.append({output.index, bytes_at(output.out, output.out_size), output.first, output.count}))
            return report(METAQ_NO_MEMORY, error);
    }
    return report(file->file.decode(wanted), error);
}

}  // extern "C"
