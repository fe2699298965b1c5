// Quantizers by rate and distortion: checks what comes in, releases the GIL while native code works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <stdexcept>
#include <vector>

#include "metaq/base/dependent.hpp"
#include "metaq/quantizers/rdoq.hpp"
#include "metaq/quantizers/second_order.hpp"
#include "metaq/quantizers/trellis.hpp"
#include "python/arrays.hpp"

namespace nb = nanobind;

namespace metaq::python {

namespace {

using WeightArray = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using ImportanceArray = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

using ShareArray = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

using WeightArrays = std::vector<WeightArray>;
using ImportanceArrays = std::vector<std::optional<ImportanceArray>>;
using FilledArrays = std::vector<FilledArray>;

void check_weights(const WeightArrays& weights, const ImportanceArrays& importances, const FilledArrays& symbols) {
    if (weights.size() != symbols.size() || weights.size() != importances.size()) {
        throw std::invalid_argument("weights, importances and symbols differ in number");
    }
    const auto same_shape = [](const auto& first, const auto& second) {
        return first.shape(0) == second.shape(0) && first.shape(1) == second.shape(1) &&
               first.shape(2) == second.shape(2);
    };
    for (std::size_t i = 0; i < weights.size(); ++i) {
        if (!same_shape(weights[i], symbols[i]) || (importances[i] && !same_shape(*importances[i], symbols[i]))) {
            throw std::invalid_argument("weights, importances and symbols differ in shape");
        }
    }
}

// Replaces symbols, the nearest to the weights to begin with; returns the bits that the mixing coder takes for them.
double quantize_by_rate(const WeightArrays& weights, const ImportanceArrays& importances, const FilledArrays& symbols,
                        double rate_weight) {
    check_weights(weights, importances, symbols);
    std::vector<metaq::rdoq::Weights> blocks;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        check_symbols(symbols[i]);
        blocks.push_back({weights[i].data(), importances[i] ? importances[i]->data() : nullptr, block_of(symbols[i])});
    }
    nb::gil_scoped_release release;
    double bits = 0;
    if (metaq::rdoq::quantize(blocks, rate_weight, bits) != metaq::Status::ok) throw std::bad_alloc();
    return bits;
}

// One state: every symbol is an even multiple.
constexpr metaq::dependent::Machine kFree{1, {{{0, 0}}}};

const metaq::dependent::Machine& machine_of(std::size_t states) {
    if (states == 1) return kFree;
    const auto& machines = metaq::dependent::kMachine;
    const auto machine = std::find_if(machines.begin(), machines.end(),
                                      [&](const auto& one) { return one.states == states; });
    if (machine == machines.end()) throw std::invalid_argument("states: no machine has as many");
    return *machine;
}

// Fills symbols, none larger than `most` of its block.
void quantize_by_trellis(const WeightArrays& weights, const ImportanceArrays& importances, const FilledArrays& symbols,
                         const std::vector<std::int32_t>& most, double rate_weight, std::size_t states) {
    check_weights(weights, importances, symbols);
    if (most.size() != weights.size() ||
        std::any_of(most.begin(), most.end(), [](auto one) { return one < 0 || one >= metaq::kSymbolLimit; })) {
        throw std::invalid_argument("most: not a symbol for each block");
    }
    const metaq::dependent::Machine& machine = machine_of(states);
    std::vector<metaq::trellis::Weights> blocks;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        blocks.push_back(
            {weights[i].data(), importances[i] ? importances[i]->data() : nullptr, block_of(symbols[i]), most[i]});
    }
    nb::gil_scoped_release release;
    metaq::trellis::quantize(blocks, rate_weight, machine);
}

// Columns of matrices on top of each other: targets, symbols and errors are of shape (columns, rows), shares of shape
// (matrices, columns, columns).
class PythonColumnQuantizer {
public:
    PythonColumnQuantizer(double rate_weight, std::size_t states)
        : quantizer_(machine_of(states), static_cast<float>(rate_weight)) {}

    void quantize(const Matrix<float>& targets, const ShareArray& shares, const Vector<const float>& scales,
                  const Matrix<const float>& importances, const Vector<const float>& row_levels,
                  const Matrix<std::int32_t>& symbols, const Matrix<float>& errors, float most) {
        const std::size_t columns = targets.shape(0), rows = targets.shape(1), matrices = shares.shape(0);
        check_size("columns of shares", columns, shares.shape(1));
        check_size("columns of shares", columns, shares.shape(2));
        check_size("scales", columns, scales.size());
        check_size("columns of importances", columns, importances.shape(0));
        check_size("rows of importances", rows, importances.shape(1));
        check_size("row levels", rows, row_levels.size());
        check_size("columns of symbols", columns, symbols.shape(0));
        check_size("rows of symbols", rows, symbols.shape(1));
        check_size("columns of errors", columns, errors.shape(0));
        check_size("rows of errors", rows, errors.shape(1));
        if (rows == 0 || matrices == 0 || rows % matrices != 0) {
            throw std::invalid_argument("targets: rows do not divide among the matrices of the shares");
        }
        const metaq::second_order::Columns block{columns,
                                                 rows,
                                                 matrices,
                                                 targets.data(),
                                                 shares.data(),
                                                 scales.data(),
                                                 importances.data(),
                                                 row_levels.data(),
                                                 symbols.data(),
                                                 errors.data(),
                                                 most};
        nb::gil_scoped_release release;
        quantizer_.quantize(block);
    }

private:
    metaq::second_order::ColumnQuantizer quantizer_;
};

// Whether symbols are those of a trellis, as its coders see it.
bool are_dependent(const SymbolArray& symbols) {
    const ConstBlock block{symbols.data(), symbols.shape(0), symbols.shape(1), symbols.shape(2)};
    nb::gil_scoped_release release;
    return metaq::dependent::machine_of(block) != 0;
}

}  // namespace

void bind_quantizers(nb::module_& module) {
    // Without conversion: it would fill copies.
    module.def("quantize_by_rate", checked(&quantize_by_rate), nb::arg("weights").noconvert(),
               nb::arg("importances").noconvert(), nb::arg("symbols").noconvert(), nb::arg("rate_weight"));
    module.def("quantize_by_trellis", checked(&quantize_by_trellis), nb::arg("weights").noconvert(),
               nb::arg("importances").noconvert(), nb::arg("symbols").noconvert(), nb::arg("most"),
               nb::arg("rate_weight"), nb::arg("states"));
    nb::class_<PythonColumnQuantizer>(module, "ColumnQuantizer")
        .def(nb::init<double, std::size_t>(), nb::arg("rate_weight"), nb::arg("states"))
        .def("quantize", checked(&PythonColumnQuantizer::quantize), nb::arg("targets").noconvert(),
             nb::arg("shares").noconvert(), nb::arg("scales").noconvert(), nb::arg("importances").noconvert(),
             nb::arg("row_levels").noconvert(), nb::arg("symbols").noconvert(), nb::arg("errors").noconvert(),
             nb::arg("most"));
    module.def("are_dependent", checked(&are_dependent), nb::arg("symbols"));
}

}  // namespace metaq::python
