// Code lengths of an optimal prefix code whose codewords are bounded in length (Larmore and Hirschberg 1990).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace metaq {

// Lengths l minimising sum counts[i] l[i] subject to sum 2^-l[i] = 1 and 1 <= l[i] <= limit.
// At least two counts, at most 2^limit; ties go by position, so the lengths are the same everywhere.
inline std::vector<std::uint8_t> package_merge(std::span<const std::uint64_t> counts, unsigned limit) {
    struct Coin {
        std::uint64_t weight;
        bool is_leaf;
    };
    std::vector<std::size_t> order(counts.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return counts[a] < counts[b]; });

    // Row d holds, in increasing weight, the leaves and the pairs made from row d - 1.
    std::vector<std::vector<Coin>> rows(limit);
    for (unsigned depth = 0; depth < limit; ++depth) {
        std::vector<Coin>& row = rows[depth];
        for (const std::size_t i : order) row.push_back({counts[i], true});
        if (depth == 0) continue;
        const std::vector<Coin>& below = rows[depth - 1];
        for (std::size_t i = 0; i + 1 < below.size(); i += 2) {
            row.push_back({below[i].weight + below[i + 1].weight, false});
        }
        std::inplace_merge(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(order.size()), row.end(),
                           [](const Coin& a, const Coin& b) { return a.weight < b.weight; });
    }

    // The first 2n - 2 coins of the last row pay for the code: for each leaf among them, its codeword grows by a bit.
    std::vector<std::uint8_t> lengths(counts.size(), 0);
    std::size_t taken = 2 * counts.size() - 2;
    for (unsigned depth = limit; depth-- > 0;) {
        const auto end = rows[depth].begin() + static_cast<std::ptrdiff_t>(taken);
        const auto is_leaf = [](const Coin& coin) { return coin.is_leaf; };
        const auto leaves = static_cast<std::size_t>(std::count_if(rows[depth].begin(), end, is_leaf));
        for (std::size_t i = 0; i < leaves; ++i) ++lengths[order[i]];
        taken = 2 * (taken - leaves);
    }
    return lengths;
}

}  // namespace metaq
