#pragma once

#include <Python.h>

namespace memomalloc {

// The arguments of a call, as Python passes them from one function to another. Whoever calls holds them.
struct Arguments {
  PyObject* const* values;  // the positional ones, then those with names
  Py_ssize_t num_positional;
  PyObject* names;  // a tuple; null: there are none

  Py_ssize_t num_named() const noexcept { return names != nullptr ? PyTuple_GET_SIZE(names) : 0; }
  PyObject* name(Py_ssize_t i) const noexcept { return PyTuple_GET_ITEM(names, i); }
  PyObject* named(Py_ssize_t i) const noexcept { return values[num_positional + i]; }
};

}  // namespace memomalloc
