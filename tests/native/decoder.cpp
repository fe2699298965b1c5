// The decoder of files, without exceptions and run-time types: parts of tensors in any way are parts of the whole, what was
// decoded is kept and found again, and an error says where it is.
#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "metaq/decoder.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;
using metaq::File;
using metaq::FileError;
using metaq::FileStatus;

constexpr const char* kFiles[] = {"network-mixing", "network-adaptive", "network-rans", "network-huffman",
                                  "network-range",  "network-stored",   "every-dtype",  "lossless-rans",
                                  "dependent",      "shapes",           "sparse",       "nothing",
                                  "scaled"};

Bytes contents(const std::string& name) {
    std::ifstream in(METAQ_SOURCE_DIR "/tests/golden/" + name + ".mtq", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// A file and all of its tensors, decoded together.
struct Golden {
    Bytes data;
    File file;
    std::vector<Bytes> tensors;

    explicit Golden(const std::string& name) : data(contents(name)) {
        CHECK(file.open(data) == FileStatus::ok);
        std::vector<File::Output> outputs;
        for (const metaq::FileTensor& tensor : file.tensors())
            tensors.emplace_back(static_cast<std::size_t>(tensor.size_bytes()));
        for (std::size_t i = 0; i < tensors.size(); ++i) outputs.push_back({i, tensors[i]});
        CHECK(file.decode(outputs) == FileStatus::ok);
    }

    std::size_t width(std::size_t tensor) const { return metaq::traits_of(file.tensors()[tensor].dtype).bytes; }

    // Some elements of tensors by `decode(outputs)`, which may lie at any address, are those of the whole.
    template <class Decode>
    void check_parts(check::Random& random, std::size_t count, const Decode& decode) const {
        std::vector<Bytes> parts(count);
        std::vector<File::Output> outputs;
        std::vector<std::size_t> shifts;
        for (Bytes& part : parts) {
            const std::size_t tensor = random.below(tensors.size());
            const std::size_t size = tensors[tensor].size() / width(tensor);
            const std::size_t first = random.below(size + 1),
                              elements = random.below(4) > 0 ? random.below(size - first + 1) : size - first;
            shifts.push_back(random.below(5));
            part.resize(shifts.back() + elements * width(tensor));
            outputs.push_back({tensor, std::span(part).subspan(shifts.back()), first, elements});
        }
        CHECK(decode(outputs) == FileStatus::ok);
        for (std::size_t i = 0; i < count; ++i) {
            const auto from = tensors[outputs[i].index].begin() +
                              static_cast<std::ptrdiff_t>(outputs[i].first * width(outputs[i].index));
            CHECK(std::equal(outputs[i].bytes.begin(), outputs[i].bytes.end(), from));
        }
    }
};

// Two threads, whatever the order.
constexpr auto on_two_threads = [](std::size_t count, const auto& work) {
    std::atomic<std::size_t> left = count;
    const auto take_all = [&] {
        for (std::size_t i = left; i > 0;) {
            if (left.compare_exchange_weak(i, i - 1)) work(i - 1);
            i = left;
        }
    };
    std::thread other(take_all);
    take_all();
    other.join();
};

// Says nothing but zeros.
struct Zeros final : metaq::ForeignDecoder {
    std::atomic<int> calls = 0;
    metaq::Status decode(std::size_t, std::uint8_t, std::span<const std::uint8_t>,
                         std::span<const metaq::Block> blocks) noexcept override {
        ++calls;
        for (const metaq::Block& block : blocks) std::fill_n(block.symbols, block.size(), 0);
        return metaq::Status::ok;
    }
};

}  // namespace

TEST(parts_are_parts_of_the_whole) {
    check::Random random(1);
    for (const char* name : kFiles) {
        const Golden golden(name);
        if (golden.tensors.empty()) continue;
        for (int round = 0; round < 12; ++round) {
            metaq::DecodeOptions options;
            options.round_bytes = round % 2 == 0 ? 1 : options.round_bytes;
            options.piece_elements = round % 3 == 0 ? 7 : options.piece_elements;
            golden.check_parts(random, random.below(6), [&](const auto& outputs) -> FileStatus {
                return round % 4 == 0 ? golden.file.decode(outputs, options, on_two_threads)
                                      : golden.file.decode(outputs, options);
            });
        }
    }
}

TEST(sessions_find_again_what_they_kept) {
    check::Random random(2);
    for (const char* name : kFiles) {
        const Golden golden(name);
        if (golden.tensors.empty()) continue;
        for (const std::size_t cache_bytes : {std::size_t{0}, std::size_t{500}, std::size_t{1} << 20}) {
            metaq::FileSession session(golden.file, cache_bytes);
            std::atomic<std::size_t> decoded = 0;
            for (int round = 0; round < 20; ++round) {
                metaq::DecodeOptions options;
                options.decoded_chunks = &decoded;
                golden.check_parts(random, 1 + random.below(2), [&](const auto& outputs) -> FileStatus {
                    return session.decode(outputs, options, metaq::in_order);
                });
            }
            CHECK(cache_bytes < 1000 || decoded <= 3 * golden.file.chunks().size());
        }
    }
}

TEST(symbols_stand_for_the_values) {
    const Golden golden("network-rans");
    for (std::size_t i = 0; i < golden.tensors.size(); ++i) {
        const metaq::FileTensor& tensor = golden.file.tensors()[i];
        const metaq::FileCodebook& codebook = golden.file.codebooks()[tensor.codebook];
        if (tensor.kind != metaq::TensorKind::coded || codebook.kind != metaq::CodebookKind::uniform) continue;
        if (tensor.dtype != metaq::Dtype::float32) continue;
        std::vector<std::int32_t> symbols(tensor.size());
        metaq::DecodeOptions options;
        options.content = metaq::Content::symbols;
        const File::Output output{i, {reinterpret_cast<std::uint8_t*>(symbols.data()), 4 * symbols.size()}};
        CHECK(golden.file.decode(std::span(&output, 1), options) == FileStatus::ok);
        metaq::to_float32(symbols.data(), symbols.size(), codebook.step);
        CHECK(std::equal(golden.tensors[i].begin(), golden.tensors[i].end(), output.bytes.begin()));
    }
}

TEST(threads_may_round_otherwise) {
    for (const char* name : {"scaled", "network-mixing"}) {
        const Golden golden(name);
        std::fesetround(FE_UPWARD);
        const Golden found(name);
        CHECK(std::fegetround() == FE_UPWARD);
        std::fesetround(FE_TONEAREST);
        CHECK(found.tensors == golden.tensors);
    }
}

TEST(groups_cover_the_file) {
    for (const char* name : kFiles) {
        const Golden golden(name);
        for (const std::size_t threads : {1, 2, 64}) {
            std::size_t tensor = 0;
            while (tensor < golden.tensors.size()) {
                const std::size_t end = golden.file.end_of_group(tensor, threads);
                CHECK(end > tensor);
                if (end <= tensor) break;
                tensor = end;
            }
            CHECK(tensor == golden.tensors.size());
        }
    }
}

TEST(names_are_found) {
    const Golden golden("every-dtype");
    for (std::size_t i = 0; i < golden.tensors.size(); ++i) CHECK(golden.file.find(golden.file.tensors()[i].name) == i);
    CHECK(!golden.file.find("no such name"));
}

TEST(errors_say_where_they_are) {
    const Golden golden("network-mixing");
    for (std::size_t chunk = 0; chunk < golden.file.chunks().size(); ++chunk) {
        Bytes damaged = golden.data;
        damaged[static_cast<std::size_t>(golden.file.chunks()[chunk].payload.data() - golden.data.data())] ^= 1;
        File file;
        CHECK(file.open(damaged) == FileStatus::ok);
        std::vector<Bytes> tensors = golden.tensors;
        std::vector<File::Output> outputs;
        for (std::size_t i = 0; i < tensors.size(); ++i) outputs.push_back({i, tensors[i]});
        const FileError error = file.decode(outputs);
        CHECK(error == FileStatus::chunk_checksum);
        CHECK(error.chunk == chunk);
    }
}

TEST(differences_are_taken_only_where_they_are_asked_for) {
    const Bytes data = contents("differences/task");
    File file;
    const FileError error = file.open(data);
    CHECK(error == FileStatus::difference);
    CHECK(file.tensors().empty() && file.base().empty());
    const Bytes named(error.name.begin(), error.name.end());
    CHECK(file.open(data, {}, metaq::Differences::taken) == FileStatus::ok);
    CHECK(named.size() == metaq::kChecksumBytes && std::ranges::equal(named, file.base()));
    const auto index = file.find("features.weight");
    CHECK(index && file.tensors()[*index].dtype == metaq::Dtype::float32);
    Bytes values(static_cast<std::size_t>(file.tensors()[*index].size_bytes()));
    CHECK(file.decode(*index, values) == FileStatus::ok);
    const Golden model("network-mixing");
    CHECK(model.file.base().empty());
}

TEST(changed_tensors_are_made_of_the_base) {
    const Bytes data = contents("differences/lossless");
    File file;
    CHECK(file.open(data, {}, metaq::Differences::taken) == FileStatus::ok);
    const auto index = file.find("features.0.weight");
    const metaq::FileChange* const change = index ? file.tensors()[*index].change : nullptr;
    CHECK(change != nullptr && change->common == 150 && change->differing == 54 && change->shape.size() == 4);
    CHECK(change->source == "features.0.weight");
    const Golden base("network-mixing");
    Bytes weights = base.tensors[*base.file.find(change->source)];
    Bytes out(weights.size());
    CHECK(file.apply(*index, weights, out) == FileStatus::ok);
    CHECK(out != weights && metaq::crc32(out) == 0xc6999d1eu);
    CHECK(file.apply(*index, weights, std::span(out).first(out.size() - 1)) == FileStatus::wrong_base);
    CHECK(file.apply(*index, std::span(weights).first(4), out) == FileStatus::wrong_base);
    CHECK(file.apply(file.tensors().size(), weights, out) == FileStatus::bad_index);
    CHECK(file.apply(*index, weights, weights) == FileStatus::ok && weights == out);  // in place
    const auto renamed = file.find("after");
    CHECK(renamed && file.tensors()[*renamed].change->source == "before" && file.tensors()[*renamed].size() == 0);
    const Bytes any(2400, 7);
    Bytes same(2400);
    CHECK(file.apply(*renamed, any, same) == FileStatus::ok && same == any);
    const auto gone = file.find("gone");
    CHECK(gone && file.tensors()[*gone].kind == metaq::TensorKind::removed &&
          file.apply(*gone, any, {}) == FileStatus::bad_index);
    for (std::size_t chunk = 0; chunk < file.chunks().size(); ++chunk) {
        const metaq::Run& run = file.runs_of(file.chunks()[chunk])[0];
        const bool is_change = run.section == metaq::kChangeSection;
        CHECK(is_change || file.apply_chunk(chunk, any, same) == FileStatus::wrong_base);
        std::uint8_t* const nowhere = nullptr;
        CHECK(!is_change || file.decode_chunk(chunk, std::span(&nowhere, 1)) == FileStatus::wrong_base);
        CHECK(!is_change || run.symbols() == file.tensors()[run.tensor].change->common);
    }
}

TEST(coders_of_the_caller) {
    Bytes data = contents("network-gzip");
    File file;
    CHECK(file.open(data) == FileStatus::ok);
    std::vector<Bytes> tensors;
    std::vector<File::Output> outputs;
    for (const metaq::FileTensor& tensor : file.tensors())
        tensors.emplace_back(static_cast<std::size_t>(tensor.size_bytes()));
    for (std::size_t i = 0; i < tensors.size(); ++i) outputs.push_back({i, tensors[i]});
    CHECK(file.decode(outputs) == FileStatus::unsupported_coder);
    Zeros zeros;
    metaq::DecodeOptions options;
    options.foreign = &zeros;
    CHECK(file.decode(outputs, options) == FileStatus::ok);
    CHECK(zeros.calls > 0);
}
