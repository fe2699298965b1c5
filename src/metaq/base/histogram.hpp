// The encoder's view of a block: how often each symbol occurs, the alphabet that suits, and each symbol's entry in it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/base/alphabet.hpp"
#include "metaq/base/counting.hpp"
#include "metaq/base/symbols.hpp"

namespace metaq {

class Histogram {
public:
    // The block is not empty, and does not change while the histogram is used.
    explicit Histogram(const ConstBlock& block) { count(std::span(block.symbols, block.size())); }
    explicit Histogram(const BasicBlock<const std::int8_t>& block) { count(std::span(block.symbols, block.size())); }

    const Alphabet& alphabet() const { return alphabet_; }

    // How often each entry of the alphabet occurs; none is zero.
    const std::vector<std::uint64_t>& counts() const { return counts_; }

    // The entry of a symbol of the block.
    std::size_t entry(std::int32_t symbol) const {
        if (is_dense_) return entry_of_[offset(symbol)];
        const auto& listed = alphabet_.listed;
        const auto found = std::lower_bound(listed.begin(), listed.end(), symbol);
        const bool is_listed = found != listed.end() && *found == symbol;
        return is_listed ? static_cast<std::size_t>(found - listed.begin()) : listed.size();
    }

    // What `renamed` says of each symbol's entry, the symbols being of the block.
    template <class Symbol>
    void find_entries(std::span<const Symbol> symbols, std::span<const std::uint16_t> renamed,
                      std::uint16_t* out) const {
        if (!is_dense_) {
            for (const Symbol symbol : symbols) *out++ = renamed[entry(symbol)];
            return;
        }
        std::vector<std::uint16_t> of_offset(entry_of_.size());
        for (std::size_t i = 0; i < of_offset.size(); ++i) of_offset[i] = renamed[entry_of_[i]];
        const std::uint16_t* const found = of_offset.data();
        for (const Symbol symbol : symbols) *out++ = found[offset(symbol)];
    }

    // The bits that tell an escaped symbol from the others.
    std::uint32_t escaped_bits(std::int32_t symbol) const {
        return static_cast<std::uint32_t>(symbol) - static_cast<std::uint32_t>(alphabet_.escape_base);
    }

private:
    struct Occurrence {
        std::int32_t symbol;
        std::uint64_t count;
    };

    template <class Symbol>
    void count(std::span<const Symbol> symbols) {
        Symbol least = symbols[0], greatest = symbols[0];
        for (const Symbol symbol : symbols) {  // which, unlike std::minmax_element, is many at a time
            least = std::min(least, symbol);
            greatest = std::max(greatest, symbol);
        }
        least_ = least;
        span_ = static_cast<std::uint64_t>(std::int64_t{greatest} - least) + 1;
        // Symbols index an array if it takes about as much memory as the block at most; otherwise they are sorted and
        // searched.
        is_dense_ = span_ <= symbols.size() + kListedLimit;
        is_dense_ ? count_dense(symbols) : count_sorted(symbols);
        choose_listed();
    }

    std::size_t offset(std::int32_t symbol) const { return static_cast<std::size_t>(std::int64_t{symbol} - least_); }

    template <class Symbol>
    void count_dense(std::span<const Symbol> symbols) {
        Counter counter(static_cast<std::size_t>(span_));
        counter.add(symbols.size(), [&](std::size_t i) { return offset(symbols[i]); });
        for (std::size_t i = 0; i < span_; ++i) {
            const std::uint64_t count = counter.count(i);
            if (count == 0) continue;
            occurrences_.push_back({static_cast<std::int32_t>(least_ + static_cast<std::int64_t>(i)), count});
        }
    }

    template <class Symbol>
    void count_sorted(std::span<const Symbol> symbols) {
        std::vector<std::int32_t> sorted(symbols.begin(), symbols.end());
        std::sort(sorted.begin(), sorted.end());
        for (const std::int32_t symbol : sorted) {
            if (occurrences_.empty() || occurrences_.back().symbol != symbol) occurrences_.push_back({symbol, 0});
            ++occurrences_.back().count;
        }
    }

    // About 2^16 times the bits of table and data if just the symbols that occur `threshold` times or more are listed.
    std::uint64_t estimated_cost(std::uint64_t threshold) const {
        constexpr std::uint64_t kFrequencyBits = 4;
        constexpr std::uint64_t kGapOverheadBits = 2;  // of an Exp-Golomb code of a suitable order
        std::uint64_t listed = 0;
        std::uint64_t total = 0;
        std::uint64_t escaped = 0;
        std::uint64_t saved = 0;
        for (const Occurrence& occurrence : occurrences_) {
            total += occurrence.count;
            if (occurrence.count < threshold) {
                escaped += occurrence.count;
                continue;
            }
            ++listed;
            saved += occurrence.count * fixed_log2(occurrence.count);
        }
        if (escaped > 0) saved += escaped * fixed_log2(escaped);
        const std::uint64_t escape_bits = escaped * static_cast<std::uint64_t>(std::bit_width(span_ - 1));
        const std::uint64_t gap_bits = listed > 0 ? fixed_log2(span_ / listed) : 0;
        const std::uint64_t table = listed * (gap_bits + ((kFrequencyBits + kGapOverheadBits) << 16));
        return total * fixed_log2(total) - saved + (escape_bits << 16) + table;
    }

    // How often a symbol has to occur to be listed; 0 for a block of equal symbols, whose symbol is listed always.
    std::uint64_t best_threshold() const {
        if (occurrences_.size() == 1) return 0;
        std::uint64_t most = 0;
        for (const Occurrence& occurrence : occurrences_) most = std::max(most, occurrence.count);
        std::uint64_t best = most + 1;
        std::uint64_t best_cost = estimated_cost(best);
        for (std::uint64_t threshold = 1; threshold <= most; threshold += (threshold + 1) / 2) {
            const auto is_listed = [&](const Occurrence& occurrence) { return occurrence.count >= threshold; };
            if (std::count_if(occurrences_.begin(), occurrences_.end(), is_listed) > kListedLimit) continue;
            const std::uint64_t cost = estimated_cost(threshold);
            if (cost < best_cost) {
                best = threshold;
                best_cost = cost;
            }
        }
        return best;
    }

    void choose_listed() {
        const std::uint64_t threshold = best_threshold();
        std::uint64_t escaped = 0;
        std::int32_t greatest_escaped = 0;
        for (const Occurrence& occurrence : occurrences_) {
            if (occurrence.count >= threshold) {
                alphabet_.listed.append(occurrence.symbol);
                counts_.push_back(occurrence.count);
                continue;
            }
            if (escaped == 0) alphabet_.escape_base = occurrence.symbol;
            greatest_escaped = occurrence.symbol;
            escaped += occurrence.count;
        }
        if (escaped > 0) {
            const auto distance = static_cast<std::uint64_t>(std::int64_t{greatest_escaped} - alphabet_.escape_base);
            alphabet_.escape_width = std::max(1u, static_cast<unsigned>(std::bit_width(distance)));
            counts_.push_back(escaped);
        }
        if (is_dense_) index_entries();
    }

    void index_entries() {
        entry_of_.assign(static_cast<std::size_t>(span_), static_cast<std::uint16_t>(alphabet_.listed.size()));
        for (std::size_t i = 0; i < alphabet_.listed.size(); ++i) {
            entry_of_[offset(alphabet_.listed[i])] = static_cast<std::uint16_t>(i);
        }
    }

    std::int32_t least_ = 0;
    std::uint64_t span_ = 0;  // greatest - least + 1
    bool is_dense_ = false;
    std::vector<Occurrence> occurrences_;  // by increasing symbol
    Alphabet alphabet_;
    std::vector<std::uint64_t> counts_;
    std::vector<std::uint16_t> entry_of_;  // by distance from the least symbol, if dense
};

}  // namespace metaq
