#pragma once

#include <nanobind/nanobind.h>

namespace memomalloc {

// Binds Dispatcher, the way from a call of a model to an armed plan and back, and Call, a call that has to be
// thought about. See runtime/calls/dispatch.py for what Python and they owe each other.
void bind_dispatcher(nanobind::module_& module);

bool is_dispatcher(PyObject* object) noexcept;

// A call of what the dispatcher calls: a new reference to its result, or null with Python's error set.
// `variant` is what its plans depend on besides the arguments; `kwargs` may be null.
PyObject* dispatch(PyObject* dispatcher, PyObject* args, PyObject* kwargs, PyObject* variant) noexcept;

}  // namespace memomalloc
