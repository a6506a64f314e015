#pragma once

#include <nanobind/nanobind.h>

namespace memomalloc {

// Binds make_calls_natively(), which takes the calls of optimized models and functions from Python's code.
void bind_planned_call(nanobind::module_& module);

}  // namespace memomalloc
