// Values by a number, for those few numbers of many that are asked for: chains of entries, which lie in chunks that do not move.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "metaq/base/buffer.hpp"

namespace metaq::mixing {

// Keys are below 2^20. A table has fewer than 2^(12 + kBucketBits) entries.
template <class T, unsigned kBucketBits, std::size_t kChunkEntries>
class SparseTable {
public:
    // Null if there is none.
    T* find(std::uint32_t key) {
        const std::uint32_t hash = hashed(key);
        for (std::uint32_t number = first_[hash >> kTagBits]; number != 0;) {
            Entry& entry = at(number);
            if (entry.tag == (hash & kTagMask)) return &entry.value;
            number = entry.next;
        }
        return nullptr;
    }

    // What there is, or what `make()` gives, which then is there. Null if there is no memory.
    template <class Make>
    T* get(std::uint32_t key, const Make& make) {
        T* const found = find(key);
        return found != nullptr ? found : add(hashed(key), make());
    }

private:
    static constexpr unsigned kKeyBits = 20, kTagBits = kKeyBits - kBucketBits;
    static constexpr std::uint32_t kTagMask = (1u << kTagBits) - 1;
    static constexpr std::uint32_t kMostEntries = (1u << (32 - kTagBits)) - 1;

    struct Entry {
        std::uint32_t tag : kTagBits;        // with the bucket it says which key
        std::uint32_t next : 32 - kTagBits;  // number of the next entry of the bucket; 0: none
        T value;
    };

    // One to one.
    static std::uint32_t hashed(std::uint32_t key) { return key * 0x9e3779b1u & ((1u << kKeyBits) - 1); }

    Entry& at(std::uint32_t number) { return chunks_[(number - 1) / kChunkEntries][(number - 1) % kChunkEntries]; }

    [[gnu::noinline]] T* add(std::uint32_t hash, const T& value) {
        if (size_ == kMostEntries) return nullptr;
        if (size_ == chunks_.size() * kChunkEntries) {
            Buffer<Entry> chunk;
            if (!chunk.reserve(kChunkEntries) || !chunks_.append(std::move(chunk))) return nullptr;
        }
        std::uint32_t& first = first_[hash >> kTagBits];
        if (!chunks_.back().append(Entry{hash & kTagMask, first & kMostEntries, value})) return nullptr;
        first = ++size_;
        return &chunks_.back().back().value;
    }

    std::array<std::uint32_t, 1 << kBucketBits> first_{};  // numbers of entries, from 1 on
    Buffer<Buffer<Entry>> chunks_;
    std::uint32_t size_ = 0;
};

}  // namespace metaq::mixing
