// Images: files for devices that have no room for the header's own coder, with their headers as they are before text coding.
//
//     "MTD\1"
//     uint32   size of the header
//     uint32   bytes of arena that decoding the image takes on a machine of 64 bits, and more than it takes on others
//     bytes    the header (docs/format.md, "Header")
//     uint32   CRC-32 of all bytes so far
//     bytes    the file's chunks, each with its checksum, as they are in the file
//
// Numbers are little-endian. An image is made for a program, not to be kept: another version of metaq may make other ones.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "metaq/format/crc32.hpp"
#include "metaq/format/status.hpp"

namespace metaq::device {

inline constexpr std::array<std::uint8_t, 4> kImageMagic{'M', 'T', 'D', 1};
inline constexpr std::size_t kImageBegin = kImageMagic.size() + 8;  // where its header lies

inline bool is_image(std::span<const std::uint8_t> data) {
    return data.size() >= kImageMagic.size() && std::equal(kImageMagic.begin(), kImageMagic.end(), data.begin());
}

struct Image {
    std::span<const std::uint8_t> header, chunks;
    std::size_t arena_bytes = 0;
};

// The parts of an image, its header's checksum checked.
inline FileStatus read_image(std::span<const std::uint8_t> data, Image& image) {
    if (!is_image(data)) return FileStatus::not_mtq;
    if (data.size() < kImageBegin + 4) return FileStatus::truncated;
    const std::size_t size = read_word(data.subspan(kImageMagic.size(), 4));
    if (size > data.size() - kImageBegin - 4) return FileStatus::truncated;
    const std::size_t end = kImageBegin + size;
    if (crc32(data.first(end)) != read_word(data.subspan(end, 4))) return FileStatus::header_checksum;
    image = {data.subspan(kImageBegin, size), data.subspan(end + 4),
             read_word(data.subspan(kImageMagic.size() + 4, 4))};
    return FileStatus::ok;
}

}  // namespace metaq::device
