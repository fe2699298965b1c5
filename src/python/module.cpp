// The Python module metaq._native. Python is known in this folder only.
#include <nanobind/nanobind.h>

#include <optional>

#include "metaq/base/default_floats.hpp"
#include "python/arrays.hpp"

namespace {

// From when it is made until `restore`, which the same thread calls.
struct PythonFloats {
    std::optional<metaq::DefaultFloats> floats{std::in_place};
    void restore() { floats.reset(); }
};

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "Coders, quantizers, solvers and the file decoder; the packages of metaq are their interface.";
    nanobind::class_<PythonFloats>(module, "DefaultFloats")
        .def(nanobind::init<>())
        .def("restore", &PythonFloats::restore);
    metaq::python::bind_coders(module);
    metaq::python::bind_quantizers(module);
    metaq::python::bind_methods(module);
    metaq::python::bind_solvers(module);
    metaq::python::bind_file(module);
}
