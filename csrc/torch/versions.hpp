#pragma once

#include <Python.h>

// All that differs between the releases of Python and of torch that we are built for. Between those of torch
// nothing does at present: 2.9 to 2.15 take the same sources. What a release changes comes here, under one
// name for all. Called with the GIL held, but for running_thread().
namespace memomalloc {

// The exception that is set, with its traceback: a new reference, or null. None is set afterwards.
inline PyObject* take_exception() noexcept {
#if PY_VERSION_HEX >= 0x030C0000
  return PyErr_GetRaisedException();
#else
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback != nullptr) PyException_SetTraceback(value, traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  return value;
#endif
}

// Sets an exception, and takes the reference to it over.
inline void give_exception(PyObject* exception) noexcept {
#if PY_VERSION_HEX >= 0x030C0000
  PyErr_SetRaisedException(exception);
#else
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(exception));
  Py_INCREF(type);
  PyErr_Restore(type, exception, PyException_GetTraceback(exception));
#endif
}

// What a weak reference refers to, as a new reference; null where that is gone.
inline PyObject* weakly_referred(PyObject* weak) noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  PyObject* object = nullptr;
  if (PyWeakref_GetRef(weak, &object) < 0) PyErr_Clear();
  return object;
#else
  PyObject* object = PyWeakref_GetObject(weak);
  return object == Py_None ? nullptr : Py_NewRef(object);
#endif
}

// The state of the thread that runs Python on the calling one; null where none does.
inline const PyThreadState* running_thread() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return PyThreadState_GetUnchecked();
#else
  return _PyThreadState_UncheckedGet();
#endif
}

// A local variable of a frame, as a new reference; null where the frame has no such one.
inline PyObject* local_of(PyFrameObject* frame, const char* name) noexcept {
#if PY_VERSION_HEX >= 0x030C0000
  PyObject* value = PyFrame_GetVarString(frame, name);
#else
  PyObject* locals = PyFrame_GetLocals(frame);
  PyObject* value = locals != nullptr ? PyMapping_GetItemString(locals, name) : nullptr;
  Py_XDECREF(locals);
#endif
  if (value == nullptr) PyErr_Clear();
  return value;
}

// What a class or one that it inherits from defines under a name, as it is defined there: a new reference, or
// null, and no error, where there is none.
inline PyObject* defined_in_class(PyObject* kind, PyObject* name) noexcept {
  return Py_XNewRef(_PyType_Lookup(reinterpret_cast<PyTypeObject*>(kind), name));
}

// What calls a function of Python: runs its code, unless it was set to something else.
inline vectorcallfunc vectorcall_of(PyObject* function) noexcept {
  return reinterpret_cast<PyFunctionObject*>(function)->vectorcall;
}

// `call` is to do what the code of the function does: Python may run that as well.
inline void set_vectorcall(PyObject* function, vectorcallfunc call) noexcept {
#if PY_VERSION_HEX >= 0x030C0000
  PyFunction_SetVectorcall(reinterpret_cast<PyFunctionObject*>(function), call);
#else
  reinterpret_cast<PyFunctionObject*>(function)->vectorcall = call;
#endif
}

}  // namespace memomalloc
