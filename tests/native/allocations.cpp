// What decoding does with the heap: a failed allocation ends every coder with a status, and small files take little.
//
// This program replaces the global operator new, so it is one of its own.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "check.hpp"
#include "coder_suite.hpp"
#include "metaq/adaptive/coder.hpp"
#include "metaq/decoder.hpp"
#include "metaq/huffman/coder.hpp"
#include "metaq/mixing/coder.hpp"
#include "metaq/range/coder.hpp"
#include "metaq/rans/coder.hpp"
#include "metaq/text/coder.hpp"

namespace {

constexpr std::size_t kNever = SIZE_MAX;

// What has been allocated since the last `watch`.
struct Heap {
    std::size_t live_bytes = 0;
    std::size_t most_bytes = 0;
    std::size_t all_bytes = 0;
    std::size_t allocations = 0;           // by an operator new that may return null
    std::size_t throwing_allocations = 0;  // by one that may not
    std::size_t failing = kNever;          // the number of the allocation that fails, counted from 0
};
Heap heap;

void watch(std::size_t failing = kNever) {
    heap = {};
    heap.failing = failing;
}

// Before every block lies its size, in as many bytes as keep the alignment.
void* allocate(std::size_t size, std::size_t alignment) {
    auto* const memory =
        static_cast<std::byte*>(std::aligned_alloc(alignment, (size + 2 * alignment - 1) / alignment * alignment));
    if (memory == nullptr) return nullptr;
    *reinterpret_cast<std::size_t*>(memory) = size;
    heap.live_bytes += size;
    heap.all_bytes += size;
    heap.most_bytes = std::max(heap.most_bytes, heap.live_bytes);
    return memory + alignment;
}

void release(void* block, std::size_t alignment) {
    if (block == nullptr) return;
    std::byte* const memory = static_cast<std::byte*>(block) - alignment;
    heap.live_bytes -= *reinterpret_cast<std::size_t*>(memory);
    std::free(memory);
}

void* allocate_or_fail(std::size_t size, std::size_t alignment) {
    return heap.allocations++ == heap.failing ? nullptr : allocate(size, alignment);
}

void* allocate_or_stop(std::size_t size, std::size_t alignment) {
    ++heap.throwing_allocations;
    void* const block = allocate(size, alignment);
    if (block == nullptr) std::abort();
    return block;
}

constexpr std::size_t kAlignment = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

}  // namespace

void* operator new(std::size_t size) { return allocate_or_stop(size, kAlignment); }
void* operator new[](std::size_t size) { return allocate_or_stop(size, kAlignment); }
void* operator new(std::size_t size, std::align_val_t to) {
    return allocate_or_stop(size, static_cast<std::size_t>(to));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate_or_fail(size, kAlignment); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return allocate_or_fail(size, kAlignment); }
void* operator new(std::size_t size, std::align_val_t to, const std::nothrow_t&) noexcept {
    return allocate_or_fail(size, static_cast<std::size_t>(to));
}
void operator delete(void* block) noexcept { release(block, kAlignment); }
void operator delete[](void* block) noexcept { release(block, kAlignment); }
void operator delete(void* block, std::size_t) noexcept { release(block, kAlignment); }
void operator delete[](void* block, std::size_t) noexcept { release(block, kAlignment); }
void operator delete(void* block, std::align_val_t to) noexcept { release(block, static_cast<std::size_t>(to)); }
void operator delete(void* block, std::size_t, std::align_val_t to) noexcept {
    release(block, static_cast<std::size_t>(to));
}

namespace {

using metaq::Status;
using suite::Bytes;

// Kernels, a matrix with rows of different scales, columns enough for a row's prediction, symbols that escape, nothing.
suite::Tensors tensors() {
    check::Random random(11);
    const auto near = [&](std::size_t i) { return static_cast<std::int32_t>(random.below(3 + i / 400 % 8)) - 2; };
    const auto some_far = [&](std::size_t i) { return i % 97 == 5 ? 1000000 + static_cast<std::int32_t>(i) : near(i); };
    return {suite::tensor(40, 12, 9, near), suite::tensor(120, 100, 1, some_far), suite::tensor(0, 3, 1, near),
            suite::tensor(7, 1, 1, near)};
}

// Lets the first allocation of `decode` that may return null fail, the second, ..., until none does; returns how many there are.
template <class Decode>
std::size_t fails_without_memory(Decode decode) {
    for (std::size_t failing = 0;; ++failing) {
        watch(failing);
        const Status status = decode();
        const Heap seen = heap;
        watch();
        CHECK(seen.live_bytes == 0);
        CHECK(seen.throwing_allocations == 0);
        if (seen.allocations <= failing) {
            CHECK(status == Status::ok);
            return seen.allocations;
        }
        CHECK(status == Status::no_memory);
        if (status != Status::no_memory) return 0;
    }
}

std::size_t fails_without_memory(suite::Encode encode, suite::Decode decode) {
    suite::Tensors expected = tensors();
    const suite::Coder coder{encode, decode, false, 0};
    const Bytes data = coder.encoded(expected);
    suite::Tensors found = suite::blank(expected);
    std::vector<metaq::Block> blocks;
    for (suite::Tensor& tensor : found)
        blocks.push_back({tensor.symbols.data(), tensor.rows, tensor.channels, tensor.kernel});
    const std::size_t allocations = fails_without_memory([&] { return decode(data, blocks); });
    CHECK(suite::are_equal(found, expected));
    return allocations;
}

Bytes contents(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace

TEST(huffman_allocates_nothing) { CHECK(fails_without_memory(&metaq::huffman::encode, &metaq::huffman::decode) == 0); }
TEST(range_fails_without_memory) { CHECK(fails_without_memory(&metaq::range::encode, &metaq::range::decode) > 0); }
TEST(rans_fails_without_memory) { CHECK(fails_without_memory(&metaq::rans::encode, &metaq::rans::decode) > 0); }
TEST(mixing_fails_without_memory) { CHECK(fails_without_memory(&metaq::mixing::encode, &metaq::mixing::decode) > 0); }
TEST(adaptive_fails_without_memory) {
    CHECK(fails_without_memory(&metaq::adaptive::encode, &metaq::adaptive::decode) > 0);
}

TEST(rans_fails_without_memory_for_values) {
    const suite::Tensors symbols = tensors();
    const Bytes data = suite::Coder{&metaq::rans::encode, &metaq::rans::decode, false, 0}.encoded(symbols);
    std::vector<std::vector<float>> values;
    std::vector<metaq::rans::ValueBlock> blocks;
    for (const suite::Tensor& tensor : symbols) {
        values.emplace_back(tensor.symbols.size());
        const float step = 0.5f + static_cast<float>(values.size());
        blocks.push_back({reinterpret_cast<std::uint8_t*>(values.back().data()),
                          tensor.rows,
                          tensor.channels,
                          tensor.kernel,
                          metaq::rans::Form::float32,
                          {step, {}, 0}});
    }
    CHECK(fails_without_memory([&] { return metaq::rans::decode_values(data, blocks); }) > 0);
    CHECK(values[0][5] == 1.5f * static_cast<float>(symbols[0].symbols[5]));
}

TEST(text_fails_without_memory) {
    const std::string names = "layer1.0.conv1.weight layer1.0.conv2.weight layer2.0.conv1.weight";
    const Bytes bytes(names.begin(), names.end());
    Bytes data, found(bytes.size());
    CHECK(metaq::text::encode(bytes, data) == Status::ok);
    CHECK(fails_without_memory([&] { return metaq::text::decode(data, found); }) > 0);
    CHECK(found == bytes);
}

// What encoders share with decoders ends with a status too; only what is theirs alone may throw. The standard library's sort
// also asks for memory that it can do without.
TEST(encoders_fail_without_memory) {
    const suite::Tensors symbols = tensors();
    std::vector<metaq::ConstBlock> blocks;
    for (const suite::Tensor& tensor : symbols)
        blocks.push_back({tensor.symbols.data(), tensor.rows, tensor.channels, tensor.kernel});
    for (const suite::Encode encode : {&metaq::mixing::encode, &metaq::adaptive::encode, &metaq::rans::encode}) {
        Bytes expected;
        CHECK(encode(blocks, expected) == Status::ok);
        std::size_t failures = 0;
        for (std::size_t failing = 0, allocations = 1; failing < allocations; ++failing) {
            Bytes found;
            found.reserve(expected.size());
            watch(failing);
            const Status status = encode(blocks, found);
            allocations = heap.allocations;
            CHECK(status == Status::no_memory || (status == Status::ok && found == expected));
            failures += status == Status::no_memory;
        }
        CHECK(failures > 0);
    }
}

// The header's text, the coder's state and all else that comes and goes; the tensors are the caller's.
TEST(small_file_takes_little_memory) {
    constexpr std::size_t kMostBytes = 1000000;
    const Bytes data = contents(METAQ_SOURCE_DIR "/results/lenet5-mnist.mtq");
    CHECK(data.size() == 887);
    metaq::File names;
    CHECK(names.open(data) == metaq::FileStatus::ok);
    std::vector<Bytes> tensors;
    std::vector<metaq::File::Output> outputs;
    for (const metaq::FileTensor& tensor : names.tensors()) {
        tensors.emplace_back(static_cast<std::size_t>(tensor.size_bytes()));
        outputs.push_back({tensors.size() - 1, tensors.back()});
    }
    watch();
    metaq::File file;
    CHECK(file.open(data) == metaq::FileStatus::ok);
    const std::size_t to_open = heap.most_bytes;
    CHECK(file.decode(outputs) == metaq::FileStatus::ok);
    const Heap seen = heap;
    std::printf("lenet5-mnist.mtq: %zu bytes of heap to open it, %zu to decode it too, %zu in all\n", to_open,
                seen.most_bytes, seen.all_bytes);
    CHECK(seen.most_bytes <= kMostBytes);
    CHECK(seen.all_bytes <= 2 * kMostBytes);
}

namespace {

// Lets every allocation of decoding a file fail in turn: a status each time, and nothing left over.
template <class Decode>
std::size_t file_fails_without_memory(const Bytes& data, Decode decode) {
    for (std::size_t failing = 0;; ++failing) {
        watch(failing);
        const metaq::FileStatus status = decode(data);
        const Heap seen = heap;
        watch();
        CHECK(seen.live_bytes == 0);
        CHECK(seen.throwing_allocations == 0);
        const bool is_expected = status ==
                                 (seen.allocations <= failing ? metaq::FileStatus::ok : metaq::FileStatus::no_memory);
        CHECK(is_expected);
        if (seen.allocations <= failing || !is_expected) return seen.allocations;
    }
}

// Memory for all tensors and for the list of them, made before the heap is watched.
struct Room {
    std::vector<Bytes> tensors;
    std::vector<metaq::FileOutput> outputs;

    explicit Room(const Bytes& data) {
        metaq::File file;
        CHECK(file.open(data) == metaq::FileStatus::ok);
        for (const metaq::FileTensor& tensor : file.tensors()) {
            tensors.emplace_back(static_cast<std::size_t>(tensor.size_bytes()));
            outputs.push_back({tensors.size() - 1, tensors.back()});
        }
    }
};

}  // namespace

TEST(whole_files_fail_without_memory) {
    for (const char* name :
         {"network-mixing", "network-rans", "network-huffman", "every-dtype", "shapes", "scaled", "nothing"}) {
        const Bytes data = contents(METAQ_SOURCE_DIR "/tests/golden/" + std::string(name) + ".mtq");
        const Room room(data);
        CHECK(file_fails_without_memory(data, [&](const Bytes& bytes) -> metaq::FileStatus {
            metaq::File file;
            const metaq::FileStatus status = file.open(bytes);
            return status == metaq::FileStatus::ok ? file.decode(room.outputs) : status;
        }) > 0);
    }
}

TEST(sessions_fail_without_memory) {
    for (const char* name : {"network-range", "network-rans", "every-dtype", "scaled"}) {
        const Bytes data = contents(METAQ_SOURCE_DIR "/tests/golden/" + std::string(name) + ".mtq");
        const Room room(data);
        CHECK(file_fails_without_memory(data, [&](const Bytes& bytes) -> metaq::FileStatus {
            metaq::File file;
            metaq::FileStatus status = file.open(bytes);
            metaq::FileSession session(file, 1000);
            for (std::size_t i = 0; i < room.outputs.size() && status == metaq::FileStatus::ok; ++i) {
                status = session.decode(std::span(room.outputs).subspan(i, 1), {}, metaq::in_order);
            }
            return status;
        }) > 0);
    }
}
