// Histograms of units, and in which class each unit costs least: the encoder's inner loop, over eight classes at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "metaq/base/counting.hpp"
#include "metaq/rans/kernels.hpp"

namespace metaq::rans {

// Of some units, without the keys that do not occur.
class UnitCounts {
public:
    struct Occurrence {
        std::uint16_t key;
        std::uint32_t count;
    };

    // Of every `stride`-th unit. There are so many keys; `keys_between(begin, end)` are those of the symbols there, and may
    // live until it is called again.
    template <class KeysBetween>
    UnitCounts(std::size_t keys, std::span<const std::size_t> ends, std::size_t stride, KeysBetween keys_between)
        : counter_(keys), counts_(keys), seen_(keys + 1) {
        for (std::size_t unit = 0; unit < ends.size(); unit += stride) {
            const std::size_t begin = unit == 0 ? 0 : ends[unit - 1];
            const std::span<const std::uint16_t> found = keys_between(begin, ends[unit]);
            greatest_size_ = std::max(greatest_size_, found.size());
            starts_.push_back(occurrences_.size());
            found.size() < kDenseShare* keys ? count_few(found) : count_many(found, keys);
        }
        starts_.push_back(occurrences_.size());
    }

    std::size_t size() const { return starts_.size() - 1; }
    std::size_t greatest_size() const { return greatest_size_; }

    std::span<const Occurrence> operator[](std::size_t unit) const {
        return std::span(occurrences_).subspan(starts_[unit], starts_[unit + 1] - starts_[unit]);
    }

private:
    static constexpr std::size_t kDenseShare = 4;  // symbols for each key, where it pays to look at all keys

    void count_few(std::span<const std::uint16_t> found) {
        std::size_t distinct = 0;
        for (const std::uint16_t key : found) {
            seen_[distinct] = key;  // without a branch, which would be mispredicted often
            distinct += counts_[key]++ == 0 ? 1 : 0;
        }
        for (std::size_t i = 0; i < distinct; ++i) {
            occurrences_.push_back({seen_[i], counts_[seen_[i]]});
            counts_[seen_[i]] = 0;
        }
    }

    void count_many(std::span<const std::uint16_t> found, std::size_t keys) {
        counter_.add(found.size(), [&](std::size_t i) { return found[i]; });
        for (std::size_t key = 0; key < keys; ++key) {
            const auto count = static_cast<std::uint32_t>(counter_.take(key));
            if (count > 0) occurrences_.push_back({static_cast<std::uint16_t>(key), count});
        }
    }

    Counter counter_;
    std::vector<std::uint32_t> counts_;  // all zero between units
    std::vector<std::uint16_t> seen_;
    std::vector<Occurrence> occurrences_;
    std::vector<std::size_t> starts_;
    std::size_t greatest_size_ = 0;
};

// What a key costs in each of `count` classes: by key, every `stride`, and class.
struct KeyCosts {
    std::span<const std::uint32_t> costs;
    std::size_t stride;
    unsigned count;
    std::uint32_t greatest;
};

inline constexpr unsigned kVectorClasses = 8;

// Rows of costs are whole vectors.
inline std::size_t cost_stride(unsigned classes) {
    return (classes + kVectorClasses - 1) / kVectorClasses * std::size_t{kVectorClasses};
}

// The first of the least.
template <class Number>
[[gnu::always_inline]] inline std::uint8_t place_of_least(const Number* sums, unsigned count) {
    unsigned place = 0;
    for (unsigned number = 1; number < count; ++number) place = sums[number] < sums[place] ? number : place;
    return static_cast<std::uint8_t>(place);
}

#ifdef __GNUC__

// Where no sum reaches 2^31.
template <unsigned kVectors>
[[gnu::always_inline]] inline void assign_small(const UnitCounts& units, const KeyCosts& costs,
                                                std::span<std::uint8_t> classes) {
    using Vector = std::uint32_t __attribute__((vector_size(4 * kVectorClasses)));
    using Signed = std::int32_t __attribute__((vector_size(4 * kVectorClasses)));  // compares faster
    using Loaded = std::uint32_t __attribute__((vector_size(4 * kVectorClasses), aligned(4), may_alias));
    Signed is_no_class{};  // all ones behind the last class
    for (unsigned i = 0; i < kVectorClasses; ++i)
        is_no_class[i] = costs.count <= (kVectors - 1) * kVectorClasses + i ? -1 : 0;
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
        std::array<Vector, kVectors> sums{};
        for (const auto& [key, count] : units[unit]) {
            const std::uint32_t* row = costs.costs.data() + key * (kVectors * kVectorClasses);
            for (unsigned i = 0; i < kVectors; ++i)
                sums[i] += count * *reinterpret_cast<const Loaded*>(row + i * kVectorClasses);
        }
        sums[kVectors - 1] = is_no_class ? Vector{} + INT32_MAX : sums[kVectors - 1];
        Vector least = sums[0];
        Vector vector_of_least{};
        for (unsigned i = 1; i < kVectors; ++i) {
            const Signed is_less = reinterpret_cast<Signed>(sums[i]) < reinterpret_cast<Signed>(least);
            least = is_less ? sums[i] : least;
            vector_of_least = is_less ? Vector{} + i : vector_of_least;
        }
        std::uint64_t first = UINT64_MAX;  // the sum and then the class
        for (unsigned i = 0; i < kVectorClasses; ++i) {
            const std::uint64_t number = std::uint64_t{vector_of_least[i]} * kVectorClasses + i;
            first = std::min(first, std::uint64_t{least[i]} << 8 | number);
        }
        classes[unit] = static_cast<std::uint8_t>(first);
    }
}

#endif

[[gnu::always_inline]] inline void assign_any(const UnitCounts& units, const KeyCosts& costs,
                                              std::span<std::uint8_t> classes) {
    std::array<std::uint64_t, kClassLimit> sums;
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
        std::fill_n(sums.begin(), costs.stride, 0);
        for (const auto& [key, count] : units[unit]) {
            const std::uint32_t* row = costs.costs.data() + key * costs.stride;
            for (std::size_t i = 0; i < costs.stride; ++i) sums[i] += std::uint64_t{count} * row[i];
        }
        classes[unit] = place_of_least(sums.data(), costs.count);
    }
}

[[gnu::always_inline]] inline void assign_on(const UnitCounts& units, const KeyCosts& costs,
                                             std::span<std::uint8_t> classes) {
#ifdef __GNUC__
    if (units.greatest_size() * std::uint64_t{costs.greatest} < INT32_MAX) {
        switch (costs.stride / kVectorClasses) {
            case 1: return assign_small<1>(units, costs, classes);
            case 2: return assign_small<2>(units, costs, classes);
            case 3: return assign_small<3>(units, costs, classes);
            case 4: return assign_small<4>(units, costs, classes);
            case 5: return assign_small<5>(units, costs, classes);
            case 6: return assign_small<6>(units, costs, classes);
            default: break;
        }
    }
#endif
    assign_any(units, costs, classes);
}

#ifdef METAQ_RANS_X86
[[gnu::target("avx2"), gnu::flatten]] inline void assign_avx2(const UnitCounts& units, const KeyCosts& costs,
                                                              std::span<std::uint8_t> classes) {
    assign_on(units, costs, classes);
}
#endif

// The class, the first of several, in which each unit costs least.
inline void assign_units(const UnitCounts& units, const KeyCosts& costs, std::span<std::uint8_t> classes) {
#ifdef METAQ_RANS_X86
    if (is_available(Path::avx2)) return assign_avx2(units, costs, classes);
#endif
    assign_on(units, costs, classes);
}

}  // namespace metaq::rans
