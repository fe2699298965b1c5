// Tables of frequencies of which some may be zero: how they are written and read.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/base/bits.hpp"

namespace metaq {

// Each frequency as its bit width, the difference from the one before, and the bits below its first; until the sum is
// complete. The last entry takes what is left.
template <class Sink>
void write_table(Sink& sink, std::span<const std::uint32_t> frequencies, unsigned precision) {
    std::uint32_t left = 1u << precision;
    int previous = 0;
    for (std::size_t i = 0; i + 1 < frequencies.size() && left > 0; ++i) {
        const int width = static_cast<int>(std::bit_width(frequencies[i]));
        put_golomb(sink, to_zigzag(width - previous), 0);
        if (width > 1) sink.put(frequencies[i] - (1u << (width - 1)), static_cast<unsigned>(width) - 1);
        previous = width;
        left -= frequencies[i];
    }
}

template <class Source>
bool read_table(Source& source, std::span<std::uint32_t> frequencies, unsigned precision) {
    std::uint32_t left = 1u << precision;
    std::int64_t width = 0;
    for (std::size_t i = 0; i + 1 < frequencies.size() && left > 0; ++i) {
        std::uint32_t difference = 0;
        if (!get_golomb(source, 0, difference)) return false;
        width += from_zigzag(difference);
        if (width < 0 || width > std::int64_t{precision} + 1) return false;
        const auto tail = static_cast<unsigned>(std::max<std::int64_t>(width, 1)) - 1;
        if (width > 0) frequencies[i] = (1u << tail) + source.get(tail);
        if (frequencies[i] > left) return false;
        left -= frequencies[i];
    }
    frequencies.back() += left;  // the loop has not read it
    return true;
}

}  // namespace metaq
