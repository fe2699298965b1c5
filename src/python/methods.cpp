// What training methods do to weights at every step: checks what comes in, releases the GIL while native code works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "metaq/methods/hemp.hpp"
#include "metaq/methods/quantized_view.hpp"
#include "python/arrays.hpp"
#include "python/in_threads.hpp"

namespace nb = nanobind;

namespace metaq::python {

namespace {

using Parameters = std::vector<FlatArray<float>>;
using Counts = Matrix<std::int64_t>;
using Slopes = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

constexpr std::size_t kPieceWeights = 1 << 18;  // a thread takes longer to start than to do less

void check_alike(const char* what, const Parameters& arrays, const Parameters& weights) {
    check_size(what, weights.size(), arrays.size());
    for (std::size_t i = 0; i < weights.size(); ++i) check_size(what, weights[i].size(), arrays[i].size());
}

void check_levels(const std::vector<float>& steps, int radius, const Parameters& weights) {
    check_size("steps", weights.size(), steps.size());
    if (radius < 0 || radius > quantized_view::kMostRadius)
        throw std::invalid_argument("radius: expected 0 to 2^12, found another");
}

// Parameters that are quantized and restored at every step: their arrays are checked once.
class QuantizedParameters {
public:
    QuantizedParameters(Parameters weights, Parameters latents)
        : weights_(std::move(weights)), latents_(std::move(latents)) {
        AlignmentCheck{}(weights_);
        AlignmentCheck{}(latents_);
        check_alike("latents", latents_, weights_);
        std::size_t total = 0;
        for (std::size_t t = 0; t < weights_.size(); ++t) {
            for (std::size_t begin = 0; begin < weights_[t].size(); begin += kPieceWeights)
                places_.push_back({t, begin});
            total += weights_[t].size();
        }
        most_threads_ = std::max<std::size_t>(1, total / kPieceWeights);
    }

    // Moves the weights to the latents and puts their quantized values, at most `reach` steps from zero, in their place; adds
    // to the counts (T, 2 radius + 1) how often each symbol occurs, those beyond the radius as the last.
    void write_quantized(const std::vector<float>& steps, int reach, int radius, const std::optional<Counts>& counts,
                         std::size_t threads) const {
        check_levels(steps, radius, weights_);
        if (reach < 0 || reach > quantized_view::kMostReach)
            throw std::invalid_argument("reach: expected 0 to 2^22, found another");
        const std::size_t levels = 2 * static_cast<std::size_t>(radius) + 1;
        if (counts) {
            check_size("rows of counts", weights_.size(), counts->shape(0));
            check_size("columns of counts", levels, counts->shape(1));
        }
        nb::gil_scoped_release release;
        InThreads{std::min(threads, most_threads_)}(places_.size(), [&](std::size_t place) {
            std::array<std::int64_t, 2 * quantized_view::kMostRadius + 1> own;
            const std::span<std::int64_t> found{own.data(), counts ? levels : 0};
            std::fill(found.begin(), found.end(), 0);
            quantized_view::write_quantized(piece(place, nullptr, steps), reach, radius, found);
            for (std::size_t i = 0; i < found.size(); ++i) {
                std::atomic_ref<std::int64_t>(counts->data()[places_[place].parameter * levels + i]) += found[i];
            }
        });
    }

    // Puts the latents back and adds to the gradients the strength times the slopes (T, 2 radius + 1, 2).
    void restore_latent(const Parameters& gradients, const std::vector<float>& steps, int radius, const Slopes& slopes,
                        float strength, std::size_t threads) const {
        check_alike("gradients", gradients, weights_);
        check_levels(steps, radius, weights_);
        const std::size_t levels = 2 * static_cast<std::size_t>(radius) + 1;
        check_size("rows of slopes", weights_.size(), slopes.shape(0));
        check_size("columns of slopes", levels, slopes.shape(1));
        check_size("slopes of a level", 2, slopes.shape(2));
        nb::gil_scoped_release release;
        InThreads{std::min(threads, most_threads_)}(places_.size(), [&](std::size_t place) {
            const float* const of_parameter = slopes.data() + places_[place].parameter * 2 * levels;
            quantized_view::restore_latent(piece(place, &gradients, steps), radius, of_parameter, strength);
        });
    }

private:
    struct Place {
        std::size_t parameter, begin;
    };

    quantized_view::Piece piece(std::size_t place, const Parameters* gradients, const std::vector<float>& steps) const {
        const auto [t, begin] = places_[place];
        float* const gradient = gradients == nullptr ? nullptr : (*gradients)[t].data() + begin;
        const std::size_t size = std::min(kPieceWeights, weights_[t].size() - begin);
        return {weights_[t].data() + begin, latents_[t].data() + begin, gradient, size, steps[t]};
    }

    Parameters weights_, latents_;
    std::vector<Place> places_;
    std::size_t most_threads_ = 1;  // of which each has a piece to do
};

// The layers of HEMP: their weights and gradients (none while tuples are counted), and how many levels each has; levels and
// inverse spacings (2, T, base); the cells and shares of all weights.
struct HempLayers {
    const Parameters& weights;
    const Parameters* gradients;
    const nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>& table;
    const std::vector<int>& level_counts;
    const Vector<std::int32_t>& cells;
    const Vector<float>& shares;

    std::size_t base() const { return table.shape(2); }

    void check() const {
        if (gradients != nullptr) check_alike("gradients", *gradients, weights);
        check_size("level counts", weights.size(), level_counts.size());
        check_size("parts of the table", 2, table.shape(0));
        check_size("rows of the table", weights.size(), table.shape(1));
        if (base() < 2) throw std::invalid_argument("table: expected 2 columns or more, found fewer");
        std::size_t size = 0;
        for (std::size_t t = 0; t < weights.size(); ++t) {
            size += weights[t].size();
            const bool fits = level_counts[t] >= 1 && static_cast<std::size_t>(level_counts[t]) <= base();
            if (!fits)
                throw std::invalid_argument("level counts: expected 1 to as many as the table's columns, found others");
        }
        check_size("cells", size, cells.size());
        check_size("shares", size, shares.size());
    }

    // Whether every cell lies between two columns of the table.
    bool has_good_cells() const {
        const auto last = static_cast<std::uint32_t>(base() - 2);
        std::uint32_t signs = 0;  // the highest bit is set once a cell is negative or beyond the last
        for (std::size_t i = 0; i < cells.size(); ++i) {
            const auto cell = static_cast<std::uint32_t>(cells.data()[i]);
            signs |= cell | (last - cell);
        }
        return signs >> 31 == 0;
    }

    template <class Visit>
    void for_each(const Visit& visit) const {
        const float* const levels = table.data();
        const float* const inverse_spacings = levels + weights.size() * base();
        std::size_t done = 0;
        for (std::size_t t = 0; t < weights.size(); ++t) {
            visit(hemp::Layer{weights[t].data(), gradients == nullptr ? nullptr : (*gradients)[t].data(),
                              weights[t].size(), levels + t * base(), inverse_spacings + t * base(), level_counts[t],
                              cells.data() + done, shares.data() + done});
            done += weights[t].size();
        }
    }
};

using HempTable = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void check_cells_of_tuples(std::size_t base, int order, std::size_t found) {
    if (order < 1 || order > hemp::kMostOrder) throw std::invalid_argument("order: expected 1 to 4, found another");
    std::size_t expected = 1;
    for (int m = 0; m < order; ++m) {
        if (expected > found / base) throw std::invalid_argument("tuples: expected base^order cells, found fewer");
        expected *= base;
    }
    check_size("cells of tuples", expected, found);
}

// Calls `work` with the order as a type.
template <class Work, int... kOrders>
void with_order(int order, const Work& work, std::integer_sequence<int, kOrders...>) {
    ((order == kOrders + 1 ? work(std::integral_constant<int, kOrders + 1>{}) : void()), ...);
}

template <class Work>
void with_order(int order, const Work& work) {
    with_order(order, work, std::make_integer_sequence<int, hemp::kMostOrder>{});
}

// Fills cells and shares, adds every tuple to the histogram of base^order; returns the sum of squared distances to levels.
double count_tuples(const Parameters& weights, const HempTable& table, const std::vector<int>& level_counts,
                    const Vector<std::int32_t>& cells, const Vector<float>& shares, int order,
                    const Vector<double>& histogram) {
    const HempLayers layers{weights, nullptr, table, level_counts, cells, shares};
    layers.check();
    check_cells_of_tuples(layers.base(), order, histogram.size());
    nb::gil_scoped_release release;
    double squares = 0.0;
    with_order(order, [&](auto constant) {
        layers.for_each([&](const hemp::Layer& layer) {
            squares += hemp::locate(layer);
            hemp::count_tuples<constant()>(layer, layers.base(), histogram.data());
        });
    });
    return squares;
}

// Adds the terms' gradient to the layers', given the cells and shares that `count_tuples` has filled and log2 of the masses.
void add_tuple_gradient(const Parameters& weights, const Parameters& gradients, const HempTable& table,
                        const std::vector<int>& level_counts, const Vector<std::int32_t>& cells,
                        const Vector<float>& shares, int order, const Vector<const float>& logs, float entropy,
                        float error, bool is_printed, bool has_insensitivity) {
    const HempLayers layers{weights, &gradients, table, level_counts, cells, shares};
    layers.check();
    check_cells_of_tuples(layers.base(), order, logs.size());
    const hemp::Weighting weighting{entropy, error, is_printed, has_insensitivity};
    bool is_good = false;
    {
        nb::gil_scoped_release release;
        is_good = layers.has_good_cells();
        if (is_good) {
            with_order(order, [&](auto constant) {
                layers.for_each([&](const hemp::Layer& layer) {
                    hemp::add_gradient<constant()>(layer, layers.base(), logs.data(), weighting);
                });
            });
        }
    }
    if (!is_good) throw std::invalid_argument("cells: expected those that count_tuples fills, found others");
}

}  // namespace

void bind_methods(nb::module_& module) {
    // Without conversion: it would fill copies.
    nb::class_<QuantizedParameters>(module, "QuantizedParameters")
        .def(nb::init<Parameters, Parameters>(), nb::arg("weights").noconvert(), nb::arg("latents").noconvert())
        .def("write_quantized", checked(&QuantizedParameters::write_quantized), nb::arg("steps"), nb::arg("reach"),
             nb::arg("radius"), nb::arg("counts").noconvert().none(), nb::arg("threads"))
        .def("restore_latent", checked(&QuantizedParameters::restore_latent), nb::arg("gradients").noconvert(),
             nb::arg("steps"), nb::arg("radius"), nb::arg("slopes").noconvert(), nb::arg("strength"),
             nb::arg("threads"));
    module.def("count_tuples", checked(&count_tuples), nb::arg("weights").noconvert(), nb::arg("table").noconvert(),
               nb::arg("level_counts"), nb::arg("cells").noconvert(), nb::arg("shares").noconvert(), nb::arg("order"),
               nb::arg("histogram").noconvert());
    module.def("add_tuple_gradient", checked(&add_tuple_gradient), nb::arg("weights").noconvert(),
               nb::arg("gradients").noconvert(), nb::arg("table").noconvert(), nb::arg("level_counts"),
               nb::arg("cells").noconvert(), nb::arg("shares").noconvert(), nb::arg("order"),
               nb::arg("logs").noconvert(), nb::arg("entropy"), nb::arg("error"), nb::arg("is_printed"),
               nb::arg("has_insensitivity"));
}

}  // namespace metaq::python
