// Exact k-means in one dimension: the best cut of sorted values into clusters, by dynamic programming.
//
// An optimal cluster is an interval, and the least error of the first i values in k clusters is
//     D_k(i) = min over j < i of  D_(k-1)(j) + cost(j, i),   cost(j, i) the squared error of values j ... i - 1 to their mean.
// The cost is concave (Monge), so the best j never falls as i rises, and halving the range of i again and again finds a
// whole row in O(n log n), reading three arrays from end to end.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace metaq::kmeans1d {

// Distinct values in rising order, each as often as its count, which is above zero.
struct Values {
    const double* value;
    const double* count;
    std::size_t size;
};

// Memory of the caller: arrays of size + 1, of `cuts` that many for every cluster but the first.
struct Workspace {
    double* count;    // of the values before i
    double* sum;      // of the values before i, taken from their mean
    double* squares;  // of the same
    double* least;    // D_k(i)
    double* open;     // D_(k-1)(j) less the squares before j
    std::int32_t* cuts;
};

// A running sum whose rounding errors are summed beside it (Neumaier).
class Sum {
public:
    void add(double term) {
        const double total = high_ + term;
        low_ += std::abs(high_) >= std::abs(term) ? (high_ - total) + term : (term - total) + high_;
        high_ = total;
    }
    double value() const { return high_ + low_; }

private:
    double high_ = 0.0;
    double low_ = 0.0;
};

// From their mean, so that values far from zero but close together lose no digits to cancellation.
inline void sum_up(const Values& values, const Workspace& work) {
    Sum count, sum, squares, weighted;
    for (std::size_t i = 0; i < values.size; ++i) {
        count.add(values.count[i]);
        weighted.add(values.count[i] * values.value[i]);
    }
    const double mean = weighted.value() / count.value();
    count = Sum();
    work.count[0] = work.sum[0] = work.squares[0] = 0.0;
    for (std::size_t i = 0; i < values.size; ++i) {
        const double centred = values.value[i] - mean;
        count.add(values.count[i]);
        sum.add(values.count[i] * centred);
        squares.add(values.count[i] * centred * centred);
        work.count[i + 1] = count.value();
        work.sum[i + 1] = sum.value();
        work.squares[i + 1] = squares.value();
    }
}

// The best j in [low, high] for the first i values, and what it costs. In blocks, so that the divisions, most of all
// the work, are done several at a time.
inline std::pair<double, std::size_t> best_cut(const Workspace& work, std::size_t i, std::size_t low,
                                               std::size_t high) {
    constexpr std::size_t kBlock = 32;
    const double count = work.count[i];
    const double sum = work.sum[i];
    double errors[kBlock];
    double least = HUGE_VAL;
    std::size_t best = low;
    for (std::size_t start = low; start <= high; start += kBlock) {
        const std::size_t size = std::min(kBlock, high - start + 1);
        for (std::size_t j = 0; j < size; ++j) {
            const double rest = sum - work.sum[start + j];
            errors[j] = work.open[start + j] - rest * rest / (count - work.count[start + j]);
        }
        const double* const found = std::min_element(errors, errors + size);
        if (*found < least) {
            least = *found;
            best = start + static_cast<std::size_t>(found - errors);
        }
    }
    return {std::max(least + work.squares[i], 0.0), best};
}

// D_k(i) for i in [first, last], whose best j lie in [low, high].
inline void fill(const Workspace& work, std::int32_t* cuts, std::size_t first, std::size_t last, std::size_t low,
                 std::size_t high) {
    while (first <= last) {
        const std::size_t middle = first + (last - first) / 2;
        const auto [error, cut] = best_cut(work, middle, low, std::min(high, middle - 1));
        work.least[middle] = error;
        cuts[middle] = static_cast<std::int32_t>(cut);
        if (middle > first) fill(work, cuts, first, middle - 1, low, cut);
        first = middle + 1;
        low = cut;
    }
}

// `ends` of each of `clusters` intervals, 1 to `size` of them; `size` below 2^31.
inline void solve(const Values& values, std::size_t clusters, const Workspace& work, std::int64_t* ends) {
    const std::size_t size = values.size;
    sum_up(values, work);
    for (std::size_t i = 1; i <= size; ++i) {
        work.least[i] = work.squares[i] - work.sum[i] * work.sum[i] / work.count[i];
    }
    for (std::size_t k = 2; k <= clusters; ++k) {
        for (std::size_t j = k - 1; j < size; ++j) work.open[j] = work.least[j] - work.squares[j];
        // Of the last row only its end is needed.
        const std::size_t first = k == clusters ? size : k;
        fill(work, work.cuts + (k - 2) * (size + 1), first, size, k - 1, size - 1);
    }
    std::size_t end = size;
    for (std::size_t k = clusters; k >= 1; --k) {
        ends[k - 1] = static_cast<std::int64_t>(end);
        if (k > 1) end = static_cast<std::size_t>(work.cuts[(k - 2) * (size + 1) + end]);
    }
}

}  // namespace metaq::kmeans1d
