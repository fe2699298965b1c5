/* first_tensor MODEL.mtq: each tensor's name, dtype and shape, and of the first a checksum (CRC-32) of its elements. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "metaq/metaq.h"

static uint32_t crc32(const unsigned char* bytes, size_t size) {
    uint32_t crc = 0xffffffffu;
    size_t i;
    int bit;
    for (i = 0; i < size; ++i) {
        crc ^= bytes[i];
        for (bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

/* A metaq_reader of an open FILE. */
static int read_bytes(void* user, uint64_t offset, void* out, size_t size) {
    FILE* const in = user;
    return fseek(in, (long)offset, SEEK_SET) != 0 || fread(out, 1, size, in) != size;
}

static void print_tensor(const metaq_tensor* tensor) {
    size_t i;
    fwrite(tensor->name, 1, tensor->name_size, stdout);
    printf(" %s (", metaq_dtype_name(tensor->dtype));
    for (i = 0; i < tensor->dimensions; ++i) printf("%" PRIu64 ",", tensor->shape[i]);
    puts(")");
}

static metaq_status print_file(FILE* in, uint64_t size) {
    metaq_reader reader = METAQ_READER_INIT;
    metaq_tensor tensor = METAQ_TENSOR_INIT;
    metaq_error error = METAQ_ERROR_INIT;
    metaq_file* file = NULL;
    metaq_status status;
    size_t i;

    reader.size = size;
    reader.read = read_bytes;
    reader.user = in;
    status = metaq_open_reader(&reader, NULL, &file, &error);
    for (i = 0; status == METAQ_OK && i < metaq_tensor_count(file); ++i) {
        status = metaq_get_tensor(file, i, &tensor);
        if (status == METAQ_OK) print_tensor(&tensor);
    }
    if (status == METAQ_OK && i > 0) {
        unsigned char* elements;
        metaq_get_tensor(file, 0, &tensor);
        elements = malloc(tensor.size_bytes > 0 ? (size_t)tensor.size_bytes : 1);
        status = elements == NULL ? METAQ_NO_MEMORY
                                  : metaq_decode(file, 0, elements, (size_t)tensor.size_bytes, &error);
        if (status == METAQ_OK) printf("crc32 %08" PRIx32 "\n", crc32(elements, (size_t)tensor.size_bytes));
        free(elements);
    }
    metaq_close(file);
    return status;
}

int main(int count, char** arguments) {
    FILE* const in = count == 2 ? fopen(arguments[1], "rb") : NULL;
    metaq_status status;
    long size;

    if (in == NULL || fseek(in, 0, SEEK_END) != 0 || (size = ftell(in)) < 0) {
        fputs("usage: first_tensor MODEL.mtq\n", stderr);
        return 2;
    }
    status = print_file(in, (uint64_t)size);
    fclose(in);
    if (status != METAQ_OK) fprintf(stderr, "first_tensor: %s\n", metaq_status_text(status));
    return status == METAQ_OK ? 0 : 2;
}
