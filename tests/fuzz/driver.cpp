// A driver for where libFuzzer is missing: feeds a target with changed copies of files, the same ones every time.
//
//     fuzz_decoder SECONDS FILE...
//
// g++ -std=c++20 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -Isrc tests/fuzz/decoder.cpp
//     tests/fuzz/driver.cpp -o fuzz_decoder
// clang++ -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/decoder.cpp -o fuzz_decoder
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes changed(Bytes bytes, const std::vector<Bytes>& corpus, std::mt19937& random) {
    const auto below = [&](std::size_t limit) { return limit == 0 ? 0 : random() % limit; };
    const auto place = [&](std::size_t at) { return bytes.begin() + static_cast<std::ptrdiff_t>(at); };
    for (std::size_t changes = 1 + below(6); changes > 0; --changes) {
        const std::size_t at = below(bytes.size());
        switch (bytes.empty() ? 5 : below(7)) {
            case 0: bytes[at] ^= static_cast<std::uint8_t>(1u << below(8)); break;
            case 1: bytes[at] = static_cast<std::uint8_t>(random()); break;
            case 2: bytes[at] = below(2) == 0 ? 0 : 255; break;
            case 3: bytes.erase(place(at), place(at + below(std::min<std::size_t>(bytes.size() - at, 16)))); break;
            case 4: bytes.resize(at); break;
            case 5: bytes.insert(place(at), 1 + below(8), static_cast<std::uint8_t>(random())); break;
            default: {
                const Bytes& other = corpus[below(corpus.size())];
                const std::size_t from = below(other.size());
                const std::size_t size = std::min({below(64), bytes.size() - at, other.size() - from});
                std::copy_n(other.begin() + static_cast<std::ptrdiff_t>(from), size, place(at));
            }
        }
    }
    return bytes;
}

}  // namespace

int main(int count, char** arguments) {
    std::vector<Bytes> corpus;
    for (int i = 2; i < count; ++i) {
        std::ifstream in(arguments[i], std::ios::binary);
        corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    }
    if (corpus.empty()) {
        std::fputs("usage: SECONDS FILE...\n", stderr);
        return 2;
    }
    for (const Bytes& bytes : corpus) LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    std::mt19937 random(1);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(arguments[1]));
    std::size_t runs = 0;
    for (; std::chrono::steady_clock::now() < end; ++runs) {
        const Bytes bytes = changed(corpus[random() % corpus.size()], corpus, random);
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%zu runs\n", runs);
}
