// The table of a static arithmetic code: frequencies that sum to a power of two, chosen so that table and data together
// are short, and written entry by entry as the bit width (its difference from the one before) and the bits under it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <queue>
#include <span>
#include <utility>

#include "metaq/base/alphabet.hpp"
#include "metaq/base/bits.hpp"
#include "metaq/base/bounded_list.hpp"

namespace metaq::range {

inline constexpr unsigned kPrecisionLimit = 16;

using EntryNumbers = BoundedList<std::uint32_t, kEntryLimit>;

struct Frequencies {
    unsigned precision = 0;    // their sum is 2^precision, at most 2^kPrecisionLimit
    EntryNumbers frequencies;  // each at least one
};

inline EntryNumbers interval_starts(const Frequencies& table) {
    EntryNumbers starts(table.frequencies.size());
    std::exclusive_scan(table.frequencies.begin(), table.frequencies.end(), starts.begin(), 0u);
    return starts;
}

// The last frequency is not written: it is what the others leave of the sum.
template <class Sink>
void write_frequencies(Sink& sink, const Frequencies& table) {
    sink.put(table.precision, 5);
    int previous = static_cast<int>(table.precision);
    for (std::size_t i = 0; i + 1 < table.frequencies.size(); ++i) {
        const int width = static_cast<int>(std::bit_width(table.frequencies[i]));
        put_golomb(sink, to_zigzag(width - previous), 0);
        const unsigned tail = static_cast<unsigned>(width) - 1;
        sink.put(table.frequencies[i] - (1u << tail), tail);
        previous = width;
    }
}

// Reads as many frequencies as there is room for. Returns false unless they are positive and sum to a power of two in bounds.
template <class Source>
bool read_frequencies(Source& source, std::span<std::uint32_t> frequencies, unsigned& precision) {
    precision = source.get(5);
    if (precision > kPrecisionLimit) return false;
    std::uint32_t left = 1u << precision;
    std::int64_t width = precision;
    for (std::size_t i = 0; i + 1 < frequencies.size(); ++i) {
        std::uint32_t difference = 0;
        if (!get_golomb(source, 0, difference)) return false;
        width += from_zigzag(difference);
        if (width < 1 || width > std::int64_t{kPrecisionLimit}) return false;
        const unsigned tail = static_cast<unsigned>(width) - 1;
        frequencies[i] = (1u << tail) + source.get(tail);
        if (frequencies[i] >= left) return false;
        left -= frequencies[i];
    }
    frequencies.back() = left;
    return true;
}

// Frequencies proportional to the counts, none zero, that sum to 2^precision; there are at most that many counts.
inline Frequencies scale_counts(std::span<const std::uint64_t> counts, unsigned precision) {
    const std::uint64_t total = std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
    Frequencies table{precision, EntryNumbers(counts.size())};
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
        table.frequencies[i] = static_cast<std::uint32_t>(std::max<std::uint64_t>(1, (counts[i] << precision) / total));
        sum += table.frequencies[i];
    }
    // The sum is corrected by one unit at a time, where it saves most or costs least: about count / frequency bits.
    const bool is_short = sum < std::uint64_t{1} << precision;
    using Step = std::pair<std::uint64_t, std::size_t>;
    std::priority_queue<Step> steps;
    const auto push = [&](std::size_t i) {
        const std::uint32_t frequency = table.frequencies[i];
        if (is_short) steps.emplace((counts[i] << kPrecisionLimit) / (2 * frequency + 1), i);
        if (!is_short && frequency > 1) steps.emplace(~((counts[i] << kPrecisionLimit) / (2 * frequency - 1)), i);
    };
    for (std::size_t i = 0; i < counts.size(); ++i) push(i);
    for (; sum != std::uint64_t{1} << precision; is_short ? ++sum : --sum) {
        const std::size_t i = steps.top().second;
        steps.pop();
        is_short ? ++table.frequencies[i] : --table.frequencies[i];
        push(i);
    }
    return table;
}

// Chooses the precision that takes the fewest bits for table and data together.
inline Frequencies choose_frequencies(std::span<const std::uint64_t> counts) {
    Frequencies best;
    std::uint64_t best_cost = UINT64_MAX;
    const auto least_precision = static_cast<unsigned>(std::bit_width(counts.size() - 1));
    for (unsigned precision = least_precision; precision <= kPrecisionLimit; ++precision) {
        Frequencies table = scale_counts(counts, precision);
        BitCounter counter;
        write_frequencies(counter, table);
        std::uint64_t cost = counter.bits() << 16;
        for (std::size_t i = 0; i < counts.size(); ++i) {
            cost += counts[i] * ((std::uint64_t{precision} << 16) - fixed_log2(table.frequencies[i]));
        }
        if (cost < best_cost) {
            best = std::move(table);
            best_cost = cost;
        }
    }
    return best;
}

}  // namespace metaq::range
