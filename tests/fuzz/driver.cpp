// A driver for where libFuzzer is missing: feeds a target with changed copies of files, and of those copies that reached code
// which none had reached before; the same ones every time. An input with which the target ends the process, or for which it
// takes a minute, is left in the file `crash`.
//
//     fuzz_decoder SECONDS FILE...
//
// g++ -std=c++20 -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all -fsanitize-coverage=trace-pc -Isrc
//     tests/fuzz/decoder.cpp tests/fuzz/driver.cpp -o fuzz_decoder
// clang++ -std=c++20 -O1 -g1 -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/decoder.cpp -o fuzz_decoder
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size);
extern "C" void __sanitizer_set_death_callback(void (*callback)());

namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr unsigned kSecondsLimit = 60;

bool has_run[1 << 16];       // pairs of places in the code, one after the other
std::size_t last_place = 0;  // which ran
bool is_new = false;         // since it was reset: whether a pair ran for the first time
const Bytes* now = nullptr;  // the input that the target has

void save_input() {
    std::FILE* const file = std::fopen("crash", "wb");
    if (file == nullptr) return;
    std::fwrite(now->data(), 1, now->size(), file);
    std::fclose(file);
}

void end(int signal) {
    save_input();
    std::signal(signal, SIG_DFL);
    std::raise(signal);
}

// In memory of exactly its size, so that a read behind it is found. True if it reached something new.
bool run(const Bytes& bytes) {
    const Bytes exact(bytes.begin(), bytes.end());
    now = &exact;
    is_new = false;
    last_place = 0;
    alarm(kSecondsLimit);
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
    return is_new;
}

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

// Called wherever control may have gone another way. Places are told apart by their distance, which is the same every time.
extern "C" __attribute__((no_sanitize_coverage, no_sanitize("address", "undefined"))) void __sanitizer_cov_trace_pc() {
    const std::size_t place = reinterpret_cast<std::uintptr_t>(__builtin_return_address(0)) -
                              reinterpret_cast<std::uintptr_t>(&LLVMFuzzerTestOneInput);
    bool& has_pair_run = has_run[(place * 40503u ^ last_place) & 0xffff];
    is_new |= !has_pair_run;
    has_pair_run = true;
    last_place = place * 40503u >> 1;
}

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
    __sanitizer_set_death_callback(save_input);
    std::signal(SIGABRT, end);
    std::signal(SIGALRM, end);
    for (const Bytes& bytes : corpus) run(bytes);
    std::mt19937 random(1);
    const auto end_time = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(arguments[1]));
    const std::size_t given = corpus.size();
    std::size_t runs = 0;
    for (; std::chrono::steady_clock::now() < end_time; ++runs) {
        const Bytes bytes = changed(corpus[random() % corpus.size()], corpus, random);
        if (run(bytes)) corpus.push_back(bytes);
    }
    std::printf("%zu new inputs\n%zu runs\n", corpus.size() - given, runs);
}
