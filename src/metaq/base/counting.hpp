// How often numbers occur.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace metaq {

// Counts small numbers in four tables in turn, because an addition waits for the one before it to the same place.
class Counter {
public:
    // Numbers are below `numbers`.
    explicit Counter(std::size_t numbers) : numbers_(numbers), counts_(kTables * numbers) {}

    // Adds number_of(0) to number_of(size - 1), fewer than 2^32 in all.
    template <class NumberOf>
    void add(std::size_t size, NumberOf number_of) {
        std::array<std::uint32_t*, kTables> tables;
        for (std::size_t i = 0; i < kTables; ++i) tables[i] = counts_.data() + i * numbers_;
        std::size_t i = 0;
        for (; i + kTables <= size; i += kTables) {
            for (std::size_t j = 0; j < kTables; ++j) ++tables[j][number_of(i + j)];
        }
        for (; i < size; ++i) ++tables[0][number_of(i)];
    }

    std::uint64_t count(std::size_t number) const {
        std::uint64_t sum = 0;
        for (std::size_t i = 0; i < kTables; ++i) sum += counts_[i * numbers_ + number];
        return sum;
    }

    // The count, which is zero from now on.
    std::uint64_t take(std::size_t number) {
        const std::uint64_t sum = count(number);
        for (std::size_t i = 0; i < kTables; ++i) counts_[i * numbers_ + number] = 0;
        return sum;
    }

private:
    static constexpr std::size_t kTables = 4;

    std::size_t numbers_;
    std::vector<std::uint32_t> counts_;
};

}  // namespace metaq
