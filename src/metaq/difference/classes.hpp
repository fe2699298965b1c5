// Which exponents of the base share tables: neighbours are merged as long as that makes tables and data shorter.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "metaq/base/bits.hpp"
#include "metaq/base/frequencies.hpp"
#include "metaq/difference/tables.hpp"

namespace metaq::difference {

// How often elements of some exponents have changed or not after each history, and by what.
struct Counts {
    std::array<std::array<std::uint64_t, 2>, kHistories> flags{};
    std::array<std::uint64_t, kSymbols> symbols{};

    void add(const Counts& other) {
        for (std::size_t i = 0; i < kHistories; ++i) {
            for (std::size_t flag = 0; flag < 2; ++flag) flags[i][flag] += other.flags[i][flag];
        }
        for (std::size_t i = 0; i < kSymbols; ++i) symbols[i] += other.symbols[i];
    }

    bool is_empty() const {
        return std::all_of(flags.begin(), flags.end(),
                           [](const auto& of_history) { return of_history[0] + of_history[1] == 0; });
    }

    bool has_changes() const {
        return std::any_of(flags.begin(), flags.end(), [](const auto& of_history) { return of_history[1] > 0; });
    }
};

// 2^16 log2 of 1 to 2, and between them.
inline constexpr unsigned kLogWidth = 10;
inline constexpr auto kLogs = [] {
    std::array<std::uint32_t, (1u << kLogWidth) + 1> logs{};
    for (std::size_t i = 0; i < logs.size(); ++i)
        logs[i] = static_cast<std::uint32_t>(fixed_log2((std::uint64_t{1} << kLogWidth) + i) - (kLogWidth << 16));
    return logs;
}();

// As `fixed_log2`, of numbers below 2^32, in a fraction of the time.
inline std::uint64_t quick_log2(std::uint64_t value) {
    const auto whole = static_cast<unsigned>(std::bit_width(value)) - 1;
    const std::uint64_t mantissa = (value << (32 - whole)) & UINT32_MAX;
    const std::size_t place = mantissa >> (32 - kLogWidth);
    const std::uint64_t rest = mantissa >> (16 - kLogWidth) & 0xffff;
    const std::uint64_t step = kLogs[place + 1] - kLogs[place];
    return (std::uint64_t{whole} << 16) + kLogs[place] + (step * rest >> 16);
}

// In units of 2^-16 bits: the entropy of the counts, times their number.
template <class Numbers>
std::uint64_t entropy(const Numbers& counts) {
    std::uint64_t total = 0, own = 0;
    for (const std::uint64_t count : counts) {
        total += count;
        if (count > 0) own += count * quick_log2(count);
    }
    return total > 0 ? total * quick_log2(total) - std::min(own, total * quick_log2(total)) : 0;
}

// What a class of such counts takes: about as many bits for each entry of its tables, and the data.
inline std::uint64_t cost(const Counts& counts) {
    std::uint64_t bits = 8;
    std::uint64_t data = entropy(counts.symbols);
    for (const auto& of_history : counts.flags) {
        data += entropy(of_history);
        bits += of_history[0] > 0 && of_history[1] > 0 ? 6 + kShareBits : 6;
    }
    for (const std::uint64_t count : counts.symbols) bits += count > 0 ? 7 : 0;
    return data + (bits << 16);
}

struct ExponentClass {
    std::size_t first_key;
    Counts counts;
    std::uint64_t cost;
};

// The classes with the least cost that merging finds, at most kClassLimit, at least one.
inline std::vector<ExponentClass> choose_classes(const std::vector<Counts>& by_key) {
    std::vector<ExponentClass> classes;
    for (std::size_t key = 0; key < by_key.size(); ++key) {
        if (!by_key[key].is_empty()) classes.push_back({key, by_key[key], cost(by_key[key])});
    }
    if (classes.empty()) classes.push_back({0, {}, 0});
    const auto merged = [&](std::size_t i) {
        ExponentClass both = classes[i];
        both.counts.add(classes[i + 1].counts);
        both.cost = cost(both.counts);
        return both;
    };
    const auto gain = [&](std::size_t i) {
        return static_cast<std::int64_t>(classes[i].cost + classes[i + 1].cost) -
               static_cast<std::int64_t>(merged(i).cost);
    };
    std::vector<std::int64_t> gains;  // of merging each class with the next
    for (std::size_t i = 0; i + 1 < classes.size(); ++i) gains.push_back(gain(i));
    while (!gains.empty()) {
        const auto best = static_cast<std::size_t>(std::max_element(gains.begin(), gains.end()) - gains.begin());
        if (gains[best] < 0 && classes.size() <= kClassLimit) break;
        classes[best] = merged(best);
        classes.erase(classes.begin() + static_cast<std::ptrdiff_t>(best) + 1);
        gains.erase(gains.begin() + static_cast<std::ptrdiff_t>(best));
        if (best < gains.size()) gains[best] = gain(best);
        if (best > 0) gains[best - 1] = gain(best - 1);
    }
    classes[0].first_key = 0;
    return classes;
}

// Frequencies that a table can say, as near to the counts as they come; none that occurs is zero.
inline std::uint32_t unchanged_share(const std::array<std::uint64_t, 2>& flags) {
    constexpr std::uint32_t kAll = 1u << kFlagPrecision;
    if (flags[1] == 0) return kAll;
    if (flags[0] == 0) return 0;
    const bool is_most = flags[0] > flags[1];
    const std::uint64_t count = is_most ? flags[1] : flags[0];
    const std::uint64_t total = flags[0] + flags[1];
    auto lesser =
        static_cast<std::uint32_t>(std::max<std::uint64_t>(1, ((count << kFlagPrecision) + total / 2) / total));
    const auto width = static_cast<unsigned>(std::bit_width(lesser));
    if (width > kShareBits + 1) {
        const unsigned dropped = width - kShareBits - 1;
        lesser = std::min(kAll / 2, (lesser + (1u << (dropped - 1))) >> dropped << dropped);
    }
    return is_most ? kAll - lesser : lesser;
}

inline void set_tables(const std::vector<ExponentClass>& classes, Tables& tables) {
    tables.first_keys.resize(classes.size());
    for (std::size_t i = 0; i < classes.size(); ++i) {
        const auto& symbols = classes[i].counts.symbols;
        for (std::size_t symbol = 0; symbol < kSymbols; ++symbol) {
            if (symbols[symbol] > 0) tables.symbols = std::max(tables.symbols, symbol + 1);
        }
    }
    for (std::size_t i = 0; i < classes.size(); ++i) {
        tables.first_keys[i] = static_cast<std::uint16_t>(classes[i].first_key);
        const Counts& counts = classes[i].counts;
        for (std::size_t j = 0; j < kHistories; ++j) tables.unchanged[i][j] = unchanged_share(counts.flags[j]);
        if (!counts.has_changes()) continue;
        std::vector<std::uint64_t> positive;
        for (const std::uint64_t count : counts.symbols) {
            if (count > 0) positive.push_back(count);
        }
        const range::Frequencies scaled = range::scale_counts(positive, kSymbolPrecision);
        std::size_t next = 0;
        for (std::size_t symbol = 0; symbol < kSymbols; ++symbol)
            tables.frequencies[i][symbol] = counts.symbols[symbol] > 0 ? scaled.frequencies[next++] : 0;
    }
}

}  // namespace metaq::difference
