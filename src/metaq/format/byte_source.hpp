// Where the bytes of a file come from that is not in memory.
#pragma once

#include <cstdint>
#include <span>

namespace metaq {

inline constexpr std::uint64_t kUnknownSize = INT64_MAX;  // of a file whose end has not come yet

// Called from all threads that decode.
class ByteSource {
public:
    // False if the bytes cannot be had.
    virtual bool read(std::uint64_t offset, std::span<std::uint8_t> out) noexcept = 0;

protected:
    ~ByteSource() = default;
};

}  // namespace metaq
