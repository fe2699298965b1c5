// A growing array for code that may not throw: where std::vector would throw, `Buffer` returns false and stays as it was.
//
//     Buffer<std::int32_t> symbols;
//     if (!symbols.resize(count)) return Status::no_memory;
//
// A buffer can be moved, not copied. Every function that allocates is [[nodiscard]]; none throws. Memory comes from where
// memory.hpp says.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include "metaq/base/memory.hpp"

namespace metaq {

// Of buffers of all types, so that it is compiled once: memory for `capacity` bytes, to which the first `size` of `data` move.
// Null if there is no memory; `data` then stays as it is.
[[gnu::noinline]] inline void* regrown(void* data, std::size_t size, std::size_t old_capacity, std::size_t capacity,
                                       std::size_t alignment, const Allocator*& allocator) noexcept {
    void* const grown = allocate_bytes(current_allocator, capacity, alignment);
    if (grown == nullptr) return nullptr;
    if (size > 0) std::memcpy(grown, data, size);
    release_bytes(allocator, data, old_capacity, alignment);
    allocator = current_allocator;
    return grown;
}

// The capacity of a full buffer that takes more elements, of which there are `limit` at most: doubled, if that is enough.
[[gnu::noinline]] inline std::size_t grown_capacity(std::size_t size, std::size_t capacity,
                                                    std::size_t limit) noexcept {
    constexpr std::size_t kFirstCapacity = 8;
    return std::max({size, capacity > limit / 2 ? limit : 2 * capacity, kFirstCapacity});
}

template <class T>
class Buffer {
    static_assert(std::is_nothrow_move_constructible_v<T> && std::is_nothrow_destructible_v<T>);

public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)),
          size_(std::exchange(other.size_, 0)),
          capacity_(std::exchange(other.capacity_, 0)),
          allocator_(other.allocator_) {}
    Buffer& operator=(Buffer&& other) noexcept {
        Buffer(std::move(other)).swap(*this);
        return *this;
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() {
        std::destroy_n(data_, size_);
        release();
    }

    // Elements that are added are value-initialised: numbers are zero.
    [[nodiscard]] bool resize(std::size_t size) noexcept {
        if (!reserve(size)) return false;
        if (size > size_) std::uninitialized_value_construct_n(data_ + size_, size - size_);
        truncate(size);
        return true;
    }

    // Elements that are added hold anything until they are written.
    [[nodiscard]] bool resize_for_overwrite(std::size_t size) noexcept {
        static_assert(std::is_trivially_default_constructible_v<T>);
        if (!reserve(size)) return false;
        if (size > size_) std::uninitialized_default_construct_n(data_ + size_, size - size_);
        truncate(size);
        return true;
    }

    // Allocates for exactly `capacity` elements, if there is no room for them.
    [[nodiscard]] bool reserve(std::size_t capacity) noexcept {
        if (capacity <= capacity_) return true;
        if (capacity > kSizeLimit) return false;
        if constexpr (std::is_trivially_copyable_v<T>) {
            void* const grown = regrown(data_, size_ * sizeof(T), capacity_ * sizeof(T), capacity * sizeof(T),
                                        alignof(T), allocator_);
            if (grown == nullptr) return false;
            data_ = static_cast<T*>(grown);
            capacity_ = capacity;
            return true;
        }
        const Allocator* const allocator = current_allocator;
        T* const data = static_cast<T*>(allocate_bytes(allocator, capacity * sizeof(T), alignof(T)));
        if (data == nullptr) return false;
        std::uninitialized_move_n(data_, size_, data);
        std::destroy_n(data_, size_);
        release();
        data_ = data;
        capacity_ = capacity;
        allocator_ = allocator;
        return true;
    }

    // The capacity doubles when there is no room. The element must not be one of this buffer's own.
    [[nodiscard]] bool append(const T& element) noexcept
        requires std::is_nothrow_copy_constructible_v<T>
    {
        if (!make_room(1)) return false;
        std::construct_at(data_ + size_++, element);
        return true;
    }
    [[nodiscard]] bool append(T&& element) noexcept {
        if (!make_room(1)) return false;
        std::construct_at(data_ + size_++, std::move(element));
        return true;
    }
    [[nodiscard]] bool append_all(std::span<const T> elements) noexcept
        requires std::is_nothrow_copy_constructible_v<T>
    {
        if (!make_room(elements.size())) return false;
        std::uninitialized_copy(elements.begin(), elements.end(), data_ + size_);
        size_ += elements.size();
        return true;
    }

    // `size` zeros, or other value-initialised elements, in place of the elements that there are.
    [[nodiscard]] bool assign_zeros(std::size_t size) noexcept {
        clear();
        return resize(size);
    }

    // Destroys the elements behind the first `size`, and keeps the memory.
    void truncate(std::size_t size) noexcept {
        if (size < size_) std::destroy_n(data_ + size, size_ - size);
        size_ = size;
    }
    void clear() noexcept { truncate(0); }

    void swap(Buffer& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(capacity_, other.capacity_);
        std::swap(allocator_, other.allocator_);
    }

    T* data() noexcept { return data_; }
    const T* data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    std::size_t capacity() const noexcept { return capacity_; }
    bool empty() const noexcept { return size_ == 0; }

    T* begin() noexcept { return data_; }
    T* end() noexcept { return data_ + size_; }
    const T* begin() const noexcept { return data_; }
    const T* end() const noexcept { return data_ + size_; }

    T& operator[](std::size_t index) noexcept { return data_[index]; }
    const T& operator[](std::size_t index) const noexcept { return data_[index]; }
    T& front() noexcept { return data_[0]; }
    const T& front() const noexcept { return data_[0]; }
    T& back() noexcept { return data_[size_ - 1]; }
    const T& back() const noexcept { return data_[size_ - 1]; }

    operator std::span<T>() noexcept { return {data_, size_}; }
    operator std::span<const T>() const noexcept { return {data_, size_}; }

private:
    static constexpr std::size_t kSizeLimit = static_cast<std::size_t>(PTRDIFF_MAX) / sizeof(T);

    void release() noexcept { release_bytes(allocator_, data_, capacity_ * sizeof(T), alignof(T)); }

    [[nodiscard]] bool make_room(std::size_t more) noexcept {
        if (more <= capacity_ - size_) return true;
        if (more > kSizeLimit - size_) return false;
        return reserve(grown_capacity(size_ + more, capacity_, kSizeLimit));
    }

    T* data_ = nullptr;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
    const Allocator* allocator_ = nullptr;  // that `data_` is of
};

}  // namespace metaq
