// What bindings.cpp takes from file_bindings.cpp.
#pragma once

#include <nanobind/nanobind.h>

void bind_file(nanobind::module_& module);
