// Files that are read as they are decoded, so that each of their bytes is read once, and what is checked is what is used.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <span>
#include <stdexcept>

#include "metaq/format/byte_source.hpp"

namespace metaq::python {

// A file on disk, or what is in it from `begin` on. One that is shorter by now, or cannot be read, is a reading that fails; as a
// memory map it would end the process.
class DescriptorSource final : public ByteSource {
public:
    // Keeps a descriptor of its own of the same open file.
    DescriptorSource(int descriptor, std::uint64_t begin)
        : descriptor_(fcntl(descriptor, F_DUPFD_CLOEXEC, 0)), begin_(begin) {
        if (descriptor_ < 0) throw std::invalid_argument("descriptor: expected that of an open file, found another");
    }
    DescriptorSource(const DescriptorSource&) = delete;
    DescriptorSource& operator=(const DescriptorSource&) = delete;
    ~DescriptorSource() { close(descriptor_); }

    bool read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept override {
        while (!out.empty()) {
            const ssize_t count = pread(descriptor_, out.data(), out.size(), static_cast<off_t>(begin_ + offset));
            if (count < 0 && errno == EINTR) continue;
            if (count <= 0) return false;
            offset += static_cast<std::uint64_t>(count);
            out = out.subspan(static_cast<std::size_t>(count));
        }
        return true;
    }

private:
    int descriptor_;
    std::uint64_t begin_;
};

// Memory to which others may write meanwhile.
class MemorySource final : public ByteSource {
public:
    explicit MemorySource(std::span<const std::uint8_t> data) : data_(data) {}

    bool read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept override {
        if (offset > data_.size() || out.size() > data_.size() - offset) return false;
        std::copy_n(data_.data() + offset, out.size(), out.data());
        return true;
    }

private:
    std::span<const std::uint8_t> data_;
};

}  // namespace metaq::python
