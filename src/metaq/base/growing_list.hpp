// A BoundedList's face for a list that is as large as its elements: what does not fit into memory is dropped, and that is told.
#pragma once

#include <cstddef>

#include "metaq/base/buffer.hpp"

namespace metaq {

template <class T>
class GrowingList {
public:
    void append(const T& element) { is_out_of_memory_ |= !elements_.append(element); }

    void clear() { elements_.clear(); }

    // Whether an element was dropped: what the list says since then means nothing.
    bool is_out_of_memory() const { return is_out_of_memory_; }

    std::size_t size() const { return elements_.size(); }
    bool empty() const { return elements_.empty(); }
    const T& operator[](std::size_t index) const { return elements_[index]; }

private:
    Buffer<T> elements_;
    bool is_out_of_memory_ = false;
};

}  // namespace metaq
