// Values by a number, for those few numbers of many that are asked for: chains of entries, which do not move.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "metaq/mixing/stable_list.hpp"

namespace metaq::mixing {

// Keys are below 2^kKeyBits. A table has as many entries at most or, with more than 16 bits, fewer than 2^(12 + kBucketBits).
template <class T, unsigned kKeyBits, unsigned kBucketBits, std::size_t kChunkEntries>
class SparseTable {
public:
    // Null if there is none.
    T* find(std::uint32_t key) {
        const std::uint32_t hash = hashed(key);
        for (std::uint32_t number = first_[hash >> kTagBits]; number != 0;) {
            Entry& entry = entries_[number - 1];
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

    void clear() {
        first_.fill(0);
        entries_.clear();
    }

private:
    static constexpr bool kIsShort = kKeyBits <= 16;
    static constexpr unsigned kTagBits = kKeyBits - kBucketBits;
    static constexpr unsigned kNextBits = kIsShort ? 16 : 32 - kTagBits;
    static constexpr std::uint32_t kTagMask = (1u << kTagBits) - 1;
    static constexpr std::uint32_t kMostEntries = (1u << kNextBits) - 1;
    using Word = std::conditional_t<kIsShort, std::uint16_t, std::uint32_t>;

    struct Entry {
        Word tag : kTagBits;    // with the bucket it says which key
        Word next : kNextBits;  // number of the next entry of the bucket; 0: none
        T value;
    };

    // One to one.
    static std::uint32_t hashed(std::uint32_t key) { return key * 0x9e3779b1u & ((1u << kKeyBits) - 1); }

    [[gnu::noinline]] T* add(std::uint32_t hash, const T& value) {
        Word& first = first_[hash >> kTagBits];
        Entry entry;
        entry.tag = hash & kTagMask;
        entry.next = first & kMostEntries;
        entry.value = value;
        if (entries_.size() == kMostEntries || !entries_.append(entry)) return nullptr;
        first = static_cast<Word>(entries_.size());
        return &entries_[entries_.size() - 1].value;
    }

    std::array<Word, 1 << kBucketBits> first_{};  // numbers of entries, from 1 on
    StableList<Entry, kChunkEntries> entries_;
};

}  // namespace metaq::mixing
