// The types in which arrays come from Python, and what the binding files share.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "metaq/base/symbols.hpp"

namespace metaq::python {

using SymbolArray = nanobind::ndarray<const std::int32_t, nanobind::ndim<3>, nanobind::c_contig, nanobind::device::cpu>;
using ByteArray = nanobind::ndarray<const std::uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using FilledArray = nanobind::ndarray<std::int32_t, nanobind::ndim<3>, nanobind::c_contig, nanobind::device::cpu>;

inline std::span<const std::uint8_t> view(const ByteArray& data) { return {data.data(), data.size()}; }

inline Block block_of(const FilledArray& symbols) {
    return {symbols.data(), symbols.shape(0), symbols.shape(1), symbols.shape(2)};
}

// Addresses of float32 arrays that the caller keeps alive, contiguous and on the CPU, and has checked.
using Addresses = std::vector<std::uintptr_t>;

inline float* floats(std::uintptr_t address) { return reinterpret_cast<float*>(address); }

void bind_coders(nanobind::module_& module);
void bind_file(nanobind::module_& module);
void bind_quantizers(nanobind::module_& module);
void bind_methods(nanobind::module_& module);
void bind_solvers(nanobind::module_& module);

}  // namespace metaq::python
