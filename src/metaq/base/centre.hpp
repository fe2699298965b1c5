// The symbol that adaptive coders code as zero.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "metaq/base/symbols.hpp"

namespace metaq {

// Whether all symbols of a block are equal; it has at least one.
inline bool is_constant(const ConstBlock& block) {
    return std::all_of(block.symbols, block.symbols + block.size(),
                       [&](std::int32_t symbol) { return symbol == block.symbols[0]; });
}

// The most frequent symbol of a block, and of several equally frequent ones the least; the block has at least one symbol.
inline std::int32_t most_frequent(const ConstBlock& block) {
    constexpr std::int64_t kCounted = 1 << 16;  // up to this span, an array counts the symbols
    const std::span<const std::int32_t> symbols(block.symbols, block.size());
    const auto [least, greatest] = std::minmax_element(symbols.begin(), symbols.end());
    if (std::int64_t{*greatest} - *least < kCounted) {
        std::vector<std::size_t> counts(static_cast<std::size_t>(*greatest - *least) + 1);
        for (const std::int32_t symbol : symbols) ++counts[static_cast<std::size_t>(symbol - *least)];
        return *least + static_cast<std::int32_t>(std::max_element(counts.begin(), counts.end()) - counts.begin());
    }
    std::unordered_map<std::int32_t, std::size_t> counts;
    for (const std::int32_t symbol : symbols) ++counts[symbol];
    return std::max_element(counts.begin(), counts.end(), [](const auto& first, const auto& second) {
        return first.second < second.second || (first.second == second.second && first.first > second.first);
    })->first;
}

}  // namespace metaq
