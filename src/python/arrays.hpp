// The types in which arrays come from Python, and what the binding files share.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "metaq/base/default_floats.hpp"
#include "metaq/base/symbols.hpp"

namespace metaq::python {

using SymbolArray = nanobind::ndarray<const std::int32_t, nanobind::ndim<3>, nanobind::c_contig, nanobind::device::cpu>;
using ByteSymbolArray =
    nanobind::ndarray<const std::int8_t, nanobind::ndim<3>, nanobind::c_contig, nanobind::device::cpu>;
using ByteArray = nanobind::ndarray<const std::uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using FilledArray = nanobind::ndarray<std::int32_t, nanobind::ndim<3>, nanobind::c_contig, nanobind::device::cpu>;

inline std::span<const std::uint8_t> view(const ByteArray& data) { return {data.data(), data.size()}; }

inline Block block_of(const FilledArray& symbols) {
    return {symbols.data(), symbols.shape(0), symbols.shape(1), symbols.shape(2)};
}

// Arrays of any shape, read or filled in their order, and of one dimension.
template <class Number>
using FlatArray = nanobind::ndarray<Number, nanobind::c_contig, nanobind::device::cpu>;
template <class Number>
using Vector = nanobind::ndarray<Number, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
template <class Number>
using Matrix = nanobind::ndarray<Number, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;

// Fails unless every element is a symbol: coders count on it.
template <class Array>
void check_symbols(const Array& array) {
    const std::int32_t* const begin = array.data();
    if (std::all_of(begin, begin + array.size(), [](std::int32_t symbol) { return is_symbol(symbol); })) return;
    throw std::invalid_argument("symbols: expected integers strictly between -2^30 and 2^30, found others");
}

// An error that says of what there should have been how many.
inline void check_size(const char* what, std::size_t expected, std::size_t found) {
    if (expected == found) return;
    throw std::invalid_argument(std::string(what) + ": expected " + std::to_string(expected) + ", found " +
                                std::to_string(found));
}

// Fails unless the elements of every array among an argument lie where their type may lie, which Python does not demand.
struct AlignmentCheck {
    template <class Argument>
    void operator()(const Argument&) const {}

    template <class... Parts>
    void operator()(const nanobind::ndarray<Parts...>& array) const {
        const std::size_t width = array.itemsize();
        if (array.size() == 0 || reinterpret_cast<std::uintptr_t>(array.data()) % width == 0) return;
        throw std::invalid_argument("array: expected elements at multiples of their " + std::to_string(width) +
                                    " bytes in memory, found others; pass a copy of the array");
    }

    template <class Item>
    void operator()(const std::vector<Item>& items) const {
        for (const Item& item : items) (*this)(item);
    }

    template <class Item>
    void operator()(const std::optional<Item>& item) const {
        if (item) (*this)(*item);
    }

    template <class... Items>
    void operator()(const std::tuple<Items...>& items) const {
        std::apply([this](const auto&... each) { ((*this)(each), ...); }, items);
    }
};

// A function for Python that checks how its arrays lie before it does its work, which is the same in threads of any settings.
// What takes arrays is bound through this.
template <class Result, class... Arguments>
auto checked(Result (*function)(Arguments...)) {
    return [function](Arguments... arguments) -> Result {
        (AlignmentCheck{}(arguments), ...);
        const DefaultFloats floats;
        return function(arguments...);
    };
}
template <class Class, class Result, class... Arguments>
auto checked(Result (Class::*method)(Arguments...)) {
    return [method](Class& object, Arguments... arguments) -> Result {
        (AlignmentCheck{}(arguments), ...);
        const DefaultFloats floats;
        return (object.*method)(arguments...);
    };
}
template <class Class, class Result, class... Arguments>
auto checked(Result (Class::*method)(Arguments...) const) {
    return [method](const Class& object, Arguments... arguments) -> Result {
        (AlignmentCheck{}(arguments), ...);
        const DefaultFloats floats;
        return (object.*method)(arguments...);
    };
}

void bind_coders(nanobind::module_& module);
void bind_file(nanobind::module_& module);
void bind_quantizers(nanobind::module_& module);
void bind_methods(nanobind::module_& module);
void bind_solvers(nanobind::module_& module);

}  // namespace metaq::python
