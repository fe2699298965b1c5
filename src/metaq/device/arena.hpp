// An allocator in memory of the caller's, which knows how much of it was in use at most, and how much would have been needed.
//
// Blocks follow each other; each begins with its size. The first free one that is large enough is taken, and neighbours that are
// free become one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "metaq/base/memory.hpp"

namespace metaq::device {

class Arena {
public:
    // The memory is the caller's and outlives the arena, as the arena outlives all that is allocated from it.
    explicit Arena(std::span<std::byte> memory) {
        const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
        const std::size_t skipped = std::min<std::size_t>(memory.size(), -address % kAlignment);
        first_ = memory.data() + skipped;
        size_ = (memory.size() - skipped) / kAlignment * kAlignment;
        if (size_ > 0) block_at(0) = {size_, false};
    }
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    const Allocator* allocator() const { return &allocator_; }

    // Where the last block that was in use has ended at most: an arena of so many bytes, aligned like this one, is enough for what
    // was done so far.
    std::size_t most_bytes() const { return most_bytes_; }

    // How many bytes an arena had to have for the first allocation that failed; 0 if none has.
    std::size_t needed_bytes() const { return needed_bytes_; }

private:
    struct Block {
        std::size_t size : sizeof(std::size_t) * 8 - 1;  // in bytes, with this
        std::size_t is_used : 1;
    };
    static constexpr std::size_t kAlignment = 2 * sizeof(std::size_t);

    Block& block_at(std::size_t at) { return *reinterpret_cast<Block*>(first_ + at); }

    // What is allocated lies right behind the block's size, which is so placed that this is aligned.
    static constexpr std::size_t kSizeBytes = std::max(sizeof(Block), alignof(std::uint64_t));

    // Null if there is none. What is aligned more than blocks are lies in a larger one, behind the address of that.
    void* allocate(std::size_t size, std::size_t alignment) {
        if (alignment <= kSizeBytes) return allocate_block(size);
        auto* const block = static_cast<std::byte*>(allocate_block(size + alignment + sizeof(std::byte*)));
        if (block == nullptr) return nullptr;
        std::byte* const place = block + sizeof(std::byte*);
        std::byte* const aligned = place + -reinterpret_cast<std::uintptr_t>(place) % alignment;
        std::memcpy(aligned - sizeof(std::byte*), &block, sizeof(std::byte*));
        return aligned;
    }

    void release(void* memory, std::size_t alignment) {
        auto* block = static_cast<std::byte*>(memory);
        if (alignment > kSizeBytes) std::memcpy(&block, block - sizeof(std::byte*), sizeof(std::byte*));
        block_at(static_cast<std::size_t>(block - first_) - kSizeBytes).is_used = false;
    }

    void* allocate_block(std::size_t size) {
        if (size > SIZE_MAX / 4) return nullptr;
        std::size_t end_of_used = 0;
        const std::size_t wanted = (size + kSizeBytes + kAlignment - 1) / kAlignment * kAlignment;
        for (std::size_t at = 0; at < size_; at += block_at(at).size) {
            Block& block = block_at(at);
            if (block.is_used) {
                end_of_used = at + block.size;
                continue;
            }
            while (at + block.size < size_ && !block_at(at + block.size).is_used)
                block.size += block_at(at + block.size).size;
            if (block.size < wanted) continue;
            if (block.size > wanted) block_at(at + wanted) = {block.size - wanted, false};
            block = {wanted, true};
            most_bytes_ = std::max(most_bytes_, at + wanted);
            return first_ + at + kSizeBytes;
        }
        if (needed_bytes_ == 0) needed_bytes_ = end_of_used + wanted;
        return nullptr;
    }

    std::byte* first_ = nullptr;
    std::size_t size_ = 0, most_bytes_ = 0, needed_bytes_ = 0;
    Allocator allocator_{[](void* arena, std::size_t size, std::size_t alignment) {
        return static_cast<Arena*>(arena)->allocate(size, alignment);
    }, [](void* arena, void* memory, std::size_t, std::size_t alignment) {
        static_cast<Arena*>(arena)->release(memory, alignment);
    }, this};
};

}  // namespace metaq::device
