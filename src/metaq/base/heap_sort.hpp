// Sorting in a tenth of the code of std::sort, for browsers and devices, where few things are sorted.
#pragma once

#include <algorithm>

namespace metaq {

// `is_before` is a strict weak order. Elements that it does not tell apart come in any order.
template <class Iterator, class IsBefore>
void heap_sort(Iterator first, Iterator last, const IsBefore& is_before) {
    std::make_heap(first, last, is_before);
    std::sort_heap(first, last, is_before);
}

}  // namespace metaq
