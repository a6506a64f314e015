#include "torch/planned_call.hpp"

#include <Python.h>
#include <nanobind/nanobind.h>

#include <cstddef>
#include <utility>

#include "torch/arguments.hpp"
#include "torch/dispatcher.hpp"
#include "torch/python_object.hpp"
#include "torch/versions.hpp"

namespace nb = nanobind;
using namespace nb::literals;

// The calls of optimized models and functions begin in methods of Python, such as _Twin.__call__. Each of
// their frames takes longer than all that the dispatcher does, so that functions of ours are put in place of
// running their code. The code stays: compilers look at it and people read it, and it runs whenever something
// here is not as usual, such as before there is a dispatcher. The two do the same.
namespace memomalloc {
namespace {

vectorcallfunc run_code = nullptr;  // what Python does where it calls a function of its own

// Something looks at all frames of Python that begin, as a compiler does whose program calls us: it is to see
// the code.
bool frames_are_looked_at() noexcept {
  return _PyInterpreterState_GetEvalFrameFunc(PyInterpreterState_Get()) != _PyEval_EvalFrameDefault;
}

// An attribute; null, and no error, where there is none.
Reference attribute(PyObject* object, PyObject* name) noexcept {
  Reference value = Reference::steal(asking_python([&] { return PyObject_GetAttr(object, name); }));
  if (!value) PyErr_Clear();
  return value;
}

// What is not in the object's class is in the object, whatever a __getattr__ of the program's says.
Reference own_attribute(PyObject* object, PyObject* name) noexcept {
  Reference value = Reference::steal(asking_python([&] { return PyObject_GenericGetAttr(object, name); }));
  if (!value) PyErr_Clear();
  return value;
}

// By a PlannedFunction; null where it has none yet, or something else takes the calls for now.
Reference dispatcher_of(const Reference& planned) noexcept {
  static PyObject* const name = PyUnicode_InternFromString("_dispatcher");
  if (!planned) return {};
  Reference dispatcher = own_attribute(planned.get(), name);
  return dispatcher && is_dispatcher(dispatcher.get()) ? std::move(dispatcher) : Reference();
}

PyObject* call_name() noexcept {
  static PyObject* const name = PyUnicode_InternFromString("_memomalloc_call");
  return name;
}

// A way of being called: to the dispatcher of an object, null where there is none, and to what its plans
// depend on besides the arguments. Without these, the code of Python is run.

struct OfModel {
  static Reference variant(PyObject* model) noexcept {
    static PyObject* const name = PyUnicode_InternFromString("training");
    return attribute(model, name);
  }
};

// As _Twin.__call__ in runtime/models/optimized_module.py.
struct OfTwin : OfModel {
  static Reference dispatcher(PyObject* model) noexcept {
    return dispatcher_of(own_attribute(model, call_name()));
  }
};

// As _InPlace.__call__ there.
struct InPlace : OfModel {
  static Reference dispatcher(PyObject* model) noexcept {
    static PyObject* const owner_name = PyUnicode_InternFromString("_owner");
    PyObject* const kind = reinterpret_cast<PyObject*>(Py_TYPE(model));
    const Reference owner = attribute(kind, owner_name);
    if (!owner || !PyWeakref_Check(owner.get()) || referent(owner.get()).get() != model) return {};
    return dispatcher_of(attribute(kind, call_name()));
  }
};

// As OptimizedFunction.__call__ in runtime/models/optimized_function.py.
struct OfFunction {
  static Reference dispatcher(PyObject* function) noexcept {
    static PyObject* const name = PyUnicode_InternFromString("_planned");
    return dispatcher_of(own_attribute(function, name));
  }
  static Reference variant(PyObject*) noexcept { return Reference::borrow(Py_None); }
};

template <typename Way>
PyObject* call(PyObject* method, PyObject* const* args, std::size_t flags, PyObject* names) noexcept {
  const Py_ssize_t num_args = PyVectorcall_NARGS(flags);
  if (num_args != 0 && !frames_are_looked_at()) {
    if (const Reference dispatcher = Way::dispatcher(args[0])) {
      const Arguments arguments{args + 1, num_args - 1, names};
      PyObject* result = nullptr;
      if (dispatch_resting(dispatcher.get(), arguments, result)) return result;
      if (const Reference variant = Way::variant(args[0])) {
        return dispatch(dispatcher.get(), arguments, variant.get());
      }
    }
  }
  return asking_python([&] { return run_code(method, args, flags, names); });
}

void make_calls_natively(nb::handle twin, nb::handle in_place, nb::handle function) {
  for (const nb::handle method : {twin, in_place, function}) {
    if (!PyFunction_Check(method.ptr())) throw nb::type_error("a method that is no function of Python");
  }
  if (run_code != nullptr) return;
  run_code = vectorcall_of(twin.ptr());
  set_vectorcall(twin.ptr(), &call<OfTwin>);
  set_vectorcall(in_place.ptr(), &call<InPlace>);
  set_vectorcall(function.ptr(), &call<OfFunction>);
}

}  // namespace

void bind_planned_call(nb::module_& module) {
  module.def("make_calls_natively", &make_calls_natively, "twin"_a, "in_place"_a, "function"_a);
}

}  // namespace memomalloc
