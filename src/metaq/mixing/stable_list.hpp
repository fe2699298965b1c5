// A list whose elements stay where they are while it grows: they lie in chunks.
#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

#include "metaq/base/buffer.hpp"
#include "metaq/base/memory.hpp"

namespace metaq::mixing {

template <class T, std::size_t kChunkElements>
class StableList {
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_default_constructible_v<T>);

public:
    StableList() = default;
    StableList(const StableList&) = delete;
    StableList& operator=(const StableList&) = delete;
    ~StableList() { clear(); }

    std::size_t size() const { return size_; }

    T& operator[](std::size_t i) { return (*chunks_[i / kChunkElements])[i % kChunkElements]; }

    // Returns false if there is no memory.
    [[nodiscard]] bool append(const T& element) {
        if (size_ == chunks_.size() * kChunkElements) {
            Owned<Chunk> chunk = make_owned<Chunk>();
            if (chunk == nullptr || !chunks_.append(chunk.get())) return false;
            allocator_ = chunk.get_deleter().allocator;
            (void)chunk.release();
        }
        (*this)[size_++] = element;
        return true;
    }

    void clear() {
        for (Chunk* const chunk : chunks_) Releaser<Chunk>{allocator_}(chunk);
        chunks_.clear();
        size_ = 0;
    }

private:
    using Chunk = std::array<T, kChunkElements>;

    Buffer<Chunk*> chunks_;
    std::size_t size_ = 0;
    const Allocator* allocator_ = nullptr;  // of all chunks: a list grows under one
};

}  // namespace metaq::mixing
