// Solvers: knapsacks over hulls, and k-means of numbers.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <vector>

#include "metaq/solvers/kmeans1d.hpp"
#include "metaq/solvers/knapsack.hpp"
#include "python/arrays.hpp"

namespace nb = nanobind;

namespace metaq::python {

namespace {

// Addresses of contiguous arrays on the CPU, which the caller keeps alive and has checked: float64 costs, places and
// slopes, int64 vertices.
using HullAddresses = std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t>;

metaq::knapsack::Hull hull_at(const HullAddresses& hull, std::size_t cell) {
    const auto [left, right, slope] = hull;
    return {reinterpret_cast<std::int64_t*>(left) + cell, reinterpret_cast<std::int64_t*>(right) + cell,
            reinterpret_cast<double*>(slope) + cell};
}

void find_hulls(std::uintptr_t costs, std::uintptr_t places, std::size_t sets, std::size_t levels,
                const HullAddresses& hulls) {
    nb::gil_scoped_release release;
    for (std::size_t set = 0; set < sets; ++set) {
        const std::size_t first = set * levels;
        const metaq::knapsack::Costs row{reinterpret_cast<const double*>(costs) + first,
                                         reinterpret_cast<const double*>(places) + first, levels};
        metaq::knapsack::find_hull(row, hull_at(hulls, first - set));
    }
}

// `weights` are float32 or float64; `optima` as in metaq::knapsack::Optima.
void solve_knapsacks(std::uintptr_t weights, std::size_t size, bool is_double,
                     const std::tuple<std::uintptr_t, std::uintptr_t, std::size_t>& costs, const HullAddresses& hull,
                     double slack, const std::vector<std::uintptr_t>& optima) {
    nb::gil_scoped_release release;
    const auto [cost, place, levels] = costs;
    const metaq::knapsack::Costs row{reinterpret_cast<const double*>(cost), reinterpret_cast<const double*>(place),
                                     levels};
    const auto vertices = [&](std::size_t part) { return reinterpret_cast<std::int64_t*>(optima.at(part)); };
    const auto numbers = [&](std::size_t part) { return reinterpret_cast<double*>(optima.at(part)); };
    const metaq::knapsack::Optima out{vertices(0), vertices(1), numbers(2), numbers(3), numbers(4)};
    if (is_double) {
        metaq::knapsack::solve(reinterpret_cast<const double*>(weights), size, row, hull_at(hull, 0), slack, out);
    } else {
        metaq::knapsack::solve(reinterpret_cast<const float*>(weights), size, row, hull_at(hull, 0), slack, out);
    }
}

// `arrays`: the values and their counts, then the workspace in its order; all of the caller, who has checked them.
void kmeans(const Addresses& arrays, std::size_t size, std::size_t clusters, std::uintptr_t ends) {
    nb::gil_scoped_release release;
    const auto numbers = [&](std::size_t part) { return reinterpret_cast<double*>(arrays.at(part)); };
    const metaq::kmeans1d::Values values{numbers(0), numbers(1), size};
    const metaq::kmeans1d::Workspace work{numbers(2), numbers(3), numbers(4), numbers(5), numbers(6),
                                          reinterpret_cast<std::int32_t*>(arrays.at(7))};
    metaq::kmeans1d::solve(values, clusters, work, reinterpret_cast<std::int64_t*>(ends));
}

}  // namespace

void bind_solvers(nb::module_& module) {
    module.def("find_hulls", &find_hulls);
    module.def("solve_knapsacks", &solve_knapsacks);
    module.def("kmeans", &kmeans);
}

}  // namespace metaq::python
