// The Python module metaq._native. Python is known in this folder only.
#include <nanobind/nanobind.h>

#include "python/arrays.hpp"

NB_MODULE(_native, module) {
    module.doc() = "Coders, quantizers, solvers and the file decoder; the packages of metaq are their interface.";
    metaq::python::bind_coders(module);
    metaq::python::bind_quantizers(module);
    metaq::python::bind_methods(module);
    metaq::python::bind_solvers(module);
    metaq::python::bind_file(module);
}
