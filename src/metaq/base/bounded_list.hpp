// A list with a limit to its length, which lies in the object itself: nothing is allocated, so nothing can fail.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <type_traits>

namespace metaq {

// Elements behind the last are left as they are, so that a list is as quick to make and to copy as it is long.
template <class T, std::size_t kLimit>
class BoundedList {
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_default_constructible_v<T>);

public:
    BoundedList() = default;
    explicit BoundedList(std::size_t size) { resize(size); }
    BoundedList(const BoundedList& other) { *this = std::span<const T>(other); }
    BoundedList& operator=(const BoundedList& other) { return *this = std::span<const T>(other); }
    BoundedList& operator=(std::span<const T> elements) {
        size_ = elements.size();
        std::copy(elements.begin(), elements.end(), elements_.begin());
        return *this;
    }

    // At most kLimit; elements that are added are zero.
    void resize(std::size_t size) {
        if (size > size_) std::fill(begin() + size_, begin() + size, T{});
        size_ = size;
    }

    // There is room for one more.
    void append(const T& element) { elements_[size_++] = element; }

    void clear() { size_ = 0; }

    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }

    T* data() { return elements_.data(); }
    const T* data() const { return elements_.data(); }
    T* begin() { return data(); }
    T* end() { return data() + size_; }
    const T* begin() const { return data(); }
    const T* end() const { return data() + size_; }

    T& operator[](std::size_t index) { return elements_[index]; }
    const T& operator[](std::size_t index) const { return elements_[index]; }
    T& back() { return elements_[size_ - 1]; }
    const T& back() const { return elements_[size_ - 1]; }

    operator std::span<T>() { return {data(), size_}; }
    operator std::span<const T>() const { return {data(), size_}; }

    friend bool operator==(const BoundedList& first, const BoundedList& second) {
        return std::equal(first.begin(), first.end(), second.begin(), second.end());
    }

private:
    std::size_t size_ = 0;
    std::array<T, kLimit> elements_;
};

}  // namespace metaq
