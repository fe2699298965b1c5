// Files to images for small devices (device/image.hpp). This works on a desktop, where there is a heap.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/device.hpp"

namespace metaq::device {

inline constexpr std::size_t kMostArenaBytes = std::size_t{1} << 30;

inline void append_word(std::vector<std::uint8_t>& out, std::size_t word) {
    for (unsigned i = 0; i < 4; ++i) out.push_back(static_cast<std::uint8_t>(word >> 8 * i));
}

// The header of a file that is open, behind what an image says before it; and its checksum.
inline std::vector<std::uint8_t> make_image(const File& file, std::size_t arena_bytes) {
    std::vector<std::uint8_t> image(kImageMagic.begin(), kImageMagic.end());
    append_word(image, file.header_part().size());
    append_word(image, arena_bytes);
    image.insert(image.end(), file.header_part().begin(), file.header_part().end());
    append_word(image, crc32(image));
    image.insert(image.end(), file.chunk_part().begin(), file.chunk_part().end());
    return image;
}

// Decodes an image in arenas that grow until one is large enough, and says what was in use of it at most.
inline FileError measure_arena(std::span<const std::uint8_t> image, std::size_t& arena_bytes) {
    FileError error;
    for (std::size_t size = 1u << 16; size <= kMostArenaBytes; size *= 4) {
        std::vector<std::byte> memory(size);
        Decoder decoder(memory);
        error = decoder.open(image);
        if (error.status == FileStatus::ok) error = decoder.decode([](const Elements&) { return true; });
        arena_bytes = decoder.most_bytes();
        if (error.status != FileStatus::no_memory) return error;
    }
    return error;
}

// The image of a file that is open, every byte of which is checked. Its arena is measured on this machine.
inline FileError pack(const File& file, std::vector<std::uint8_t>& image) {
    std::size_t arena_bytes = 0;
    FileError error = measure_arena(make_image(file, 0), arena_bytes);
    error.name = {};  // of the image's header
    if (error.status == FileStatus::ok) image = make_image(file, arena_bytes);
    return error;
}

}  // namespace metaq::device
