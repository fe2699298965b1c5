// What training methods do to weights at every step.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "metaq/methods/hemp.hpp"
#include "metaq/methods/quantized_view.hpp"
#include "python/arrays.hpp"

namespace nb = nanobind;

namespace metaq::python {

namespace {

void show_quantized(const Addresses& weights, const Addresses& latents, const std::vector<std::size_t>& sizes,
                    const std::vector<float>& steps, int radius, std::uintptr_t counts) {
    nb::gil_scoped_release release;
    auto* const first = reinterpret_cast<std::int64_t*>(counts);
    const std::size_t levels = 2 * static_cast<std::size_t>(radius) + 1;
    for (std::size_t t = 0; t < sizes.size(); ++t) {
        const metaq::quantized_view::Parameter parameter{floats(weights[t]), floats(latents[t]), nullptr, sizes[t], steps[t]};
        metaq::quantized_view::show(parameter, radius, first == nullptr ? nullptr : first + t * levels);
    }
}

void take_back_latent(const Addresses& weights, const Addresses& latents, const Addresses& gradients,
                      const std::vector<std::size_t>& sizes, const std::vector<float>& steps, int radius,
                      std::uintptr_t slopes, float strength) {
    nb::gil_scoped_release release;
    const std::size_t stride = 2 * (2 * static_cast<std::size_t>(radius) + 1);
    for (std::size_t t = 0; t < sizes.size(); ++t) {
        const metaq::quantized_view::Parameter parameter{floats(weights[t]), floats(latents[t]), floats(gradients[t]),
                                                         sizes[t], steps[t]};
        metaq::quantized_view::take_back(parameter, radius, floats(slopes) + t * stride, strength);
    }
}

// Layers of HEMP: addresses of their weights, gradients (or none), sizes, how many levels each has, and the addresses of
// what is there for all: float32 (T, base) levels and inverse spacings, int32 cells and float32 shares of all weights.
using HempLayers = std::tuple<Addresses, Addresses, std::vector<std::size_t>, std::vector<int>, std::size_t,
                              std::vector<std::uintptr_t>>;

template <typename Visit>
void visit_layers(const HempLayers& layers, const Visit& visit) {
    const auto& [weights, gradients, sizes, level_counts, base, common] = layers;
    std::size_t done = 0;
    for (std::size_t t = 0; t < sizes.size(); ++t) {
        visit(metaq::hemp::Layer{floats(weights.at(t)), gradients.empty() ? nullptr : floats(gradients.at(t)), sizes[t],
                                 floats(common.at(0)) + t * base, floats(common.at(1)) + t * base, level_counts.at(t),
                                 reinterpret_cast<std::int32_t*>(common.at(2)) + done, floats(common.at(3)) + done});
        done += sizes[t];
    }
}

// Fills cells and shares, adds every tuple to the float64 histogram; returns the sum of squared distances to levels.
template <int Order>
double count_tuples(const HempLayers& layers, std::uintptr_t histogram) {
    nb::gil_scoped_release release;
    double squares = 0.0;
    visit_layers(layers, [&](const metaq::hemp::Layer& layer) {
        squares += metaq::hemp::locate(layer);
        metaq::hemp::count_tuples<Order>(layer, std::get<4>(layers), reinterpret_cast<double*>(histogram));
    });
    return squares;
}

template <int Order>
void add_tuple_gradient(const HempLayers& layers, std::uintptr_t logs, float entropy, float error, bool is_printed,
                        bool has_insensitivity) {
    nb::gil_scoped_release release;
    const metaq::hemp::Weighting weighting{entropy, error, is_printed, has_insensitivity};
    visit_layers(layers, [&](const metaq::hemp::Layer& layer) {
        metaq::hemp::add_gradient<Order>(layer, std::get<4>(layers), floats(logs), weighting);
    });
}

template <int Order>
void bind_hemp(nb::module_& module) {
    module.def(("count_tuples_" + std::to_string(Order)).c_str(), &count_tuples<Order>);
    module.def(("add_tuple_gradient_" + std::to_string(Order)).c_str(), &add_tuple_gradient<Order>);
    if constexpr (Order < metaq::hemp::kMostOrder) bind_hemp<Order + 1>(module);
}

}  // namespace

void bind_methods(nb::module_& module) {
    module.def("show_quantized", &show_quantized);
    module.def("take_back_latent", &take_back_latent);
    bind_hemp<1>(module);
}

}  // namespace metaq::python
