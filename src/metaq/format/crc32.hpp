// CRC-32 as in zlib and PNG, with which headers and chunks are sealed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/base/table.hpp"

namespace metaq {

inline std::uint32_t read_word(std::span<const std::uint8_t> bytes) {
    return bytes[0] | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 | std::uint32_t{bytes[3]} << 24;
}

#ifdef METAQ_SMALL
// Half a byte at a time: entry n is what the half byte n does to the checksum.
inline std::uint32_t crc32(std::span<const std::uint8_t> data) {
    static constexpr std::array<std::uint32_t, 16> kTable{
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    std::uint32_t crc = 0xffffffffu;
    for (const std::uint8_t byte : data) {
        crc ^= byte;
        crc = crc >> 4 ^ kTable[crc & 15];
        crc = crc >> 4 ^ kTable[crc & 15];
    }
    return ~crc;
}
#else
// Sixteen bytes at a time: entry n of table k is what a byte n does to the checksum once k bytes have followed it.
METAQ_MAKES_TABLE std::array<std::array<std::uint32_t, 256>, 16> make_crc_tables() {
    std::array<std::array<std::uint32_t, 256>, 16> entries{};
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t value = i;
        for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (0xedb88320u & (0u - (value & 1)));
        entries[0][i] = value;
    }
    for (std::size_t k = 1; k < entries.size(); ++k) {
        for (std::size_t i = 0; i < 256; ++i)
            entries[k][i] = entries[k - 1][i] >> 8 ^ entries[0][entries[k - 1][i] & 255];
    }
    return entries;
}
inline METAQ_TABLE auto kCrcTables = make_crc_tables();

inline std::uint32_t crc32(std::span<const std::uint8_t> data) {
    const auto& tables = kCrcTables;
    std::uint32_t crc = 0xffffffffu;
    for (; data.size() >= 16; data = data.subspan(16)) {
        crc ^= read_word(data);
        std::uint32_t next = tables[15][crc & 255] ^ tables[14][crc >> 8 & 255] ^ tables[13][crc >> 16 & 255] ^
                             tables[12][crc >> 24];
        for (std::size_t i = 4; i < 16; ++i) next ^= tables[15 - i][data[i]];
        crc = next;
    }
    for (const std::uint8_t byte : data) crc = crc >> 8 ^ tables[0][(crc ^ byte) & 255];
    return ~crc;
}
#endif

}  // namespace metaq
