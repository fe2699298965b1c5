// What a caller may ask of decoding: which elements, to where, and how.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/format/cache.hpp"
#include "metaq/format/chunk.hpp"

namespace metaq {

inline constexpr std::uint64_t kAllElements = UINT64_MAX;

// What is to be decoded, and to where: some elements of the tensor at `index`, as many bytes exactly.
struct FileOutput {
    std::size_t index;
    std::span<std::uint8_t> bytes;
    std::uint64_t first = 0;
    std::uint64_t count = kAllElements;
};

struct DecodeOptions {
    Content content = Content::values;
    ForeignDecoder* foreign = nullptr;
    ChunkCache* cache = nullptr;                         // for values only
    std::size_t cache_bytes = SIZE_MAX;                  // it is not filled with more
    std::atomic<std::size_t>* decoded_chunks = nullptr;  // counts them
    std::size_t round_bytes = 1u << 24;     // of planes, decoded before any are joined: more for many threads
    std::size_t piece_elements = 1u << 18;  // joined at a time, so that threads share a tensor
};

}  // namespace metaq
