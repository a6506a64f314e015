#pragma once

#include <Python.h>

#include <utility>

#include "python/gil.hpp"
#include "torch/versions.hpp"

// What native code needs of Python's objects. All of it is called with the GIL held.
namespace memomalloc {

// A strong reference.
class Reference {
 public:
  Reference() = default;
  static Reference steal(PyObject* object) noexcept { return Reference(object); }
  static Reference borrow(PyObject* object) noexcept {
    Py_XINCREF(object);
    return Reference(object);
  }
  ~Reference() { Py_XDECREF(object_); }
  Reference(Reference&& other) noexcept : object_(other.release()) {}
  Reference& operator=(Reference&& other) noexcept {
    // Last of all: giving back a reference may run any code.
    PyObject* old = object_;
    object_ = other.release();
    Py_XDECREF(old);
    return *this;
  }
  Reference(const Reference&) = delete;
  Reference& operator=(const Reference&) = delete;

  PyObject* get() const noexcept { return object_; }
  PyObject* release() noexcept {
    PyObject* object = object_;
    object_ = nullptr;
    return object;
  }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  explicit Reference(PyObject* object) noexcept : object_(object) {}
  PyObject* object_ = nullptr;
};

// The error that is set, with its traceback; none is set afterwards.
inline Reference take_error() noexcept { return Reference::steal(take_exception()); }
inline void give_error(Reference error) noexcept { give_exception(error.release()); }

// What a weak reference refers to; null where that is gone.
inline Reference referent(PyObject* weak) noexcept { return Reference::steal(weakly_referred(weak)); }

// Keeps a compiler (torch.compile calls us in the middle of what it compiles) from looking at Python of ours:
// it would compile that, and pass over the program's function inside.
class Unwatched {
 public:
  // `set_eval_frame` takes what looks at each frame of Python that begins on this thread, and gives what did
  // so before.
  explicit Unwatched(PyObject* set_eval_frame) noexcept : set_eval_frame_(set_eval_frame) {
    if (set_eval_frame_ != Py_None) watcher_ = swap(Py_None);
  }
  ~Unwatched() {
    if (watcher_ && watcher_.get() != Py_None) swap(watcher_.get());
  }
  Unwatched(const Unwatched&) = delete;
  Unwatched& operator=(const Unwatched&) = delete;

  PyObject* watcher() const noexcept { return watcher_.get(); }
  Reference swap(PyObject* watcher) const noexcept {
    // Errors that are set, by what ran meanwhile, stay so.
    Reference error = PyErr_Occurred() != nullptr ? take_error() : Reference();
    Reference before = Reference::steal(
        asking_python([&] { return PyObject_CallFunctionObjArgs(set_eval_frame_, watcher, nullptr); }));
    if (!before) PyErr_Clear();
    if (error) give_error(std::move(error));
    return before;
  }

 private:
  PyObject* const set_eval_frame_;
  Reference watcher_;
};

}  // namespace memomalloc
