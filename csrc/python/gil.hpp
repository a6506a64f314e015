#pragma once

#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

// Python's lock, given up and taken by native code on threads that may be Python's own.
namespace memomalloc {

// The result of `ask`, which may run Python, or wait for the GIL.
//
// Python ends a thread of its own that asks for the GIL at exit by pthread_exit (up to 3.13), which unwinds
// its stack without the GIL. The references on our stack can not be dropped then: the thread stays where it
// is, as newer Pythons let it.
template <typename Function>
auto asking_python(const Function& ask) -> decltype(ask()) {
  try {
    return ask();
  } catch (abi::__forced_unwind&) {
    for (;;) pause();
  }
}

// Lets other threads have the GIL while it lives.
class WithoutGil {
 public:
  WithoutGil() noexcept : thread_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    asking_python([this] { PyEval_RestoreThread(thread_); });
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* const thread_;
};

// Has the GIL while it lives, on any thread.
class WithGil {
 public:
  WithGil() noexcept : state_(asking_python(PyGILState_Ensure)) {}
  ~WithGil() { PyGILState_Release(state_); }
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;

 private:
  const PyGILState_STATE state_;
};

}  // namespace memomalloc
