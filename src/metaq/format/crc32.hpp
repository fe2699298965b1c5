// CRC-32 as in zlib and PNG, with which headers and chunks are sealed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/base/table.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(METAQ_NO_SIMD) && !defined(METAQ_SMALL)
#define METAQ_CRC_X86 1
#include <immintrin.h>
#endif

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

// The register after `data`: of the checksum, all bits inverted.
inline std::uint32_t crc_by_table(std::uint32_t crc, std::span<const std::uint8_t> data) {
    const auto& tables = kCrcTables;
    for (; data.size() >= 16; data = data.subspan(16)) {
        crc ^= read_word(data);
        std::uint32_t next = tables[15][crc & 255] ^ tables[14][crc >> 8 & 255] ^ tables[13][crc >> 16 & 255] ^
                             tables[12][crc >> 24];
        for (std::size_t i = 4; i < 16; ++i) next ^= tables[15 - i][data[i]];
        crc = next;
    }
    for (const std::uint8_t byte : data) crc = crc >> 8 ^ tables[0][(crc ^ byte) & 255];
    return crc;
}

#ifdef METAQ_CRC_X86
inline constexpr std::size_t kFoldedBytes = 64;  // folding begins with so many, and takes as many at a time

// The register after `data`, whose size is a multiple of 16 and at least kFoldedBytes, by products of polynomials without
// carries: 128 bits that lie n bits before the end count for as much as their halves times x^(n + 64) and x^n, reduced,
// added to what lies there (Gopal et al., "Fast CRC computation for generic polynomials using PCLMULQDQ", 2009).
[[gnu::target("pclmul")]] inline std::uint32_t crc_by_folding(std::uint32_t crc, std::span<const std::uint8_t> data) {
    const auto load = [&](std::size_t at) __attribute__((target("pclmul"))) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data.data() + at));
    };
    const auto fold = [](__m128i value, __m128i by, __m128i onto) __attribute__((target("pclmul"))) {
        const __m128i low = _mm_clmulepi64_si128(value, by, 0x00);
        const __m128i high = _mm_clmulepi64_si128(value, by, 0x11);
        return _mm_xor_si128(_mm_xor_si128(low, high), onto);
    };
    const __m128i by_512 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
    const __m128i by_128 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    __m128i parts[4];
    for (std::size_t i = 0; i < 4; ++i) parts[i] = load(16 * i);
    parts[0] = _mm_xor_si128(parts[0], _mm_cvtsi32_si128(static_cast<int>(crc)));
    std::size_t at = kFoldedBytes;
    for (; at + kFoldedBytes <= data.size(); at += kFoldedBytes) {
        for (std::size_t i = 0; i < 4; ++i) parts[i] = fold(parts[i], by_512, load(at + 16 * i));
    }
    __m128i sum = parts[0];
    for (std::size_t i = 1; i < 4; ++i) sum = fold(sum, by_128, parts[i]);
    for (; at < data.size(); at += 16) sum = fold(sum, by_128, load(at));
    // What 128 bits do to a register of zeros is what is left of them.
    std::array<std::uint8_t, 16> rest;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(rest.data()), sum);
    return crc_by_table(0, rest);
}
#endif

inline std::uint32_t crc32(std::span<const std::uint8_t> data) {
    std::uint32_t crc = 0xffffffffu;
#ifdef METAQ_CRC_X86
    if (data.size() >= kFoldedBytes && __builtin_cpu_supports("pclmul")) {
        const std::size_t folded = data.size() / 16 * 16;
        crc = crc_by_folding(crc, data.first(folded));
        data = data.subspan(folded);
    }
#endif
    return ~crc_by_table(crc, data);
}
#endif

}  // namespace metaq
