/* metaq.h as C uses it: allocators, readers, structs of other sizes, and what is refused. Python tests compare what it decodes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metaq/metaq.h"

#define CHECK(holds)                                                             \
    do {                                                                         \
        if (!(holds)) {                                                          \
            fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #holds); \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

static const char* const kFile = METAQ_SOURCE_DIR "/tests/golden/every-dtype.mtq";
static const char* const kDifference = METAQ_SOURCE_DIR "/tests/golden/differences/task.mtq";

typedef struct bytes {
    unsigned char* data;
    size_t size;
} bytes;

static bytes read_all(const char* path) {
    bytes content;
    FILE* const in = fopen(path, "rb");
    CHECK(in != NULL && fseek(in, 0, SEEK_END) == 0);
    content.size = (size_t)ftell(in);
    content.data = malloc(content.size);
    rewind(in);
    CHECK(content.data != NULL && fread(content.data, 1, content.size, in) == content.size);
    fclose(in);
    return content;
}

/* An allocator that counts, and fails from the call `failing` on. */
typedef struct heap {
    size_t live_bytes, calls, failing;
} heap;

static void* allocate(void* user, size_t size, size_t alignment) {
    heap* const counts = user;
    void* memory = NULL;
    if (counts->calls++ >= counts->failing) return NULL;
    CHECK(alignment != 0 && (alignment & (alignment - 1)) == 0);
    memory = malloc(size + alignment);
    if (memory == NULL) return NULL;
    counts->live_bytes += size;
    {
        unsigned char* const first = memory;
        const size_t shift = alignment - (uintptr_t)first % alignment; /* 1 to alignment, which 128 at most */
        CHECK(alignment <= 128);
        first[shift - 1] = (unsigned char)shift;
        return first + shift;
    }
}

static void release(void* user, void* memory, size_t size, size_t alignment) {
    unsigned char* const block = memory;
    CHECK(memory != NULL && alignment <= 128);
    ((heap*)user)->live_bytes -= size;
    free(block - block[-1]);
}

static metaq_options with(const metaq_allocator* allocator) {
    metaq_options options = METAQ_OPTIONS_INIT;
    options.allocator = allocator;
    return options;
}

static int read_memory(void* user, uint64_t offset, void* out, size_t size) {
    const bytes* const content = user;
    CHECK(offset <= content->size && size <= content->size - offset);
    memcpy(out, content->data + offset, size);
    return 0;
}

/* From memory, or by a reader as chunks are decoded. */
static metaq_status open_as(int is_late, bytes* content, metaq_options options, metaq_file** file) {
    metaq_reader reader = METAQ_READER_INIT;
    if (!is_late) return metaq_open_memory(content->data, content->size, &options, file, NULL);
    reader.size = content->size;
    reader.read = read_memory;
    reader.user = content;
    options.flags |= METAQ_READ_LATE;
    return metaq_open_reader(&reader, &options, file, NULL);
}

static metaq_status decode_all(bytes* content, const metaq_allocator* allocator, int is_late, unsigned char* out,
                               size_t room) {
    metaq_tensor tensor = METAQ_TENSOR_INIT;
    metaq_output outputs[64];
    metaq_file* file = NULL;
    metaq_status status = open_as(is_late, content, with(allocator), &file);
    size_t i;
    CHECK((status == METAQ_OK) == (file != NULL));
    for (i = 0; status == METAQ_OK && i < metaq_tensor_count(file); ++i) {
        const metaq_output blank = METAQ_OUTPUT_INIT;
        CHECK(i < 64 && metaq_get_tensor(file, i, &tensor) == METAQ_OK && tensor.size_bytes <= room);
        outputs[i] = blank;
        outputs[i].index = i;
        outputs[i].out = out;
        outputs[i].out_size = (size_t)tensor.size_bytes;
        out += tensor.size_bytes;
        room -= (size_t)tensor.size_bytes;
    }
    if (status == METAQ_OK) status = metaq_decode_many(file, outputs, metaq_tensor_count(file), NULL);
    metaq_close(file);
    return status;
}

static void test_all_memory_is_the_allocators(bytes* content, int is_late) {
    static unsigned char expected[1 << 16], found[1 << 16];
    heap counts = {0, 0, SIZE_MAX};
    metaq_allocator allocator;
    size_t calls, failing;
    allocator.allocate = allocate;
    allocator.release = release;
    allocator.user = &counts;
    CHECK(decode_all(content, NULL, 0, expected, sizeof expected) == METAQ_OK);
    CHECK(decode_all(content, &allocator, is_late, found, sizeof found) == METAQ_OK);
    CHECK(memcmp(expected, found, sizeof expected) == 0);
    CHECK(counts.live_bytes == 0 && counts.calls > 0);
    calls = counts.calls;
    for (failing = 0; failing < calls; failing += 1 + calls / 40) {
        counts.calls = 0;
        counts.failing = failing;
        CHECK(decode_all(content, &allocator, is_late, found, sizeof found) == METAQ_NO_MEMORY);
        CHECK(counts.live_bytes == 0);
    }
}

static void test_rows_are_parts_of_tensors(const metaq_file* file) {
    metaq_tensor tensor = METAQ_TENSOR_INIT;
    size_t i;
    for (i = 0; i < metaq_tensor_count(file); ++i) {
        unsigned char *whole, *rows;
        uint64_t row;
        CHECK(metaq_get_tensor(file, i, &tensor) == METAQ_OK);
        CHECK(tensor.rows * tensor.row_bytes == tensor.size_bytes);
        whole = malloc((size_t)tensor.size_bytes + 1);
        rows = malloc((size_t)tensor.size_bytes + 1);
        CHECK(whole != NULL && rows != NULL);
        CHECK(metaq_decode(file, i, whole, (size_t)tensor.size_bytes, NULL) == METAQ_OK);
        for (row = 0; row < tensor.rows; ++row) {
            CHECK(metaq_decode_rows(file, i, row, 1, rows + row * tensor.row_bytes, (size_t)tensor.row_bytes, NULL) ==
                  METAQ_OK);
        }
        CHECK(memcmp(whole, rows, (size_t)tensor.size_bytes) == 0);
        CHECK(metaq_decode_rows(file, i, 0, METAQ_ALL, rows, (size_t)tensor.size_bytes, NULL) == METAQ_OK);
        CHECK(metaq_decode_rows(file, i, tensor.rows, 1, rows, (size_t)tensor.row_bytes, NULL) == METAQ_BAD_ELEMENTS);
        CHECK(metaq_decode_rows(file, i, tensor.rows + 1, METAQ_ALL, rows, 0, NULL) == METAQ_BAD_ELEMENTS);
        free(rows);
        free(whole);
    }
}

static void test_names_are_found(const metaq_file* file) {
    metaq_tensor tensor = METAQ_TENSOR_INIT;
    size_t i, found = 0;
    for (i = 0; i < metaq_tensor_count(file); ++i) {
        CHECK(metaq_get_tensor(file, i, &tensor) == METAQ_OK);
        CHECK(metaq_find_tensor(file, tensor.name, tensor.name_size, &found) == METAQ_OK && found == i);
    }
    CHECK(metaq_find_tensor(file, "nobody", 6, &found) == METAQ_NO_NAME);
}

static int fail_to_read(void* user, uint64_t offset, void* out, size_t size) {
    (void)user, (void)offset, (void)out, (void)size;
    return 1;
}

static void test_calls_that_are_wrong(const bytes* content, const metaq_file* file) {
    metaq_file* other = NULL;
    metaq_error error = METAQ_ERROR_INIT;
    metaq_error unset = METAQ_ERROR_INIT;
    metaq_tensor tensor = METAQ_TENSOR_INIT;
    metaq_reader reader = METAQ_READER_INIT;
    metaq_options options = METAQ_OPTIONS_INIT;
    metaq_output output = METAQ_OUTPUT_INIT;
    metaq_allocator nothing = {NULL, NULL, NULL};
    unsigned char byte;
    CHECK(metaq_open_memory(NULL, 1, NULL, &other, &error) == METAQ_BAD_ARGUMENT && other == NULL);
    CHECK(error.status == METAQ_BAD_ARGUMENT && error.chunk == METAQ_NOWHERE);
    CHECK(metaq_open_memory(content->data, content->size, NULL, NULL, NULL) == METAQ_BAD_ARGUMENT);
    options.flags = 4;
    CHECK(metaq_open_memory(content->data, content->size, &options, &other, NULL) == METAQ_BAD_ARGUMENT);
    options.flags = 0;
    options.allocator = &nothing;
    CHECK(metaq_open_memory(content->data, content->size, &options, &other, NULL) == METAQ_BAD_ARGUMENT);
    options.struct_size = 0;
    CHECK(metaq_open_memory(content->data, content->size, &options, &other, NULL) == METAQ_BAD_ARGUMENT);
    CHECK(metaq_open_reader(NULL, NULL, &other, NULL) == METAQ_BAD_ARGUMENT);
    CHECK(metaq_open_reader(&reader, NULL, &other, NULL) == METAQ_BAD_ARGUMENT);
    reader.read = fail_to_read;
    reader.size = content->size;
    CHECK(metaq_open_reader(&reader, NULL, &other, &error) == METAQ_READ_FAILED && error.status == METAQ_READ_FAILED);
    reader.size = 0;
    CHECK(metaq_open_reader(&reader, NULL, &other, NULL) == METAQ_NOT_MTQ);
    reader.size = UINT64_MAX;
    CHECK(metaq_open_reader(&reader, NULL, &other, NULL) == METAQ_NO_MEMORY && other == NULL);
    CHECK(metaq_get_tensor(file, metaq_tensor_count(file), &tensor) == METAQ_BAD_INDEX);
    CHECK(metaq_get_tensor(NULL, 0, &tensor) == METAQ_BAD_ARGUMENT);
    CHECK(metaq_decode(file, metaq_tensor_count(file), &byte, 1, &error) == METAQ_BAD_INDEX);
    CHECK(error.tensor == metaq_tensor_count(file));
    CHECK(metaq_decode(file, 0, &byte, 1, &error) == METAQ_WRONG_OUTPUT_SIZE && error.tensor == 0);
    CHECK(metaq_decode(file, 0, NULL, 1, &error) == METAQ_BAD_ARGUMENT);
    CHECK(metaq_decode(NULL, 0, &byte, 1, &error) == METAQ_BAD_ARGUMENT);
    output.struct_size = 0;
    CHECK(metaq_decode_many(file, &output, 1, NULL) == METAQ_BAD_ARGUMENT);
    CHECK(metaq_decode_many(file, NULL, 0, NULL) == METAQ_OK);
    unset.struct_size = 0;
    unset.status = METAQ_NO_NAME;
    CHECK(metaq_decode(file, 0, &byte, 1, &unset) == METAQ_WRONG_OUTPUT_SIZE && unset.status == METAQ_NO_NAME);
    CHECK(metaq_tensor_count(NULL) == 0 && metaq_metadata_count(NULL) == 0 && metaq_base(NULL) == NULL);
    metaq_close(NULL);
}

/* A header that knew only the first members, and one that knows more than this library. */
static void test_structs_of_other_sizes(const metaq_file* file) {
    metaq_tensor tensor = METAQ_TENSOR_INIT;
    struct {
        metaq_output known;
        uint64_t more;
    } later[2];
    unsigned char* out;
    size_t i;
    tensor.struct_size = offsetof(metaq_tensor, dtype);
    tensor.rows = 12345;
    CHECK(metaq_get_tensor(file, 0, &tensor) == METAQ_OK && tensor.name_size > 0 && tensor.rows == 12345);
    CHECK(tensor.struct_size == offsetof(metaq_tensor, dtype));
    tensor.struct_size = sizeof tensor;
    CHECK(metaq_get_tensor(file, 0, &tensor) == METAQ_OK && tensor.rows != 12345);
    out = malloc(2 * (size_t)tensor.size_bytes);
    CHECK(out != NULL);
    for (i = 0; i < 2; ++i) {
        const metaq_output blank = METAQ_OUTPUT_INIT;
        later[i].known = blank;
        later[i].known.struct_size = sizeof later[0];
        later[i].known.out = out + i * tensor.size_bytes;
        later[i].known.out_size = (size_t)tensor.size_bytes;
    }
    CHECK(metaq_decode_many(file, &later[0].known, 2, NULL) == METAQ_OK);
    CHECK(memcmp(out, out + tensor.size_bytes, (size_t)tensor.size_bytes) == 0);
    free(out);
}

static void test_limits(const bytes* content) {
    metaq_options options = METAQ_OPTIONS_INIT;
    metaq_error error = METAQ_ERROR_INIT;
    metaq_file* file = NULL;
    options.header_bytes = 1;
    CHECK(metaq_open_memory(content->data, content->size, &options, &file, &error) == METAQ_BEYOND_LIMITS);
    CHECK(error.expected_least == 1 && error.found_least > 1 && strcmp(error.what, "header bytes") == 0);
    CHECK(strcmp(metaq_status_name(error.status), "beyond_limits") == 0);
    options.header_bytes = 0;
    options.decoded_bytes = 1;
    CHECK(metaq_open_memory(content->data, content->size, &options, &file, &error) == METAQ_BEYOND_LIMITS);
    CHECK(strcmp(error.what, "decoded bytes") == 0 && file == NULL);
    options.struct_size = offsetof(metaq_options, header_bytes); /* of a header that knew no limits */
    CHECK(metaq_open_memory(content->data, content->size, &options, &file, NULL) == METAQ_OK);
    metaq_close(file);
}

static void test_differences_are_asked_for(void) {
    bytes content = read_all(kDifference);
    metaq_options options = METAQ_OPTIONS_INIT;
    metaq_error error = METAQ_ERROR_INIT;
    metaq_file* file = NULL;
    CHECK(metaq_open_memory(content.data, content.size, NULL, &file, &error) == METAQ_DIFFERENCE && file == NULL);
    CHECK(error.name_size == METAQ_BASE_BYTES);
    options.flags = METAQ_TAKE_DIFFERENCES;
    CHECK(metaq_open_memory(content.data, content.size, &options, &file, NULL) == METAQ_OK);
    CHECK(memcmp(metaq_base(file), error.name, METAQ_BASE_BYTES) == 0);
    metaq_close(file);
    free(content.data);
}

int main(void) {
    bytes content = read_all(kFile);
    metaq_file* file = NULL;
    CHECK(metaq_version() == METAQ_VERSION);
    CHECK(metaq_open_memory(content.data, content.size, NULL, &file, NULL) == METAQ_OK);
    CHECK(metaq_base(file) == NULL);
    test_rows_are_parts_of_tensors(file);
    test_names_are_found(file);
    test_calls_that_are_wrong(&content, file);
    test_structs_of_other_sizes(file);
    metaq_close(file);
    test_all_memory_is_the_allocators(&content, 0);
    test_all_memory_is_the_allocators(&content, 1);
    test_limits(&content);
    test_differences_are_asked_for();
    free(content.data);
    puts("all tests of the face for C have passed");
    return 0;
}
