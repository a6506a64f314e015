#pragma once

#include <nanobind/nanobind.h>

#include "torch/arguments.hpp"

namespace memomalloc {

// Binds Dispatcher, the way from a call of a model to an armed plan and back, and Call, a call that has to be
// thought about. See runtime/calls/dispatch.py for what Python and they owe each other.
void bind_dispatcher(nanobind::module_& module);

bool is_dispatcher(PyObject* object) noexcept;

// A call of what the dispatcher calls: a new reference to its result, or null with Python's error set.
// `variant` is what its plans depend on besides the arguments.
PyObject* dispatch(PyObject* dispatcher, const Arguments& arguments, PyObject* variant) noexcept;

// The same, at once, where all calls have been going straight to what the dispatcher calls for long; else
// false, and nothing is done.
bool dispatch_resting(PyObject* dispatcher, const Arguments& arguments, PyObject*& result) noexcept;

}  // namespace memomalloc
