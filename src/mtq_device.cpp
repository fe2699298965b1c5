// mtq_device FILE ARENA_BYTES: decodes a file or an image as a device does, and prints each tensor's index, size in bytes and
// checksum, and what the arena has taken. On a desktop it is what tests run; for a device it compiles without a system, see
// benchmarks/devices.py.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "metaq/device.hpp"

namespace {

constexpr int kFailure = 2;

bool read_file(const char* path, std::vector<std::uint8_t>& bytes) {
    std::FILE* const in = std::fopen(path, "rb");
    if (in == nullptr) return false;
    for (int byte = std::fgetc(in); byte != EOF; byte = std::fgetc(in))
        bytes.push_back(static_cast<std::uint8_t>(byte));
    std::fclose(in);
    return true;
}

int fail(const metaq::FileError& error, const metaq::device::Decoder& decoder) {
    std::fprintf(stderr, "mtq_device: %s: %s", metaq::name_of(error.status), metaq::describe(error.status));
    if (error.status == metaq::FileStatus::no_memory)
        std::fprintf(stderr, "; the arena takes at least %lu bytes",
                     static_cast<unsigned long>(decoder.needed_bytes()));
    std::fputs("\n", stderr);
    return kFailure;
}

int decode(const std::vector<std::uint8_t>& bytes, std::size_t arena_bytes) {
    std::vector<std::byte> memory(arena_bytes);
    metaq::device::Decoder decoder(memory);
    metaq::FileError error = decoder.open(bytes);
    if (error.status != metaq::FileStatus::ok) return fail(error, decoder);
    std::vector<std::vector<std::uint8_t>> tensors;
    for (const metaq::FileTensor& tensor : decoder.tensors())
        tensors.emplace_back(static_cast<std::size_t>(tensor.size_bytes()));
    error = decoder.decode([&](const metaq::device::Elements& elements) {
        const unsigned width = metaq::traits_of(decoder.tensors()[elements.tensor].dtype).bytes;
        std::uint8_t* out = tensors[elements.tensor].data() + elements.first * width;
        for (std::size_t i = 0; i < elements.count; ++i, out += elements.stride * width)
            std::memcpy(out, elements.bytes.data() + i * width, width);
        return true;
    });
    if (error.status != metaq::FileStatus::ok) return fail(error, decoder);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const metaq::FileTensor& tensor = decoder.tensors()[i];
        std::printf("%lu %lu %08lx\n", static_cast<unsigned long>(i), static_cast<unsigned long>(tensor.size_bytes()),
                    static_cast<unsigned long>(metaq::crc32(tensors[tensor.target])));
    }
    std::printf("arena %lu\n", static_cast<unsigned long>(decoder.most_bytes()));
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    std::vector<std::uint8_t> bytes;
    if (count != 3 || !read_file(arguments[1], bytes)) {
        std::fputs("usage: mtq_device FILE ARENA_BYTES\n", stderr);
        return kFailure;
    }
    return decode(bytes, std::strtoul(arguments[2], nullptr, 10));
}
