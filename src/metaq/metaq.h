/* Reads `.mtq` files (docs/format.md) from C, and from whatever calls C.
 *
 *     metaq_file* file = NULL;
 *     metaq_error error = METAQ_ERROR_INIT;
 *     if (metaq_open_memory(bytes, size, NULL, &file, &error) != METAQ_OK) { ... metaq_status_text(error.status) ... }
 *     for (size_t i = 0; i < metaq_tensor_count(file); ++i) {
 *         metaq_tensor tensor = METAQ_TENSOR_INIT;
 *         metaq_get_tensor(file, i, &tensor);                                  name, dtype, shape, bytes
 *         metaq_decode(file, i, out, (size_t)tensor.size_bytes, &error);
 *     }
 *     metaq_close(file);
 *
 * Elements: row-major, each little-endian on every machine. Memory to decode into may have any alignment; four bytes or more
 * is faster.
 *
 * Ownership: a file owns nothing of the caller's but what its allocator gave. The bytes of `metaq_open_memory` and an
 * allocator stay the caller's and outlive the file. Names, shapes, metadata and the base that a file gives belong to it and
 * live until `metaq_close`. Status texts live for ever.
 *
 * Threads: there is no global state. Different files may be used by different threads, and one file by any number of threads at
 * once, for all functions but `metaq_close`. A decoding works on the thread that calls it. An allocator is called on every
 * thread that opens, decodes and closes.
 *
 * Errors: a function that can fail returns a status, and its place through `error` where there is one, which may be NULL. Bytes
 * are trusted in nothing: what breaks a rule of the format ends with a status that says so. After a failure the memory to decode
 * into holds anything. Nothing throws, exits or prints.
 *
 * Memory: open takes 0.9 MB for a moment, and keeps what the file lists. Decoding takes at most four bytes for each symbol of
 * one chunk of the file, with METAQ_READ_LATE the chunk's own bytes, what its coder needs, and some dozen megabytes for tensors
 * kept without loss.
 *
 * Growth: structs begin with their size, which their _INIT sets; a later library reads and fills as much of a struct as
 * the caller's header knew. Numbers of statuses and dtypes never change their meaning; new ones may come.
 */
#ifndef METAQ_METAQ_H
#define METAQ_METAQ_H

#include <stddef.h>
#include <stdint.h>

#define METAQ_VERSION_MAJOR 0
#define METAQ_VERSION_MINOR 1
#define METAQ_VERSION_PATCH 0
#define METAQ_VERSION (METAQ_VERSION_MAJOR * 1000000 + METAQ_VERSION_MINOR * 1000 + METAQ_VERSION_PATCH)

#if defined(_WIN32) && defined(METAQ_SHARED)
#ifdef METAQ_BUILDING
#define METAQ_API __declspec(dllexport)
#else
#define METAQ_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define METAQ_API __attribute__((visibility("default")))
#else
#define METAQ_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What can be wrong; `metaq_status_text` has each in words, docs/robustness.md an example. */
typedef enum metaq_status {
    METAQ_OK = 0,
    /* The file as a whole */
    METAQ_NOT_MTQ = 1,
    METAQ_WRONG_VERSION = 2,
    METAQ_TRUNCATED = 3,
    METAQ_BYTES_LEFT_OVER = 4,
    /* Its header */
    METAQ_HEADER_SIZE = 5,
    METAQ_HEADER_CHECKSUM = 6,
    METAQ_HEADER_CODING = 7,
    METAQ_HEADER_TRUNCATED = 8,
    METAQ_HEADER_LEFT_OVER = 9,
    METAQ_RESERVED_FLAGS = 10,
    METAQ_DIFFERENCE = 11, /* the file is one, and METAQ_TAKE_DIFFERENCES was not given */
    METAQ_BAD_VARINT = 12,
    METAQ_BAD_UTF8 = 13,
    METAQ_REPEATED_KEY = 14,
    METAQ_REPEATED_NAME = 15,
    METAQ_TOO_MANY_TENSORS = 16,
    METAQ_UNKNOWN_DTYPE = 17,
    METAQ_UNKNOWN_KIND = 18,
    METAQ_KEPT_BOOL = 19,
    METAQ_BAD_ALIAS = 20,
    METAQ_TOO_MANY_DIMENSIONS = 21,
    METAQ_TOO_MANY_ELEMENTS = 22,
    METAQ_UNKNOWN_CODEBOOK = 23,
    METAQ_BAD_STEP = 24,
    METAQ_BAD_LEVELS = 25,
    METAQ_BAD_CODEBOOK_REFERENCE = 26,
    METAQ_CODEBOOK_DTYPE = 27,
    METAQ_DIFFERENCE_DTYPE = 28,
    METAQ_SCALED_CODEBOOK = 29,
    METAQ_BAD_LAYOUT = 30,
    METAQ_BAD_LEADING = 31,
    METAQ_EMPTY_MATRIX = 32,
    METAQ_BAD_ROW_SCALE = 33,
    METAQ_BAD_COMMON = 34,
    METAQ_BAD_DIFFERING = 35,
    METAQ_BAD_SOURCE = 36,
    METAQ_UNKNOWN_CODER = 37,
    METAQ_CHUNK_SYMBOLS = 38,
    METAQ_CHUNK_SUM = 39,
    METAQ_CHUNK_OF_CHANGES = 40,
    METAQ_CHUNK_INSIDE_ROW = 41,
    /* Its chunks */
    METAQ_CHUNK_CHECKSUM = 42,
    METAQ_UNSUPPORTED_CODER = 43,
    METAQ_STREAM_TRUNCATED = 44,
    METAQ_STREAM_CORRUPT = 45,
    METAQ_SYMBOL_RANGE = 46,
    METAQ_PLANE_RANGE = 47,
    /* The call */
    METAQ_BAD_INDEX = 48,
    METAQ_BAD_ELEMENTS = 49,
    METAQ_WRONG_OUTPUT_SIZE = 50,
    METAQ_WRONG_BASE = 51,
    METAQ_NO_MEMORY = 52,
    METAQ_BAD_ARGUMENT = 53, /* a null pointer, or a struct whose size is not set */
    METAQ_READ_FAILED = 54,  /* the caller's reader said so */
    METAQ_NO_NAME = 55,      /* there is no tensor of that name */
    METAQ_BEYOND_LIMITS = 56 /* of metaq_options */
} metaq_status;

typedef enum metaq_dtype {
    METAQ_FLOAT32 = 0,
    METAQ_FLOAT16 = 1,
    METAQ_BFLOAT16 = 2,
    METAQ_FLOAT64 = 3,
    METAQ_FLOAT8_E4M3FN = 4,
    METAQ_FLOAT8_E5M2 = 5,
    METAQ_UINT8 = 16,
    METAQ_INT8 = 17,
    METAQ_INT16 = 18,
    METAQ_INT32 = 19,
    METAQ_INT64 = 20,
    METAQ_BOOL = 21
} metaq_dtype;

#define METAQ_NOWHERE UINT64_MAX  /* of a place that is not known */
#define METAQ_ALL UINT64_MAX      /* as many elements as there are */
#define METAQ_NAME_BYTES 128      /* of a name in an error */
#define METAQ_BASE_BYTES 32       /* of a difference's base's checksum */
#define METAQ_TAKE_DIFFERENCES 1u /* flags of metaq_options */
#define METAQ_READ_LATE 2u        /* see metaq_open_reader */

/* A status and its place, as far as it is known. The numbers are those that the status speaks of, twice the same but for
 * ranges: a size, a count, a byte; of METAQ_SYMBOL_RANGE the least and the greatest symbol; of METAQ_BAD_STEP its bits. The
 * name is that of the tensor, or the text that is wrong; of METAQ_DIFFERENCE it is the base's METAQ_BASE_BYTES bytes. */
typedef struct metaq_error {
    size_t struct_size;
    metaq_status status;
    uint64_t header_byte; /* of the header before text coding: behind what was read last */
    uint64_t chunk, tensor;
    int64_t expected_least, expected_greatest, found_least, found_greatest;
    const char* what;            /* what was counted, or of which dtype; "" for most. Lives for ever */
    size_t name_size;            /* of the name, which may be longer than what there is room for here */
    char name[METAQ_NAME_BYTES]; /* zeros follow it */
} metaq_error;
#define METAQ_ERROR_INIT \
    {sizeof(metaq_error), METAQ_OK, METAQ_NOWHERE, METAQ_NOWHERE, METAQ_NOWHERE, 0, 0, 0, 0, "", 0, {0}}

/* Memory of the caller's. `allocate` gives `size` bytes at a multiple of `alignment`, a power of two, or NULL, which ends the call
 * with METAQ_NO_MEMORY. `release` gets what `allocate` gave, with the same size and alignment. */
typedef struct metaq_allocator {
    void* (*allocate)(void* user, size_t size, size_t alignment);
    void (*release)(void* user, void* memory, size_t size, size_t alignment);
    void* user;
} metaq_allocator;

typedef struct metaq_options {
    size_t struct_size;
    uint32_t flags;                   /* of METAQ_TAKE_DIFFERENCES and METAQ_READ_LATE */
    const metaq_allocator* allocator; /* NULL: C++'s operator new; outlives the file otherwise */
    uint64_t header_bytes;            /* at most, before text coding; 0: as many as the format allows */
    uint64_t decoded_bytes;           /* at most, of all tensors; 0: as many as the format allows */
} metaq_options;
#define METAQ_OPTIONS_INIT {sizeof(metaq_options), 0, NULL, 0, 0}

/* Where a file is read from. `read` copies `size` bytes from `offset` on to `out` and returns 0, or another number to fail. */
typedef struct metaq_reader {
    size_t struct_size;
    uint64_t size; /* of the file, in bytes; with METAQ_READ_LATE also METAQ_NOWHERE, which is not known yet */
    int (*read)(void* user, uint64_t offset, void* out, size_t size);
    void* user;
} metaq_reader;
#define METAQ_READER_INIT {sizeof(metaq_reader), 0, NULL, NULL}

/* A tensor of a file. */
typedef struct metaq_tensor {
    size_t struct_size;
    const char* name; /* UTF-8 without a zero behind it, and maybe with zeros in it */
    size_t name_size;
    metaq_dtype dtype;
    uint32_t element_bytes;
    size_t dimensions;
    const uint64_t* shape;
    uint64_t size;       /* in elements */
    uint64_t size_bytes; /* of the memory that it is decoded into */
    uint64_t rows;       /* of the first dimension; 1 of a scalar */
    uint64_t row_bytes;
    size_t target; /* of an alias, the index of the tensor that it is another name of; its own index otherwise */
    uint64_t begin_byte, end_byte; /* decoding reads bytes of the file from here to before there, and no others */
} metaq_tensor;
#define METAQ_TENSOR_INIT {sizeof(metaq_tensor), NULL, 0, METAQ_FLOAT32, 0, 0, NULL, 0, 0, 0, 0, 0, 0, 0}

/* Elements of a tensor, in the order of memory, and room for exactly those. */
typedef struct metaq_output {
    size_t struct_size;
    size_t index;
    uint64_t first, count; /* METAQ_ALL: as many as follow the first */
    void* out;
    size_t out_size;
} metaq_output;
#define METAQ_OUTPUT_INIT {sizeof(metaq_output), 0, 0, METAQ_ALL, NULL, 0}

typedef struct metaq_file metaq_file;

/* METAQ_VERSION of the library, which may be later than that of this header. */
METAQ_API uint32_t metaq_version(void);

/* "chunk_checksum", and "expected a chunk that matches its checksum, found another". */
METAQ_API const char* metaq_status_name(metaq_status status);
METAQ_API const char* metaq_status_text(metaq_status status);

/* "float32"; NULL of no dtype. */
METAQ_API const char* metaq_dtype_name(metaq_dtype dtype);

/* Open a file and check all but the payloads of its chunks, which decoding checks. `*file` is NULL after a failure. `options` and
 * `error` may be NULL. A difference, what another network becomes this one by, is refused unless METAQ_TAKE_DIFFERENCES is set;
 * decoding then gives the differences, which are no weights. */
METAQ_API metaq_status metaq_open_memory(const void* data, size_t size, const metaq_options* options, metaq_file** file,
                                         metaq_error* error);

/* As before. Reads all of the file at once, into memory of the allocator; with METAQ_READ_LATE only the header, and each chunk
 * when it is decoded. The reader then is as a file's memory: it outlives the file, and is called by all who decode, at once. What it
 * does not have yet it fails to read, which ends the call with METAQ_READ_FAILED and may be tried again. Where the file ends is
 * not checked while its size is METAQ_NOWHERE. */
METAQ_API metaq_status metaq_open_reader(const metaq_reader* reader, const metaq_options* options, metaq_file** file,
                                         metaq_error* error);

/* Gives back all that the file holds; NULL is no file. No other call on the file may be under way. */
METAQ_API void metaq_close(metaq_file* file);

/* What the file lists. METAQ_BAD_INDEX if there are fewer. */
METAQ_API size_t metaq_tensor_count(const metaq_file* file);
METAQ_API metaq_status metaq_get_tensor(const metaq_file* file, size_t index, metaq_tensor* tensor);
METAQ_API metaq_status metaq_find_tensor(const metaq_file* file, const char* name, size_t name_size, size_t* index);
METAQ_API size_t metaq_metadata_count(const metaq_file* file);
METAQ_API metaq_status metaq_get_metadata(const metaq_file* file, size_t index, const char** key, size_t* key_size,
                                          const char** value, size_t* value_size);

/* Of a difference, its base's checksum, METAQ_BASE_BYTES long; NULL of a model. */
METAQ_API const uint8_t* metaq_base(const metaq_file* file);

/* One tensor, also an alias: exactly `size_bytes`. */
METAQ_API metaq_status metaq_decode(const metaq_file* file, size_t index, void* out, size_t out_size,
                                    metaq_error* error);

/* Rows of a tensor, which are elements of its first dimension: exactly `rows * row_bytes`. A chunk that some rows lie in is
 * decoded whole, so that many rows at a time are faster. */
METAQ_API metaq_status metaq_decode_rows(const metaq_file* file, size_t index, uint64_t first_row, uint64_t rows,
                                         void* out, size_t out_size, metaq_error* error);

/* Any number of tensors, or of parts of tensors, each chunk decoded once at most: the fastest way to a whole file. */
METAQ_API metaq_status metaq_decode_many(const metaq_file* file, const metaq_output* outputs, size_t count,
                                         metaq_error* error);

#ifdef __cplusplus
}
#endif

#endif
