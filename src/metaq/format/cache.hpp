// Chunks that were decoded for some of their tensors, kept in case others of them are asked for next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "metaq/base/buffer.hpp"

namespace metaq {

// The content of a chunk's runs, as far as it is held: in `memory`, or in the file itself.
struct DecodedChunk {
    Buffer<std::uint8_t> memory;
    Buffer<const std::uint8_t*> contents;  // by run of the chunk; null: not held
    std::uint64_t last_use = 0;
};

class ChunkCache {
public:
    // The chunk's contents by run; none if it is not held.
    std::span<const std::uint8_t* const> find(std::size_t chunk) const {
        if (chunk >= chunks_.size()) return {};
        return chunks_[chunk].contents;
    }

    // The chunk is used again.
    void touch(std::size_t chunk) { chunks_[chunk].last_use = ++uses_; }

    // False if memory runs out.
    [[nodiscard]] bool reserve(std::size_t chunks) { return chunks <= chunks_.size() || chunks_.resize(chunks); }

    // `reserve` has made room. Contents of the same chunk that were there before are gone.
    void put(std::size_t chunk, DecodedChunk&& decoded) {
        size_bytes_ += decoded.memory.size();
        size_bytes_ -= chunks_[chunk].memory.size();
        chunks_[chunk] = std::move(decoded);
        touch(chunk);
    }

    // Lets go of those that were not used for the longest time until no more than so many bytes are held.
    void shrink(std::size_t limit_bytes) {
        while (size_bytes_ > limit_bytes) {
            DecodedChunk* oldest = nullptr;
            for (DecodedChunk& chunk : chunks_) {
                if (!chunk.memory.empty() && (oldest == nullptr || chunk.last_use < oldest->last_use)) oldest = &chunk;
            }
            if (oldest == nullptr) return;
            size_bytes_ -= oldest->memory.size();
            *oldest = DecodedChunk();
        }
    }

private:
    Buffer<DecodedChunk> chunks_;
    std::size_t size_bytes_ = 0;
    std::uint64_t uses_ = 0;
};

}  // namespace metaq
