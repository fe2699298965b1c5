// The simil-knapsack: lower convex hulls of costs over levels, and every weight's optimum on one of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace metaq::knapsack {

// A hull by cell: cell j lies between levels j and j + 1, within the edge from `left[j]` to `right[j]`, which rises by
// `slope[j]`. Arrays of levels - 1.
struct Hull {
    std::int64_t* left;
    std::int64_t* right;
    double* slope;
};

// Costs at increasing places, two levels or more.
struct Costs {
    const double* cost;
    const double* place;
    std::size_t levels;
};

// A monotone chain. Until the end the hull's arrays hold its edges, their right vertices in `left`; there are never
// more edges than cells so far, so that spreading them over their cells from the last on overwrites none.
inline void find_hull(const Costs& costs, const Hull& hull) {
    std::size_t edges = 0;
    for (std::size_t level = 1; level < costs.levels; ++level) {
        for (;;) {
            const std::size_t last = edges == 0 ? 0 : static_cast<std::size_t>(hull.left[edges - 1]);
            const double slope = (costs.cost[level] - costs.cost[last]) / (costs.place[level] - costs.place[last]);
            if (edges > 0 && hull.slope[edges - 1] > slope) {
                --edges;
                continue;
            }
            hull.left[edges] = static_cast<std::int64_t>(level);
            hull.slope[edges] = slope;
            ++edges;
            break;
        }
    }
    for (std::size_t end = costs.levels - 1; edges > 0;) {
        --edges;
        const double slope = hull.slope[edges];
        const std::size_t begin = edges == 0 ? 0 : static_cast<std::size_t>(hull.left[edges - 1]);
        std::fill(hull.left + begin, hull.left + end, static_cast<std::int64_t>(begin));
        std::fill(hull.right + begin, hull.right + end, static_cast<std::int64_t>(end));
        std::fill(hull.slope + begin, hull.slope + end, slope);
        end = begin;
    }
}

// What `solve` fills, for every weight.
struct Optima {
    std::int64_t* left;
    std::int64_t* right;
    double* mass;
    double* multiplier;
    double* value;
};

// Places are equally spaced to within `slack` < 1/3 of the step between them, or `slack` is negative. A weight that is
// not a number is taken for the first place.
template <typename Weight>
void solve(const Weight* weights, std::size_t size, const Costs& costs, const Hull& hull, double slack,
           const Optima& optima) {
    const double first = costs.place[0];
    const double last = costs.place[costs.levels - 1];
    const double cells_per_unit = static_cast<double>(costs.levels - 1) / (last - first);
    const auto last_cell = static_cast<std::int64_t>(costs.levels) - 2;
    for (std::size_t i = 0; i < size; ++i) {
        const auto weight = static_cast<double>(weights[i]);
        const double inside = !(weight >= first) ? first : std::min(weight, last);
        std::int64_t cell = 0;
        if (slack >= 0) {
            // Right, or one too high.
            cell = std::min(static_cast<std::int64_t>((inside - first) * cells_per_unit + 2 * slack), last_cell);
            cell -= inside < costs.place[cell];
        } else {
            const double* next = std::upper_bound(costs.place, costs.place + costs.levels, inside);
            cell = std::min<std::int64_t>(next - costs.place - 1, last_cell);
        }
        const std::int64_t left = hull.left[cell];
        const std::int64_t right = hull.right[cell];
        const double place = costs.place[right];
        const double slope = hull.slope[cell];
        const double before = place - inside;
        optima.left[i] = left;
        optima.right[i] = right;
        optima.mass[i] = before / (place - costs.place[left]);
        optima.multiplier[i] = inside == weight ? slope : 0.0;
        optima.value[i] = costs.cost[right] - before * slope;
    }
}

}  // namespace metaq::knapsack
