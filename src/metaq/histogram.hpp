// The encoder's view of a block: how often each symbol occurs, the alphabet that suits, and each symbol's entry in it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <utility>
#include <vector>

#include "metaq/alphabet.hpp"
#include "metaq/symbols.hpp"

namespace metaq {

class Histogram {
public:
    // The block is not empty, and stays as it is while this is used.
    explicit Histogram(const ConstBlock& block) {
        const std::span symbols(block.symbols, block.size());
        const auto [least, greatest] = std::minmax_element(symbols.begin(), symbols.end());
        least_ = *least;
        span_ = static_cast<std::uint64_t>(std::int64_t{*greatest} - *least) + 1;
        // Directly indexed where that takes no more memory than the block or so, sorted and searched elsewhere.
        is_dense_ = span_ <= symbols.size() + kListedLimit;
        is_dense_ ? count_dense(symbols) : count_sorted(symbols);
        choose_listed();
    }

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

    // The bits that tell an escaped symbol from the others.
    std::uint32_t escaped_bits(std::int32_t symbol) const {
        return static_cast<std::uint32_t>(symbol) - static_cast<std::uint32_t>(alphabet_.escape_base);
    }

private:
    struct Occurrence {
        std::int32_t symbol;
        std::uint64_t count;
        bool is_listed;
    };

    std::size_t offset(std::int32_t symbol) const {
        return static_cast<std::size_t>(std::int64_t{symbol} - least_);
    }

    void count_dense(std::span<const std::int32_t> symbols) {
        std::vector<std::uint64_t> counts(static_cast<std::size_t>(span_));
        for (const std::int32_t symbol : symbols) ++counts[offset(symbol)];
        for (std::size_t i = 0; i < counts.size(); ++i) {
            if (counts[i] > 0) occurrences_.push_back({static_cast<std::int32_t>(least_ + static_cast<std::int64_t>(i)), counts[i], false});
        }
    }

    void count_sorted(std::span<const std::int32_t> symbols) {
        std::vector<std::int32_t> sorted(symbols.begin(), symbols.end());
        std::sort(sorted.begin(), sorted.end());
        for (const std::int32_t symbol : sorted) {
            if (occurrences_.empty() || occurrences_.back().symbol != symbol) occurrences_.push_back({symbol, 0, false});
            ++occurrences_.back().count;
        }
    }

    // Lists a symbol where its line in the table costs less than escaping its occurrences would: a frequency takes some
    // bits, and in an Exp-Golomb code the first symbol 2 log2 of its magnitude, the others 2 log2 of the gap.
    void mark_listed() {
        const auto escape_bits = static_cast<std::uint64_t>(std::bit_width(span_ - 1));
        std::int64_t previous = 0;
        std::vector<std::pair<std::uint64_t, std::size_t>> candidates;
        for (std::size_t i = 0; i < occurrences_.size(); ++i) {
            const auto gap = static_cast<std::uint64_t>(std::abs(occurrences_[i].symbol - previous));
            const auto table_bits = 2 * static_cast<std::uint64_t>(std::bit_width(gap)) + 3;
            if (occurrences_[i].count * escape_bits >= table_bits) candidates.emplace_back(occurrences_[i].count, i);
            previous = occurrences_[i].symbol;
        }
        if (occurrences_.size() == 1) candidates = {{occurrences_[0].count, 0}};
        if (candidates.size() > kListedLimit) {
            // Ties by position, so that every implementation of sorting gives the same bytes.
            std::sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) {
                return a.first != b.first ? a.first > b.first : a.second < b.second;
            });
            candidates.resize(kListedLimit);
        }
        for (const auto& candidate : candidates) occurrences_[candidate.second].is_listed = true;
    }

    void choose_listed() {
        mark_listed();
        std::uint64_t escaped = 0;
        std::int64_t greatest_escaped = 0;
        if (is_dense_) entry_of_.resize(static_cast<std::size_t>(span_));
        for (const Occurrence& occurrence : occurrences_) {
            if (occurrence.is_listed) {
                if (is_dense_) entry_of_[offset(occurrence.symbol)] = static_cast<std::uint16_t>(counts_.size());
                alphabet_.listed.push_back(occurrence.symbol);
                counts_.push_back(occurrence.count);
                continue;
            }
            if (escaped == 0) alphabet_.escape_base = occurrence.symbol;
            greatest_escaped = occurrence.symbol;
            escaped += occurrence.count;
        }
        if (escaped == 0) return;
        const auto distance = static_cast<std::uint64_t>(greatest_escaped - alphabet_.escape_base);
        alphabet_.escape_width = std::max(1u, static_cast<unsigned>(std::bit_width(distance)));
        for (const Occurrence& occurrence : occurrences_) {
            if (is_dense_ && !occurrence.is_listed) entry_of_[offset(occurrence.symbol)] = static_cast<std::uint16_t>(counts_.size());
        }
        counts_.push_back(escaped);
    }

    std::int32_t least_ = 0;
    std::uint64_t span_ = 0;  // greatest - least + 1
    bool is_dense_ = false;
    std::vector<Occurrence> occurrences_;
    Alphabet alphabet_;
    std::vector<std::uint64_t> counts_;
    std::vector<std::uint16_t> entry_of_;  // by distance from the least symbol, if dense
};

}  // namespace metaq
