// The Python module metaq._native: checks what comes in, copies symbols in and out, releases the GIL in between.
// Python is known here and in file_bindings.cpp only.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "file_bindings.hpp"
#include "metaq/adaptive.hpp"
#include "metaq/hemp.hpp"
#include "metaq/huffman.hpp"
#include "metaq/kmeans1d.hpp"
#include "metaq/knapsack.hpp"
#include "metaq/mixing.hpp"
#include "metaq/planes.hpp"
#include "metaq/quantized_view.hpp"
#include "metaq/range.hpp"
#include "metaq/rans.hpp"
#include "metaq/rdoq.hpp"
#include "metaq/symbols.hpp"
#include "metaq/text.hpp"
#include "metaq/trellis.hpp"

namespace nb = nanobind;

namespace {

using SymbolArray = nb::ndarray<const std::int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using ByteArray = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FilledArray = nb::ndarray<std::int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Shape = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

using Bytes = std::vector<std::uint8_t>;
using Encode = void (*)(std::span<const metaq::ConstBlock>, Bytes&);
using Decode = metaq::Status (*)(std::span<const std::uint8_t>, std::span<const metaq::Block>);

void check_status(metaq::Status status) {
    if (status == metaq::Status::truncated) throw std::invalid_argument("truncated");
    if (status == metaq::Status::corrupt) throw std::invalid_argument("corrupt");
}

nb::bytes to_python(const Bytes& bytes) { return nb::bytes(bytes.data(), bytes.size()); }

std::span<const std::uint8_t> view(const ByteArray& data) { return {data.data(), data.size()}; }

template <Encode encode>
nb::bytes encode_blocks(const std::vector<SymbolArray>& arrays) {
    std::vector<metaq::ConstBlock> blocks;
    for (const SymbolArray& array : arrays) {
        blocks.push_back({array.data(), array.shape(0), array.shape(1), array.shape(2)});
    }
    Bytes out;
    {
        nb::gil_scoped_release release;
        encode(blocks, out);
    }
    return to_python(out);
}

metaq::Block block_of(const FilledArray& symbols) {
    return {symbols.data(), symbols.shape(0), symbols.shape(1), symbols.shape(2)};
}

template <Decode decode>
void decode_blocks(const ByteArray& data, const std::vector<FilledArray>& arrays) {
    std::vector<metaq::Block> blocks;
    for (const FilledArray& array : arrays) blocks.push_back(block_of(array));
    metaq::Status status = metaq::Status::ok;
    {
        nb::gil_scoped_release release;
        status = decode(view(data), blocks);
    }
    check_status(status);
}

template <Encode encode, Decode decode>
void bind_coder(nb::module_& module, const char* encode_name, const char* decode_name) {
    // Without conversion: it would truncate other types to int32, silently, and fill copies.
    module.def(encode_name, &encode_blocks<encode>, nb::arg("blocks").noconvert());
    module.def(decode_name, &decode_blocks<decode>, nb::arg("data"), nb::arg("blocks").noconvert());
}

using WeightArray = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using ImportanceArray = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using FeedbackArray = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

using WeightArrays = std::vector<WeightArray>;
using ImportanceArrays = std::vector<std::optional<ImportanceArray>>;
using FeedbackArrays = std::vector<std::optional<FeedbackArray>>;
using FilledArrays = std::vector<FilledArray>;

void check_weights(const WeightArrays& weights, const ImportanceArrays& importances, const FilledArrays& symbols) {
    if (weights.size() != symbols.size() || weights.size() != importances.size()) {
        throw std::invalid_argument("weights, importances and symbols differ in number");
    }
    const auto same_shape = [](const auto& first, const auto& second) {
        return first.shape(0) == second.shape(0) && first.shape(1) == second.shape(1) && first.shape(2) == second.shape(2);
    };
    for (std::size_t i = 0; i < weights.size(); ++i) {
        if (!same_shape(weights[i], symbols[i]) || (importances[i] && !same_shape(*importances[i], symbols[i]))) {
            throw std::invalid_argument("weights, importances and symbols differ in shape");
        }
    }
}

// Replaces symbols, the nearest to the weights to begin with; returns the bits that the mixing coder takes for them.
// Weights with a feedback are moved.
double quantize_by_rate(const WeightArrays& weights, const ImportanceArrays& importances, const FeedbackArrays& feedbacks,
                        const FilledArrays& symbols, double rate_weight) {
    check_weights(weights, importances, symbols);
    if (weights.size() != feedbacks.size()) throw std::invalid_argument("weights and feedbacks differ in number");
    std::vector<metaq::rdoq::Weights> blocks;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        const std::size_t row_size = symbols[i].shape(1) * symbols[i].shape(2);
        if (feedbacks[i] && (feedbacks[i]->shape(0) != row_size || feedbacks[i]->shape(1) != row_size)) {
            throw std::invalid_argument("a feedback has other columns than its weights");
        }
        blocks.push_back({weights[i].data(), importances[i] ? importances[i]->data() : nullptr,
                          feedbacks[i] ? feedbacks[i]->data() : nullptr, block_of(symbols[i])});
    }
    nb::gil_scoped_release release;
    return metaq::rdoq::quantize(blocks, rate_weight);
}

// Fills symbols, none larger than `most` of its block.
void quantize_by_trellis(const WeightArrays& weights, const ImportanceArrays& importances, const FilledArrays& symbols,
                         const std::vector<std::int32_t>& most, double rate_weight, std::size_t states) {
    check_weights(weights, importances, symbols);
    if (most.size() != weights.size() || std::any_of(most.begin(), most.end(), [](auto one) { return one < 0 || one >= metaq::kSymbolLimit; })) {
        throw std::invalid_argument("most: not a symbol for each block");
    }
    const auto& machines = metaq::dependent::kMachine;
    const auto machine = std::find_if(machines.begin(), machines.end(), [&](const auto& one) { return one.states == states; });
    if (machine == machines.end()) throw std::invalid_argument("states: no machine has as many");
    std::vector<metaq::trellis::Weights> blocks;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        blocks.push_back({weights[i].data(), importances[i] ? importances[i]->data() : nullptr, block_of(symbols[i]), most[i]});
    }
    nb::gil_scoped_release release;
    metaq::trellis::quantize(blocks, rate_weight, *machine);
}

using ValueArray = nb::ndarray<nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using LevelArray = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codebook = std::tuple<float, std::optional<LevelArray>, std::int32_t>;

metaq::rans::Form form_of(nb::dlpack::dtype dtype) {
    using metaq::rans::Form;
    if (dtype == nb::dtype<std::int32_t>()) return Form::int32;
    if (dtype == nb::dtype<std::int8_t>()) return Form::int8;
    if (dtype == nb::dtype<float>()) return Form::float32;
    if (dtype == nb::dlpack::dtype{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16, 1}) return Form::float16;
    if (dtype == nb::dtype<std::uint16_t>()) return Form::bfloat16;
    throw std::invalid_argument("an output is not int32, int8, float32, float16 or uint16 (the bits of bfloat16)");
}

metaq::rans::ValueBlock value_block(const ValueArray& output, const Shape& shape, const Codebook& codebook) {
    const auto [rows, channels, kernel] = shape;
    std::size_t left = output.size();
    for (const std::int64_t side : {rows, channels, kernel}) {
        if (side < 0) throw std::invalid_argument("a side of a shape is negative");
        left = side == 0 ? 0 : left / static_cast<std::size_t>(side);
    }
    metaq::rans::ValueBlock block{static_cast<std::uint8_t*>(output.data()), static_cast<std::size_t>(rows),
                                  static_cast<std::size_t>(channels), static_cast<std::size_t>(kernel),
                                  form_of(output.dtype()), {}};
    // The quotient first, so that the product does not overflow.
    if ((output.size() > 0 && left != 1) || block.size() != output.size()) {
        throw std::invalid_argument("an output has not as many elements as its shape");
    }
    const auto& [step, levels, origin] = codebook;
    block.codebook = {step, {}, origin};
    if (levels) block.codebook.levels = {levels->data(), levels->size()};
    if (levels && levels->size() == 0) throw std::invalid_argument("a codebook has no levels");
    return block;
}

// Fills the outputs. A uniform codebook is (step, None, 0), a table (any number, levels, origin).
void rans_decode_values(const ByteArray& data, const std::vector<Shape>& shapes, const std::vector<ValueArray>& outputs,
                        const std::vector<Codebook>& codebooks, bool portable) {
    if (shapes.size() != outputs.size() || shapes.size() != codebooks.size()) {
        throw std::invalid_argument("shapes, outputs and codebooks differ in number");
    }
    std::vector<metaq::rans::ValueBlock> blocks;
    for (std::size_t i = 0; i < shapes.size(); ++i) blocks.push_back(value_block(outputs[i], shapes[i], codebooks[i]));
    metaq::Status status = metaq::Status::ok;
    {
        nb::gil_scoped_release release;
        const auto path = portable ? metaq::rans::Path::portable : metaq::rans::Path::best;
        status = metaq::rans::decode_values(view(data), blocks, path);
    }
    check_status(status);
}

using PlaneArray = nb::ndarray<const std::int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ElementArray = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Fills the output, the bytes of elements, from the symbols of their planes.
void join_planes(const std::vector<PlaneArray>& arrays, bool is_float, const ElementArray& output) {
    const std::size_t width = arrays.size();
    if (width != 1 && width != 2 && width != 4 && width != 8) throw std::invalid_argument("not 1, 2, 4 or 8 planes");
    const std::size_t count = output.size() / width;
    metaq::planes::Planes planes{};
    for (std::size_t i = 0; i < width; ++i) {
        if (arrays[i].size() != count) throw std::invalid_argument("a plane has not a byte for each element");
        planes[i] = reinterpret_cast<const std::uint8_t*>(arrays[i].data());
    }
    if (output.size() != count * width) throw std::invalid_argument("the output is not of whole elements");
    nb::gil_scoped_release release;
    metaq::planes::join(planes, width, count, is_float, output.data());
}

nb::bytes encode_text(const ByteArray& bytes) {
    Bytes out;
    {
        nb::gil_scoped_release release;
        metaq::text::encode(view(bytes), out);
    }
    return to_python(out);
}

nb::bytes decode_text(const ByteArray& data, std::size_t size) {
    Bytes bytes(size);
    metaq::Status status = metaq::Status::ok;
    {
        nb::gil_scoped_release release;
        status = metaq::text::decode(view(data), bytes);
    }
    check_status(status);
    return to_python(bytes);
}

// Addresses of float32 arrays that the caller keeps alive, contiguous and on the CPU, and has checked.
using Addresses = std::vector<std::uintptr_t>;

float* floats(std::uintptr_t address) { return reinterpret_cast<float*>(address); }

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

NB_MODULE(_native, module) {
    module.doc() = "Coders of integer symbols; metaq.coding is their interface.";
    bind_coder<metaq::huffman::encode, metaq::huffman::decode>(module, "huffman_encode", "huffman_decode");
    bind_coder<metaq::range::encode, metaq::range::decode>(module, "range_encode", "range_decode");
    bind_coder<metaq::rans::encode, metaq::rans::decode>(module, "rans_encode", "rans_decode");
    // Without conversion: it would fill a copy.
    module.def("rans_decode_values", &rans_decode_values, nb::arg("data"), nb::arg("shapes"),
               nb::arg("outputs").noconvert(), nb::arg("codebooks").noconvert(), nb::arg("portable") = false);
    bind_coder<metaq::mixing::encode, metaq::mixing::decode>(module, "mixing_encode", "mixing_decode");
    bind_coder<metaq::adaptive::encode, metaq::adaptive::decode>(module, "adaptive_encode", "adaptive_decode");
    // Without conversion: it would fill copies.
    module.def("quantize_by_rate", &quantize_by_rate, nb::arg("weights").noconvert(), nb::arg("importances").noconvert(),
               nb::arg("feedbacks").noconvert(), nb::arg("symbols").noconvert(), nb::arg("rate_weight"));
    module.def("quantize_by_trellis", &quantize_by_trellis, nb::arg("weights").noconvert(), nb::arg("importances").noconvert(),
               nb::arg("symbols").noconvert(), nb::arg("most"), nb::arg("rate_weight"), nb::arg("states"));
    module.def("show_quantized", &show_quantized);
    module.def("take_back_latent", &take_back_latent);
    bind_hemp<1>(module);
    module.def("find_hulls", &find_hulls);
    module.def("solve_knapsacks", &solve_knapsacks);
    module.def("join_planes", &join_planes, nb::arg("planes").noconvert(), nb::arg("is_float"),
               nb::arg("output").noconvert());
    module.def("kmeans", &kmeans);
    module.def("text_encode", &encode_text, nb::arg("bytes"));
    module.def("text_decode", &decode_text, nb::arg("data"), nb::arg("size"));
    bind_file(module);
}
