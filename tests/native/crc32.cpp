// The checksum is that of zlib, whichever way of the machine's it is found.
#include "metaq/format/crc32.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "check.hpp"

namespace {

std::uint32_t bit_by_bit(std::span<const std::uint8_t> data) {
    std::uint32_t crc = 0xffffffffu;
    for (const std::uint8_t byte : data) {
        crc ^= byte;
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

TEST(the_checksum_is_the_published_one) {
    constexpr std::string_view text = "123456789";
    const std::vector<std::uint8_t> bytes(text.begin(), text.end());
    CHECK(metaq::crc32(bytes) == 0xcbf43926u);
}

TEST(every_size_at_every_address_has_its_checksum) {
    check::Random random(1);
    std::vector<std::uint8_t> bytes(1100);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random.below(256));
    for (std::size_t size = 0; size <= 1024; ++size) {
        const auto data = std::span<const std::uint8_t>(bytes).subspan(size % 64, size);
        CHECK(metaq::crc32(data) == bit_by_bit(data));
    }
}

}  // namespace
