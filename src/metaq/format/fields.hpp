// Bytes to numbers and texts, one after the other, every one checked to be there.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "metaq/format/crc32.hpp"
#include "metaq/format/status.hpp"

namespace metaq {

inline bool is_utf8(std::string_view text) {
    for (std::size_t i = 0; i < text.size();) {
        const auto byte = [&](std::size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
        const unsigned first = byte(i);
        const std::size_t more = first < 0x80   ? 0
                                 : first < 0xc2 ? 4
                                 : first < 0xe0 ? 1
                                 : first < 0xf0 ? 2
                                 : first < 0xf5 ? 3
                                                : 4;
        if (more == 4) return false;
        std::uint32_t point = more == 0 ? first : first & (0x3fu >> more);
        for (std::size_t n = 1; n <= more; ++n) {
            if (byte(i + n) >> 6 != 2) return false;
            point = point << 6 | (byte(i + n) & 0x3f);
        }
        if (more == 2 && (point < 0x800 || (point >> 11) == 0x1b)) return false;  // overlong, or a surrogate
        if (more == 3 && (point < 0x10000 || point > 0x10ffff)) return false;
        i += more + 1;
    }
    return true;
}

// Reads values one after the other. The first failure stays, and what is read from then on is zero.
class FieldReader {
public:
    explicit FieldReader(std::span<const std::uint8_t> data, FileStatus at_end) : data_(data), at_end_(at_end) {}

    const FileError& error() const { return error_; }
    FileError& error() { return error_; }
    bool is_ok() const { return error_.status == FileStatus::ok; }
    std::size_t offset() const { return offset_; }
    std::size_t left() const { return data_.size() - offset_; }

    // Fails with `otherwise` unless `holds`. False after any failure.
    bool expect(bool holds, FileStatus otherwise, std::uint64_t found = 0, std::uint64_t expected = 0,
                const char* what = "") {
        if (!is_ok() || holds) return is_ok();
        error_.what = what;
        error_.status = otherwise;
        error_.header_byte = offset_;
        error_.expected = number(expected);
        error_.found = number(found);
        return false;
    }

    // Fails with the sizes that the data has and would have to have.
    std::span<const std::uint8_t> take(std::uint64_t size) {
        const std::uint64_t end = offset_ + std::min(size, std::uint64_t{INT64_MAX} - offset_);
        if (!expect(size <= left(), at_end_, data_.size(), end)) return {};
        const auto taken = data_.subspan(offset_, static_cast<std::size_t>(size));
        offset_ += taken.size();
        return taken;
    }

    std::uint8_t byte() {
        const auto taken = take(1);
        return taken.empty() ? std::uint8_t{0} : taken[0];
    }

    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (unsigned i = 0; i < 9 && is_ok(); ++i) {  // nine bytes hold 63 bits
            const std::uint8_t next = byte();
            value |= std::uint64_t{next & 0x7fu} << 7 * i;
            if (next < 0x80) return expect(next > 0 || i == 0, FileStatus::bad_varint) ? value : 0;
        }
        expect(false, FileStatus::bad_varint);
        return 0;
    }

    // A number of items of at least `least_bytes` each, which are called `what`.
    std::uint64_t count(const char* what, std::uint64_t least_bytes) {
        const std::uint64_t number = varint();
        return check_count(number, what, least_bytes) ? number : 0;
    }

    bool check_count(std::uint64_t number, const char* what, std::uint64_t least_bytes) {
        const std::uint64_t room = left() / least_bytes;
        return expect(number <= room, at_end_, number, room, what);
    }

    float float32() {
        const auto bytes = take(4);
        return bytes.empty() ? 0 : std::bit_cast<float>(read_word(bytes));
    }

    std::string_view string() {
        const auto bytes = take(varint());
        const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        if (is_ok() && !expect(is_utf8(text), FileStatus::bad_utf8)) error_.name = text;
        return text;
    }

private:
    std::span<const std::uint8_t> data_;
    FileStatus at_end_;
    std::size_t offset_ = 0;
    FileError error_;
};

}  // namespace metaq
