// Solvers: knapsacks over hulls, and k-means of numbers. Checks what comes in, releases the GIL while native code works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <tuple>

#include "metaq/base/buffer.hpp"
#include "metaq/solvers/kmeans1d.hpp"
#include "metaq/solvers/knapsack.hpp"
#include "python/arrays.hpp"

namespace nb = nanobind;

namespace metaq::python {

namespace {

// Left and right vertices, and slopes, of each cell; for several hulls in rows.
using HullArrays = std::tuple<Matrix<std::int64_t>, Matrix<std::int64_t>, Matrix<double>>;

void check_hulls(const HullArrays& hulls, std::size_t sets, std::size_t levels) {
    if (levels < 2) throw std::invalid_argument("levels: expected 2 or more, found fewer");
    const auto check = [&](const auto& array) {
        check_size("rows of hulls", sets, array.shape(0));
        check_size("cells of hulls", levels - 1, array.shape(1));
    };
    std::apply([&](const auto&... arrays) { (check(arrays), ...); }, hulls);
}

knapsack::Hull hull_at(const HullArrays& hulls, std::size_t set) {
    const auto& [left, right, slope] = hulls;
    const std::size_t first = set * left.shape(1);
    return {left.data() + first, right.data() + first, slope.data() + first};
}

// Fills the hulls (T, C - 1) of costs (T, C) at increasing places (T, C).
void find_hulls(const Matrix<const double>& costs, const Matrix<const double>& places, const HullArrays& hulls) {
    const std::size_t sets = costs.shape(0), levels = costs.shape(1);
    check_size("rows of places", sets, places.shape(0));
    check_size("columns of places", levels, places.shape(1));
    check_hulls(hulls, sets, levels);
    nb::gil_scoped_release release;
    for (std::size_t set = 0; set < sets; ++set) {
        knapsack::find_hull({costs.data() + set * levels, places.data() + set * levels, levels}, hull_at(hulls, set));
    }
}

// What knapsack::Optima has, for every weight.
using OptimaArrays = std::tuple<FlatArray<std::int64_t>, FlatArray<std::int64_t>, FlatArray<double>, FlatArray<double>,
                                FlatArray<double>>;

bool are_increasing(const Vector<const double>& places) {
    const double* const end = places.data() + places.size();
    return std::isfinite(places.data()[0]) && std::isfinite(end[-1]) &&
           std::adjacent_find(places.data(), end, [](double low, double high) { return !(low < high); }) == end;
}

bool are_vertices(const Matrix<std::int64_t>& vertices, std::size_t levels) {
    const auto is_vertex = [&](std::int64_t vertex) {
        return 0 <= vertex && vertex < static_cast<std::int64_t>(levels);
    };
    return std::all_of(vertices.data(), vertices.data() + vertices.size(), is_vertex);
}

// Fills the optima of all weights, from the one hull of the costs.
template <class Weight>
void solve_knapsacks(const FlatArray<const Weight>& weights, const Vector<const double>& costs,
                     const Vector<const double>& places, const HullArrays& hull, double slack,
                     const OptimaArrays& optima) {
    const std::size_t levels = costs.size();
    check_size("places", levels, places.size());
    check_hulls(hull, 1, levels);
    std::apply([&](const auto&... arrays) { (check_size("optima", weights.size(), arrays.size()), ...); }, optima);
    if (!(slack < 1.0 / 3)) throw std::invalid_argument("slack: expected less than a third of a step, found more");
    if (!are_increasing(places)) throw std::invalid_argument("places: expected increasing numbers, found others");
    if (!are_vertices(std::get<0>(hull), levels) || !are_vertices(std::get<1>(hull), levels)) {
        throw std::invalid_argument("hull: expected vertices among the places, found others");
    }
    const auto& [left, right, mass, multiplier, value] = optima;
    const knapsack::Optima out{left.data(), right.data(), mass.data(), multiplier.data(), value.data()};
    nb::gil_scoped_release release;
    knapsack::solve(weights.data(), weights.size(), {costs.data(), places.data(), levels}, hull_at(hull, 0), slack,
                    out);
}

// Fills the end of each of as many clusters as there are `ends`, of distinct values in rising order and how often each occurs.
void kmeans(const Vector<const double>& values, const Vector<const double>& counts, const Vector<std::int64_t>& ends) {
    const std::size_t size = values.size(), clusters = ends.size();
    check_size("counts", size, counts.size());
    if (clusters < 1 || clusters > size)
        throw std::invalid_argument("ends: expected 1 to as many as values, found another number");
    if (size > INT32_MAX) throw std::invalid_argument("values: expected fewer than 2^31, found more");
    constexpr std::size_t kArrays = 5;
    Buffer<double> numbers;
    Buffer<std::int32_t> cuts;
    if (!numbers.resize_for_overwrite(kArrays * (size + 1))) throw std::bad_alloc();
    if (!cuts.resize_for_overwrite((clusters - 1) * (size + 1))) throw std::bad_alloc();
    const auto array = [&](std::size_t i) { return numbers.data() + i * (size + 1); };
    const kmeans1d::Workspace work{array(0), array(1), array(2), array(3), array(4), cuts.data()};
    nb::gil_scoped_release release;
    kmeans1d::solve({values.data(), counts.data(), size}, clusters, work, ends.data());
}

}  // namespace

void bind_solvers(nb::module_& module) {
    // Without conversion: it would fill copies.
    module.def("find_hulls", checked(&find_hulls), nb::arg("costs").noconvert(), nb::arg("places").noconvert(),
               nb::arg("hulls").noconvert());
    const auto bind_knapsacks = [&](auto solve) {
        module.def("solve_knapsacks", checked(solve), nb::arg("weights").noconvert(), nb::arg("costs").noconvert(),
                   nb::arg("places").noconvert(), nb::arg("hull").noconvert(), nb::arg("slack"),
                   nb::arg("optima").noconvert());
    };
    bind_knapsacks(&solve_knapsacks<float>);
    bind_knapsacks(&solve_knapsacks<double>);
    module.def("kmeans", checked(&kmeans), nb::arg("values").noconvert(), nb::arg("counts").noconvert(),
               nb::arg("ends").noconvert());
}

}  // namespace metaq::python
