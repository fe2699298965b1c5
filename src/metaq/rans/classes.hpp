// The encoder's choice of classes: which units share tables, so that tables, classes and data together are short.
//
// A k-means of the units' histograms under the cost in bits, on a sample of the units: classes grow from one in steps
// of about a half, each new one around the unit that its class suits least, and settle in a few rounds. Integers only,
// so that every machine writes the same bytes.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "metaq/base/bits.hpp"
#include "metaq/rans/tables.hpp"

namespace metaq::rans {

inline constexpr std::size_t kSampledUnits = 1024;
inline constexpr unsigned kMostChosenClasses = 32;
inline constexpr unsigned kRounds = 4;
inline constexpr unsigned kPatience = 3;  // after so many growths in vain the search ends

// The data of an encoder: for each symbol context * entries + entry, its key.
struct Keys {
    std::span<const std::uint16_t> keys;
    std::size_t entries = 0;
    unsigned contexts = 1;

    std::size_t count() const { return entries * contexts; }
};

// Histograms of units, without the keys that do not occur.
class UnitCounts {
public:
    struct Occurrence {
        std::uint16_t key;
        std::uint32_t count;
    };

    // Of every `stride`-th unit.
    UnitCounts(const Keys& keys, std::span<const std::size_t> ends, std::size_t stride) {
        std::vector<std::uint32_t> counts(keys.count());
        std::vector<std::uint16_t> seen;
        for (std::size_t unit = 0; unit < ends.size(); unit += stride) {
            const std::size_t begin = unit == 0 ? 0 : ends[unit - 1];
            for (const std::uint16_t key : keys.keys.subspan(begin, ends[unit] - begin)) {
                if (counts[key]++ == 0) seen.push_back(key);
            }
            starts_.push_back(occurrences_.size());
            for (const std::uint16_t key : seen) occurrences_.push_back({key, std::exchange(counts[key], 0)});
            seen.clear();
        }
        starts_.push_back(occurrences_.size());
    }

    std::size_t size() const { return starts_.size() - 1; }

    std::span<const Occurrence> operator[](std::size_t unit) const {
        return std::span(occurrences_).subspan(starts_[unit], starts_[unit + 1] - starts_[unit]);
    }

private:
    std::vector<Occurrence> occurrences_;
    std::vector<std::size_t> starts_;
};

// fixed_log2 of the leading 12 bits: near enough for choices, and from a table, since there are millions of them.
inline std::uint64_t quick_log2(std::uint64_t value) {
    constexpr unsigned kBits = 12;
    static const std::vector<std::uint32_t> logarithms = [] {
        std::vector<std::uint32_t> result;
        for (std::uint64_t i = 0; i < 1u << kBits; ++i) {
            result.push_back(i == 0 ? 0 : static_cast<std::uint32_t>(fixed_log2(i)));
        }
        return result;
    }();
    const auto width = static_cast<unsigned>(std::bit_width(value));
    const unsigned shift = width > kBits ? width - kBits : 0;
    return logarithms[value >> shift] + (std::uint64_t{shift} << 16);
}

// count * log2(count), times 2^16.
inline std::uint64_t weighted_log2(std::uint64_t count) { return count == 0 ? 0 : count * quick_log2(count); }

// Classes by their counts of keys, and what a key costs in each. Costs are in bits times 2^16.
class Classes {
public:
    Classes(const Keys& keys, unsigned count) : entries_(keys.entries), keys_(keys.count()), count_(count) {}

    unsigned count() const { return count_; }
    std::span<const std::uint64_t> counts(unsigned number) const {
        return std::span(counts_).subspan(number * keys_, keys_);
    }

    void count_units(const UnitCounts& units, std::span<const std::uint8_t> classes) {
        counts_.assign(count_ * keys_, 0);
        for (std::size_t unit = 0; unit < units.size(); ++unit) {
            for (const auto& [key, count] : units[unit]) counts_[classes[unit] * keys_ + key] += count;
        }
        update_costs();
    }

    // Puts every unit into the class in which it costs least.
    void assign(const UnitCounts& units, std::vector<std::uint8_t>& classes) const {
        classes.resize(units.size());
        for (std::size_t unit = 0; unit < units.size(); ++unit) {
            std::uint64_t least = UINT64_MAX;
            for (unsigned number = 0; number < count_; ++number) {
                const std::uint64_t found = cost(units[unit], number);
                if (found >= least) continue;
                least = found;
                classes[unit] = static_cast<std::uint8_t>(number);
            }
        }
    }

    std::uint64_t cost(std::span<const UnitCounts::Occurrence> unit, unsigned number) const {
        std::uint64_t sum = 0;
        const std::uint32_t* costs = costs_.data() + number * keys_;
        for (const auto& [key, count] : unit) sum += std::uint64_t{count} * costs[key];
        return sum;
    }

    // Adds `more` classes around the units that lose most, no two of one class.
    void split(const UnitCounts& units, std::span<const std::uint8_t> classes, unsigned more) {
        struct Seed {
            std::uint64_t loss = 0;      // of all units of the class
            std::uint64_t greatest = 0;  // of one
            std::size_t unit = 0;
        };
        std::vector<Seed> seeds(count_);
        for (std::size_t unit = 0; unit < units.size(); ++unit) {
            const std::uint64_t alone = cost_alone(units[unit]);
            const std::uint64_t together = cost(units[unit], classes[unit]);
            const std::uint64_t loss = together > alone ? together - alone : 0;
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

    static std::uint64_t cost_alone(std::span<const UnitCounts::Occurrence> unit) {
        std::uint64_t total = 0;
        std::uint64_t saved = 0;
        for (const auto& [key, count] : unit) {
            total += count;
            saved += weighted_log2(count);
        }
        return weighted_log2(total) - saved;
    }

    // Adds a class that is half this unit and half its class.
    void add_around(std::span<const UnitCounts::Occurrence> unit, unsigned number) {
        const std::vector<std::uint64_t> parent(counts(number).begin(), counts(number).end());
        std::uint64_t size = 0;
        for (const auto& [key, count] : unit) size += count;
        const std::uint64_t weight = std::accumulate(parent.begin(), parent.end(), std::uint64_t{0}) / size;
        counts_.insert(counts_.end(), parent.begin(), parent.end());
        for (const auto& [key, count] : unit) counts_[count_ * keys_ + key] += weight * count;
        ++count_;
    }

    // Costs are those of tables in which every entry occurs a sixteenth of a time more than it did.
    void update_costs() {
        costs_.clear();
        for_each_table([&](std::span<const std::uint64_t> table, std::uint64_t total) {
            const std::uint64_t whole = quick_log2(16 * total + table.size()) + 64;
            for (const std::uint64_t count : table) {
                costs_.push_back(static_cast<std::uint32_t>(whole - quick_log2(16 * count + 1)));
            }
        });
    }

    std::size_t entries_;
    std::size_t keys_;
    unsigned count_;
    std::vector<std::uint64_t> counts_;  // by class and key
    std::vector<std::uint32_t> costs_;
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

struct Partition {
    std::vector<std::uint8_t> classes;  // of each unit
    unsigned count = 1;
    std::uint64_t cost = 0;  // estimated bits times 2^16
};

inline std::uint64_t partition_cost(const Classes& model, std::span<const std::uint8_t> classes, std::size_t stride) {
    std::vector<std::uint64_t> sizes(model.count());
    for (const std::uint8_t value : classes) ++sizes[value];
    std::uint64_t class_cost = weighted_log2(classes.size());
    for (const std::uint64_t size : sizes) class_cost -= weighted_log2(size);
    return (model.data_cost() + class_cost) * stride + (model.table_bits() << 16);
}

// Chooses classes for all units; one class, unless several save bits.
inline Partition choose_partition(const Keys& keys, std::span<const std::size_t> ends) {
    const std::size_t stride = (ends.size() + kSampledUnits - 1) / kSampledUnits;
    const UnitCounts sample(keys, ends, stride);
    std::vector<std::uint8_t> classes(sample.size(), 0);
    Classes model(keys, 1);
    model.count_units(sample, classes);
    Classes best = model;
    Partition result{{}, 1, partition_cost(model, classes, stride)};
    unsigned in_vain = 0;
    while (model.count() < kMostChosenClasses && 2 * model.count() <= sample.size() && in_vain < kPatience) {
        model.split(sample, classes, (model.count() + 1) / 2);
        for (unsigned round = 0; round < kRounds; ++round) {
            model.assign(sample, classes);
            model.count_units(sample, classes);
        }
        const std::uint64_t cost = partition_cost(model, classes, stride);
        ++in_vain;
        if (cost < result.cost) {
            result.cost = cost;
            best = model;
            in_vain = 0;
        }
    }
    if (best.count() == 1) {
        result.classes.assign(ends.size(), 0);
        return result;
    }
    const UnitCounts units(keys, ends, 1);
    for (unsigned round = 0; round < 2; ++round) {
        best.assign(units, result.classes);
        best.count_units(units, result.classes);
    }
    result.count = renumber(result.classes);
    return result;
}

}  // namespace metaq::rans
