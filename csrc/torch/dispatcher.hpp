#pragma once

#include <nanobind/nanobind.h>

namespace memomalloc {

// Binds Dispatcher, the way from a call of a model to an armed plan and back, and Call, a call that has to be
// thought about. See runtime/calls/dispatch.py for what Python and they owe each other.
void bind_dispatcher(nanobind::module_& module);

}  // namespace memomalloc
