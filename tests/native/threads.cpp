// Many threads on one file, in every way in which the decoder says that they may; for ThreadSanitizer above all.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "metaq/decoder.hpp"
#include "metaq/metaq.h"

namespace {

using Bytes = std::vector<std::uint8_t>;
using metaq::File;
using metaq::FileStatus;

constexpr std::size_t kThreads = 4;
constexpr const char* kFiles[] = {
    "network-mixing", "network-adaptive", "network-rans",  "network-huffman", "network-range",
    "network-stored", "every-dtype",      "lossless-rans", "dependent",       "scaled"};

Bytes contents(const std::string& name) {
    std::ifstream in(METAQ_SOURCE_DIR "/tests/golden/" + name + ".mtq", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// `work(thread)` on every thread at once.
template <class Work>
void at_once(const Work& work) {
    std::vector<std::thread> threads;
    for (std::size_t thread = 0; thread < kThreads; ++thread) threads.emplace_back([&work, thread] { work(thread); });
    for (std::thread& thread : threads) thread.join();
}

// Shares work among threads, as callers of `File::decode` do.
constexpr auto on_threads = [](std::size_t count, const auto& work) {
    std::atomic<std::size_t> next = 0;
    at_once([&](std::size_t) {
        for (std::size_t i = next++; i < count; i = next++) work(i);
    });
};

struct Tensors {
    std::vector<Bytes> bytes;
    std::vector<File::Output> outputs;

    explicit Tensors(const File& file) {
        for (const metaq::FileTensor& tensor : file.tensors())
            bytes.emplace_back(static_cast<std::size_t>(tensor.size_bytes()));
        for (std::size_t i = 0; i < bytes.size(); ++i) outputs.push_back({i, bytes[i]});
    }
};

class Memory final : public metaq::ByteSource {
public:
    explicit Memory(std::span<const std::uint8_t> data) : data_(data) {}
    bool read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept override {
        std::copy_n(data_.data() + offset, out.size(), out.data());
        return true;
    }

private:
    std::span<const std::uint8_t> data_;
};

}  // namespace

TEST(one_file_is_decoded_by_many_threads) {
    for (const char* name : kFiles) {
        const Bytes data = contents(name);
        Memory source(data);
        File file, late;
        CHECK(file.open(data) == FileStatus::ok && late.open_late(source, data.size()) == FileStatus::ok);
        Tensors whole(file);
        CHECK(file.decode(whole.outputs) == FileStatus::ok);
        std::atomic<std::size_t> wrong = 0;
        at_once([&](std::size_t thread) {
            const File& one = thread % 2 == 0 ? file : late;
            Tensors again(one);
            for (std::size_t i = 0; i < again.bytes.size(); ++i) {
                const std::size_t index = (i + thread) % again.bytes.size();
                wrong += one.decode(index, again.bytes[index]) != FileStatus::ok;
            }
            wrong += again.bytes != whole.bytes;
        });
        CHECK(wrong == 0);
    }
}

TEST(threads_share_one_decoding) {
    for (const char* name : kFiles) {
        const Bytes data = contents(name);
        File file;
        CHECK(file.open(data) == FileStatus::ok);
        Tensors whole(file), shared(file);
        CHECK(file.decode(whole.outputs) == FileStatus::ok);
        metaq::DecodeOptions options;
        std::atomic<std::size_t> decoded = 0;
        options.decoded_chunks = &decoded;
        options.piece_elements = 64;
        CHECK(file.decode(shared.outputs, options, on_threads) == FileStatus::ok);
        CHECK(decoded == file.chunks().size() && shared.bytes == whole.bytes);
    }
}

TEST(threads_share_a_session_that_is_locked) {
    const Bytes data = contents("lossless-rans");
    File file;
    CHECK(file.open(data) == FileStatus::ok);
    Tensors whole(file);
    CHECK(file.decode(whole.outputs) == FileStatus::ok);
    metaq::FileSession session(file, 1 << 12);
    std::mutex mutex;
    std::atomic<std::size_t> wrong = 0;
    at_once([&](std::size_t thread) {
        for (std::size_t i = 0; i < 3 * whole.bytes.size(); ++i) {
            const std::size_t index = (i + thread) % whole.bytes.size();
            Bytes bytes(whole.bytes[index].size());
            const File::Output output{index, bytes};
            const std::lock_guard lock(mutex);
            wrong += session.decode(std::span(&output, 1), {}, on_threads) != FileStatus::ok;
            wrong += bytes != whole.bytes[index];
        }
    });
    CHECK(wrong == 0);
}

TEST(a_failure_on_one_thread_ends_the_decoding_of_all) {
    Bytes data = contents("network-rans");
    File file;
    CHECK(file.open(data) == FileStatus::ok);
    for (const metaq::PlacedChunk& chunk : file.chunks()) data[static_cast<std::size_t>(chunk.offset)] ^= 1;
    Tensors tensors(file);
    CHECK(file.decode(tensors.outputs, {}, on_threads) == FileStatus::chunk_checksum);
}

TEST(the_face_for_c_is_called_by_many_threads) {
    const Bytes data = contents("network-adaptive");
    metaq_file* file = nullptr;
    CHECK(metaq_open_memory(data.data(), data.size(), nullptr, &file, nullptr) == METAQ_OK);
    std::atomic<std::size_t> wrong = 0;
    std::vector<Bytes> found(kThreads);
    at_once([&](std::size_t thread) {
        for (std::size_t i = 0; i < metaq_tensor_count(file); ++i) {
            metaq_tensor tensor = METAQ_TENSOR_INIT;
            wrong += metaq_get_tensor(file, i, &tensor) != METAQ_OK;
            Bytes bytes(static_cast<std::size_t>(tensor.size_bytes));
            wrong += metaq_decode(file, i, bytes.data(), bytes.size(), nullptr) != METAQ_OK;
            found[thread].insert(found[thread].end(), bytes.begin(), bytes.end());
        }
    });
    metaq_close(file);
    CHECK(wrong == 0 && std::all_of(found.begin(), found.end(), [&](const Bytes& one) { return one == found[0]; }));
}
