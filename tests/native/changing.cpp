// Memory that another thread writes to while a file in it is opened and decoded: right, wrong or refused, and in bounds.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "metaq/decoder.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;
using metaq::File;
using metaq::FileStatus;

constexpr int kRounds = 20;

// Flips bytes of `data` from a place on, and back, until it is told to stop.
class Writer {
public:
    Writer(Bytes& data, std::size_t first) : thread_([this, &data, first] { write(data, first); }) {}
    ~Writer() {
        stop_ = true;
        thread_.join();
    }

private:
    void write(Bytes& data, std::size_t first) {
        check::Random random(1);
        while (!stop_) {
            const std::size_t place = first + random.below(data.size() - first);
            volatile std::uint8_t& byte = data[place];
            const std::uint8_t before = byte;
            byte = static_cast<std::uint8_t>(random.next());
            std::this_thread::yield();
            byte = before;
        }
    }

    std::atomic<bool> stop_ = false;
    std::thread thread_;
};

void decode_all(const File& file) {
    for (std::size_t i = 0; i < file.tensors().size(); ++i) {
        Bytes bytes(static_cast<std::size_t>(file.tensors()[i].size_bytes()));
        (void)file.decode(i, bytes);
        const metaq::FileChange* const change = file.tensors()[i].change;
        if (change == nullptr) continue;
        Bytes base(static_cast<std::size_t>(change->common * metaq::traits_of(file.tensors()[i].dtype).bytes));
        (void)file.apply(i, base, base);
    }
}

void decode_rans(const Bytes& payload, const std::vector<metaq::Block>& blocks) {
    std::vector<metaq::rans::ValueBlock> values;
    for (const metaq::Block& block : blocks) {
        auto* const bytes = reinterpret_cast<std::uint8_t*>(block.symbols);
        values.push_back({bytes, block.rows, block.channels, block.kernel, metaq::rans::Form::int32, {}});
    }
    (void)metaq::rans::decode_values(payload, values);
}

}  // namespace

TEST(files_in_memory_that_changes) {
    for (const char* name :
         {"network-mixing", "network-adaptive", "network-rans", "network-huffman", "network-range", "network-stored",
          "every-dtype", "lossless-rans", "dependent", "sparse", "scaled", "differences/lossless"}) {
        std::ifstream in(std::string(METAQ_SOURCE_DIR "/tests/golden/") + name + ".mtq", std::ios::binary);
        Bytes data{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
        const Bytes original = data;
        File file;
        CHECK(file.open(original, {}, metaq::Differences::taken) == FileStatus::ok && !file.chunks().empty());
        const Writer writer(data, static_cast<std::size_t>(file.chunks()[0].offset));
        for (int round = 0; round < kRounds; ++round) {
            if (file.open(data, {}, metaq::Differences::taken) == FileStatus::ok) decode_all(file);
        }
    }
}

// Behind a checksum that is looked at first, little of a change is seen. Here it is all that coders look at.
TEST(payloads_in_memory_that_changes) {
    for (const char* name : {"network-mixing", "network-adaptive", "network-rans", "network-huffman", "network-range",
                             "network-stored", "lossless-rans", "dependent", "dependent-adaptive", "sparse"}) {
        std::ifstream in(std::string(METAQ_SOURCE_DIR "/tests/golden/") + name + ".mtq", std::ios::binary);
        const Bytes data{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
        File file;
        CHECK(file.open(data) == FileStatus::ok);
        for (const metaq::PlacedChunk& chunk : file.chunks()) {
            if (chunk.payload.empty()) continue;
            Bytes payload(chunk.payload.begin(), chunk.payload.end());
            std::vector<std::int32_t> symbols(chunk.symbols);
            std::vector<metaq::Block> blocks;
            std::int32_t* next = symbols.data();
            for (const metaq::Run& run : file.runs_of(chunk)) {
                blocks.push_back({next, static_cast<std::size_t>(run.rows), run.channels, run.kernel});
                next += run.symbols();
            }
            const Writer writer(payload, 0);
            for (int round = 0; round < kRounds; ++round) {
                switch (static_cast<metaq::CoderId>(chunk.coder)) {
                    case metaq::CoderId::stored: (void)metaq::stored::decode(payload, blocks); break;
                    case metaq::CoderId::huffman: (void)metaq::huffman::decode(payload, blocks); break;
                    case metaq::CoderId::range: (void)metaq::range::decode(payload, blocks); break;
                    case metaq::CoderId::mixing: (void)metaq::mixing::decode(payload, blocks); break;
                    case metaq::CoderId::adaptive: (void)metaq::adaptive::decode(payload, blocks); break;
                    case metaq::CoderId::rans: decode_rans(payload, blocks); break;
                    default: break;
                }
            }
        }
    }
}
