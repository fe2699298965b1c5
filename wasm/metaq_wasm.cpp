// metaq.h as JavaScript calls it: files are read by an import as their chunks are decoded, memory comes from malloc, and what a
// call finds wrong lies in one metaq_error. Structs are those of metaq.h, which metaq.js reads where the assertions say.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "loops.hpp"
#include "metaq/base/memory.hpp"
#include "metaq/metaq.h"

// Copies bytes of a source to `out` and returns 0; another number if it does not have them.
extern "C" __attribute__((import_module("metaq"), import_name("read"))) int read_source(std::uint32_t source,
                                                                                        double offset, void* out,
                                                                                        std::size_t size);

static_assert(sizeof(metaq_tensor) == 88 && offsetof(metaq_tensor, name) == 4 && offsetof(metaq_tensor, dtype) == 12);
static_assert(offsetof(metaq_tensor, dimensions) == 20 && offsetof(metaq_tensor, size) == 32);
static_assert(offsetof(metaq_tensor, target) == 64 && offsetof(metaq_tensor, begin_byte) == 72);
static_assert(sizeof(metaq_error) == 200 && offsetof(metaq_error, chunk) == 16 && offsetof(metaq_error, what) == 64);
static_assert(sizeof(metaq_output) == 32 && offsetof(metaq_output, first) == 8 && offsetof(metaq_output, out) == 24);

namespace {

metaq_error error;
metaq_tensor tensor;

void* allocate(void*, std::size_t size, std::size_t alignment) {
    if (size > SIZE_MAX - alignment) return nullptr;
    return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void release(void*, void* memory, std::size_t, std::size_t) { std::free(memory); }

constexpr metaq_allocator kAllocator{allocate, release, nullptr};
constexpr metaq::Allocator kLoopAllocator{allocate, release, nullptr};

int read(void* user, std::uint64_t offset, void* out, std::size_t size) {
    return read_source(static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(user)), static_cast<double>(offset),
                       out, size);
}

}  // namespace

METAQ_EXPORT(metaq_wasm_allocate)(std::size_t size)->void* { return std::malloc(size); }

METAQ_EXPORT(metaq_wasm_release)(void* memory)->void { std::free(memory); }

// What the last `metaq_wasm_open` or `metaq_wasm_decode` that failed has found.
METAQ_EXPORT(metaq_wasm_error)()->const metaq_error* { return &error; }

// A file of so many bytes; of fewer than none, nobody knows of how many. Null if it cannot be opened.
METAQ_EXPORT(metaq_wasm_open)(std::uint32_t source, double size, std::uint32_t takes_differences)->metaq_file* {
    metaq_reader reader = METAQ_READER_INIT;
    reader.size = size < 0 ? METAQ_NOWHERE : static_cast<std::uint64_t>(size);
    reader.read = read;
    reader.user = reinterpret_cast<void*>(static_cast<std::uintptr_t>(source));
    metaq_options options = METAQ_OPTIONS_INIT;
    options.flags = METAQ_READ_LATE | (takes_differences != 0 ? METAQ_TAKE_DIFFERENCES : 0);
    options.allocator = &kAllocator;
    metaq_file* file = nullptr;
    error = METAQ_ERROR_INIT;
    metaq_open_reader(&reader, &options, &file, &error);
    return file;
}

// The tensor at this index, which is there, until the next call.
METAQ_EXPORT(metaq_wasm_tensor)(const metaq_file* file, std::size_t index)->const metaq_tensor* {
    tensor = METAQ_TENSOR_INIT;
    metaq_get_tensor(file, index, &tensor);
    return &tensor;
}

METAQ_EXPORT(metaq_wasm_decode)(const metaq_file* file, const metaq_output* outputs, std::size_t count)->metaq_status {
    error = METAQ_ERROR_INIT;
    return metaq_decode_many(file, outputs, count, &error);
}

METAQ_EXPORT(metaq_wasm_metadata)
(const metaq_file* file, std::size_t index, const char** texts, std::size_t* sizes)->metaq_status {
    return metaq_get_metadata(file, index, texts, sizes, texts + 1, sizes + 1);
}

// Takes functions of loops.cpp in the place of those here, by where they are in the table; they allocate by what this returns.
METAQ_EXPORT(metaq_wasm_use_loops)
(decltype(metaq::kDecodeSteps) steps, decltype(metaq::kDecodeBand<metaq::adaptive::FreeSymbols>) free_band,
 decltype(metaq::kDecodeBand<metaq::adaptive::DependentSymbols>) dependent_band,
 decltype(metaq::kDecodeRow<metaq::mixing::FreeSymbols>) free_row,
 decltype(metaq::kDecodeRow<metaq::mixing::DependentSymbols>) dependent_row)
    ->const metaq::Allocator* {
    using namespace metaq;
    replaceable<kDecodeSteps> = steps;
    replaceable<kDecodeBand<adaptive::FreeSymbols>> = free_band;
    replaceable<kDecodeBand<adaptive::DependentSymbols>> = dependent_band;
    replaceable<kDecodeRow<mixing::FreeSymbols>> = free_row;
    replaceable<kDecodeRow<mixing::DependentSymbols>> = dependent_row;
    return &kLoopAllocator;
}
