// The encoder's choice of classes: which units share tables, so that tables, classes and data together are short.
//
// A k-means of the units' histograms under the cost in bits, on a sample of the units: classes grow from one in steps
// of about a half, each new one around the unit that its class suits least, and settle in a few rounds. Integers only,
// so that every machine writes the same bytes.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "metaq/base/bits.hpp"
#include "metaq/rans/tables.hpp"
#include "metaq/rans/unit_costs.hpp"

namespace metaq::rans {

inline constexpr std::size_t kSampledUnits = 1024;
inline constexpr unsigned kMostChosenClasses = 32;
inline constexpr unsigned kRounds = 4;
inline constexpr unsigned kPatience = 3;  // after so many growths in vain the search ends

// fixed_log2 of the leading 12 bits: near enough for choices, and from a table, since there are millions of them.
inline constexpr unsigned kLogBits = 12;
inline constexpr auto kLogs = [] {
    std::array<std::uint32_t, 1u << kLogBits> result{};
    for (std::size_t i = 1; i < result.size(); ++i) result[i] = static_cast<std::uint32_t>(fixed_log2(i));
    return result;
}();
inline std::uint64_t quick_log2(std::uint64_t value) {
    const auto width = static_cast<unsigned>(std::bit_width(value));
    const unsigned shift = width > kLogBits ? width - kLogBits : 0;
    return kLogs[value >> shift] + (std::uint64_t{shift} << 16);
}

// count * log2(count), times 2^16.
inline std::uint64_t weighted_log2(std::uint64_t count) { return count == 0 ? 0 : count * quick_log2(count); }

// Classes by their counts of keys, and what a key costs in each. Costs are in bits times 2^16. A key is
// context * entries + entry.
class Classes {
public:
    // All units in one class.
    Classes(const UnitCounts& units, std::size_t entries, unsigned contexts)
        : entries_(entries), keys_(entries * contexts) {
        count_units(units, std::vector<std::uint8_t>(units.size()));
    }

    unsigned count() const { return count_; }

    // Puts every unit into the class in which it costs least.
    void assign(const UnitCounts& units, std::span<std::uint8_t> classes) const {
        assign_units(units, {costs_, stride_, count_, greatest_cost_}, classes);
    }

    void count_units(const UnitCounts& units, std::span<const std::uint8_t> classes) {
        counts_.assign(count_ * keys_, 0);
        for (std::size_t unit = 0; unit < units.size(); ++unit) {
            for (const auto& [key, count] : units[unit]) counts_[classes[unit] * keys_ + key] += count;
        }
        update_costs();
    }

    // Adds `more` classes around the units that lose most, no two of one class, and lets all settle. `alone` is what each
    // unit costs by itself.
    void grow(const UnitCounts& units, std::span<const std::uint64_t> alone, std::vector<std::uint8_t>& classes,
              unsigned more) {
        const unsigned before = count_;
        split(units, alone, classes, more);
        std::vector<std::uint8_t> next(classes.size());
        for (unsigned round = 0; round < kRounds; ++round) {
            assign(units, next);
            if (round == 0)  // so far the new ones had the counts that they were made around
                std::fill(counts_.begin() + static_cast<std::ptrdiff_t>(before * keys_), counts_.end(), 0);
            const bool have_moved = move_units(units, classes, next);
            classes.swap(next);
            if (round > 0 && !have_moved) return;
            update_costs();
        }
    }

    // What the data costs; and below, roughly, what the tables take: their frequencies at ten bits of precision.
    std::uint64_t data_cost() const {
        std::uint64_t sum = 0;
        for_each_table([&](std::span<const std::uint64_t> table, std::uint64_t total) {
            sum += weighted_log2(total);
            for (const std::uint64_t count : table) sum -= weighted_log2(count);
        });
        return sum;
    }
    std::uint64_t table_bits() const {
        std::uint64_t bits = 0;
        for_each_table([&](std::span<const std::uint64_t> table, std::uint64_t total) {
            for (const std::uint64_t count : table) {
                bits += count == 0 ? 1 : 2 + static_cast<unsigned>(std::bit_width((count << 10) / total));
            }
        });
        return bits;
    }

private:
    template <class Function>
    void for_each_table(Function function) const {
        for (std::size_t first = 0; first < counts_.size(); first += entries_) {
            const auto table = std::span(counts_).subspan(first, entries_);
            function(table, std::accumulate(table.begin(), table.end(), std::uint64_t{0}));
        }
    }

    std::uint64_t cost(std::span<const UnitCounts::Occurrence> unit, unsigned number) const {
        std::uint64_t sum = 0;
        for (const auto& [key, count] : unit) sum += std::uint64_t{count} * costs_[key * stride_ + number];
        return sum;
    }

    void split(const UnitCounts& units, std::span<const std::uint64_t> alone, std::span<const std::uint8_t> classes,
               unsigned more) {
        struct Seed {
            std::uint64_t loss = 0;      // of all units of the class
            std::uint64_t greatest = 0;  // of one
            std::size_t unit = 0;
        };
        std::vector<Seed> seeds(count_);
        for (std::size_t unit = 0; unit < units.size(); ++unit) {
            const std::uint64_t together = cost(units[unit], classes[unit]);
            const std::uint64_t loss = together > alone[unit] ? together - alone[unit] : 0;
            Seed& seed = seeds[classes[unit]];
            seed.loss += loss;
            if (loss >= seed.greatest) {
                seed.greatest = loss;
                seed.unit = unit;
            }
        }
        std::stable_sort(seeds.begin(), seeds.end(), [](const Seed& a, const Seed& b) { return a.loss > b.loss; });
        for (unsigned i = 0; i < more; ++i) add_around(units[seeds[i].unit], classes[seeds[i].unit]);
        update_costs();
    }

    // Adds a class that is half this unit and half its class.
    void add_around(std::span<const UnitCounts::Occurrence> unit, unsigned number) {
        const auto first = counts_.begin() + static_cast<std::ptrdiff_t>(number * keys_);
        const std::vector<std::uint64_t> parent(first, first + static_cast<std::ptrdiff_t>(keys_));
        std::uint64_t size = 0;
        for (const auto& [key, count] : unit) size += count;
        const std::uint64_t weight = std::accumulate(parent.begin(), parent.end(), std::uint64_t{0}) / size;
        counts_.insert(counts_.end(), parent.begin(), parent.end());
        for (const auto& [key, count] : unit) counts_[count_ * keys_ + key] += weight * count;
        ++count_;
    }

    // Counts units in their next classes instead. Returns whether any has another.
    bool move_units(const UnitCounts& units, std::span<const std::uint8_t> classes,
                    std::span<const std::uint8_t> next) {
        bool have_moved = false;
        for (std::size_t unit = 0; unit < units.size(); ++unit) {
            if (classes[unit] == next[unit]) continue;
            have_moved = true;
            std::uint64_t* const from = counts_.data() + classes[unit] * keys_;
            std::uint64_t* const to = counts_.data() + next[unit] * keys_;
            for (const auto& [key, count] : units[unit]) {
                from[key] -= count;
                to[key] += count;
            }
        }
        return have_moved;
    }

    // Costs are those of tables in which every entry occurs a sixteenth of a time more than it did.
    void update_costs() {
        stride_ = cost_stride(count_);
        costs_.resize(keys_ * stride_);
        greatest_cost_ = 0;
        std::size_t place = 0;
        for_each_table([&](std::span<const std::uint64_t> table, std::uint64_t total) {
            const std::uint64_t whole = quick_log2(16 * total + table.size()) + 64;
            greatest_cost_ = std::max(greatest_cost_, static_cast<std::uint32_t>(whole));
            std::uint32_t* next = costs_.data() + place % keys_ * stride_ + place / keys_;
            for (const std::uint64_t count : table) {
                *next = static_cast<std::uint32_t>(whole - quick_log2(16 * count + 1));
                next += stride_;
            }
            place += entries_;
        });
    }

    std::size_t entries_;
    std::size_t keys_;
    unsigned count_ = 1;
    std::vector<std::uint64_t> counts_;  // by class and key
    std::vector<std::uint32_t> costs_;   // by key and class
    std::size_t stride_ = 0;             // of keys in `costs_`
    std::uint32_t greatest_cost_ = 0;    // or more
};

// Numbers the classes that occur from zero, without gaps; returns how many there are.
inline unsigned renumber(std::vector<std::uint8_t>& classes) {
    std::vector<unsigned> numbers(kClassLimit, kClassLimit);
    unsigned count = 0;
    for (std::uint8_t& value : classes) {
        unsigned& number = numbers[value];
        if (number == kClassLimit) number = count++;
        value = static_cast<std::uint8_t>(number);
    }
    return count;
}

// Classes that a sample of the units suggests, and the bits times 2^16 that all units are estimated to take with them.
struct Partition {
    Classes classes;
    std::uint64_t cost;
};

inline std::uint64_t partition_cost(const Classes& model, std::span<const std::uint8_t> classes, std::size_t stride) {
    std::vector<std::uint64_t> sizes(model.count());
    for (const std::uint8_t value : classes) ++sizes[value];
    std::uint64_t class_cost = weighted_log2(classes.size());
    for (const std::uint64_t size : sizes) class_cost -= weighted_log2(size);
    return (model.data_cost() + class_cost) * stride + (model.table_bits() << 16);
}

inline std::uint64_t cost_alone(std::span<const UnitCounts::Occurrence> unit) {
    std::uint64_t total = 0;
    std::uint64_t saved = 0;
    for (const auto& [key, count] : unit) {
        total += count;
        saved += weighted_log2(count);
    }
    return weighted_log2(total) - saved;
}

// Every how manieth unit is in the sample.
inline std::size_t sample_stride(std::size_t units) { return (units + kSampledUnits - 1) / kSampledUnits; }

// Chooses classes on a sample, every `stride`-th of the units; one class, unless several save bits.
inline Partition choose_partition(const UnitCounts& sample, std::size_t entries, unsigned contexts,
                                  std::size_t stride) {
    std::vector<std::uint8_t> classes(sample.size(), 0);
    std::vector<std::uint64_t> alone;
    for (std::size_t unit = 0; unit < sample.size(); ++unit) alone.push_back(cost_alone(sample[unit]));
    Classes model(sample, entries, contexts);
    Partition best{model, partition_cost(model, classes, stride)};
    unsigned in_vain = 0;
    while (model.count() < kMostChosenClasses && 2 * model.count() <= sample.size() && in_vain < kPatience) {
        model.grow(sample, alone, classes, (model.count() + 1) / 2);
        const std::uint64_t cost = partition_cost(model, classes, stride);
        ++in_vain;
        if (cost < best.cost) {
            best = {model, cost};
            in_vain = 0;
        }
    }
    return best;
}

// The class of each unit, numbered without gaps.
inline std::vector<std::uint8_t> settled_classes(Classes& model, const UnitCounts& units) {
    std::vector<std::uint8_t> classes(units.size());
    model.assign(units, classes);
    model.count_units(units, classes);
    model.assign(units, classes);
    return classes;
}

}  // namespace metaq::rans
