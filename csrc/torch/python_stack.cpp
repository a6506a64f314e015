#include "torch/python_stack.hpp"

#include <algorithm>
#include <new>
#include <utility>

#include "core/thread_state.hpp"
#include "torch/versions.hpp"

namespace memomalloc {
namespace {

// Trivial, so that it may be read while the thread dies.
thread_local PythonStack* t_stack = nullptr;

// An object that was let go without the interpreter's lock. No lock of ours either: a child of fork() would
// find it as another thread had it.
struct ReleasedObject {
  PyObject* object;
  ReleasedObject* next;
};
std::atomic<ReleasedObject*> g_released{nullptr};

// Whether the calling thread has the interpreter's lock. Not PyGILState_Check(), which says yes to everybody
// once there was a second interpreter.
bool has_gil() noexcept {
  const PyThreadState* running = running_thread();
  return running != nullptr && running == PyGILState_GetThisThreadState();
}

void let_go(PyObject* object) noexcept {
  if (has_gil()) {
    Py_DECREF(object);
    return;
  }
  auto* released = new (std::nothrow) ReleasedObject{object, g_released.load(std::memory_order_relaxed)};
  if (released == nullptr) return;  // no memory: the object stays, and nothing else happens
  // release: pairs with the acquire in drop_released_objects(), which reads what is written here.
  while (!g_released.compare_exchange_weak(released->next, released, std::memory_order_release,
                                           std::memory_order_relaxed)) {
  }
}

std::string to_string(PyObject* text) {
  Py_ssize_t length = 0;
  const char* utf8 = PyUnicode_AsUTF8AndSize(text, &length);
  if (utf8 == nullptr) {
    PyErr_Clear();
    return "?";
  }
  return {utf8, static_cast<std::size_t>(length)};
}

// Keeps an exception that is being raised as it is while Python is asked something. The profile function is
// called in the middle of that, too.
class PendingError {
 public:
  PendingError() noexcept { PyErr_Fetch(&kind_, &value_, &traceback_); }
  ~PendingError() { PyErr_Restore(kind_, value_, traceback_); }
  PendingError(const PendingError&) = delete;
  PendingError& operator=(const PendingError&) = delete;

 private:
  PyObject* kind_ = nullptr;
  PyObject* value_ = nullptr;
  PyObject* traceback_ = nullptr;
};

}  // namespace

PythonObject hold(PyObject* object) {
  Py_INCREF(object);
  return {object, &let_go};
}

void drop_released_objects() noexcept {
  // acquire: see let_go().
  ReleasedObject* released = g_released.exchange(nullptr, std::memory_order_acquire);
  while (released != nullptr) {
    const ReleasedObject first = *released;
    delete std::exchange(released, first.next);
    Py_DECREF(first.object);  // which may run code of the program
  }
}

bool LibraryFrames::is_library(const std::string& file) const {
  return file.empty() || file.front() == '<' ||
         std::any_of(folders.begin(), folders.end(), [&file](const std::string& folder) {
           return file.compare(0, folder.size(), folder) == 0;
         });
}

int PythonStack::Frame::line() const noexcept {
  return PyFrame_GetLineNumber(reinterpret_cast<PyFrameObject*>(object.get()));
}

PythonStack::PythonStack(const LibraryFrames& library, PyThreadState* thread)
    : library_(library), thread_(thread) {}

PythonStack* PythonStack::start(const LibraryFrames& library) {
  drop_released_objects();
  // Left behind by one that was stopped elsewhere, or of which another profile function knows nothing any
  // more.
  if (t_stack != nullptr && t_stack->frames() == nullptr) {
    // relaxed, here and below: whether the stack is followed decides what it costs, and orders nothing.
    if (t_stack->num_followers_.load(std::memory_order_relaxed) == 0) t_stack->end();
  }
  if (t_stack == nullptr) {
    PyThreadState* thread = PyThreadState_Get();
    std::unique_ptr<PythonStack> stack(new PythonStack(library, thread));
    std::vector<PythonObject> running;  // innermost first
    for (PyFrameObject* frame = PyThreadState_GetFrame(thread); frame != nullptr;) {
      running.push_back(hold(reinterpret_cast<PyObject*>(frame)));
      PyFrameObject* caller = PyFrame_GetBack(frame);
      Py_DECREF(frame);
      frame = caller;
    }
    for (auto frame = running.rbegin(); frame != running.rend(); ++frame) {
      stack->push(reinterpret_cast<PyFrameObject*>(frame->get()));
    }
    stack->previous_function_ = thread->c_profilefunc;
    if (thread->c_profileobj != nullptr) stack->previous_object_ = hold(thread->c_profileobj);
    t_stack = stack.release();
    PyEval_SetProfile(&on_event, t_stack->previous_object_.get());
  }
  t_stack->num_followers_.fetch_add(1, std::memory_order_relaxed);
  return t_stack;
}

void PythonStack::stop() noexcept {
  // Asked first: elsewhere, the stack's own thread may end it as soon as nobody follows it.
  const bool may_end = this == t_stack && (has_gil() || t_state.is_exiting);
  if (num_followers_.fetch_sub(1, std::memory_order_relaxed) == 1 && may_end) end();
}

void PythonStack::end() noexcept {
  if (frames() != nullptr && !t_state.is_exiting) {
    PyEval_SetProfile(previous_function_, previous_object_.get());
  }
  t_stack = nullptr;
  delete this;
}

const std::vector<PythonStack::Frame>* PythonStack::frames() const noexcept {
  // A thread that exits has no state of Python any more.
  const bool is_alive = PyGILState_GetThisThreadState() == thread_;
  return is_alive && thread_->c_profilefunc == &on_event ? &frames_ : nullptr;
}

int PythonStack::on_event(PyObject* previous, PyFrameObject* frame, int what, PyObject* argument) {
  PythonStack* stack = t_stack;
  if (stack == nullptr) return 0;
  const Py_tracefunc previous_function = stack->previous_function_;
  if (stack->num_followers_.load(std::memory_order_relaxed) == 0) {
    const PythonObject kept = stack->previous_object_;
    stack->end();
    return previous_function != nullptr ? previous_function(previous, frame, what, argument) : 0;
  }
  if (what == PyTrace_CALL || what == PyTrace_RETURN) {
    const PendingError error;
    try {
      if (what == PyTrace_CALL) {
        PyFrameObject* caller = PyFrame_GetBack(frame);
        stack->cut_back_to(caller);
        Py_XDECREF(caller);
        stack->push(frame);
      } else {
        stack->cut_back_to(frame);
        if (!stack->frames_.empty()) stack->frames_.pop_back();
      }
    } catch (...) {
      // No memory: the frames are cut back to what is known as soon as another one begins.
    }
  }
  return previous_function != nullptr ? previous_function(previous, frame, what, argument) : 0;
}

void PythonStack::cut_back_to(const PyFrameObject* caller) noexcept {
  const auto is_caller = [caller](const Frame& frame) {
    return frame.object.get() == reinterpret_cast<const PyObject*>(caller);
  };
  if (!frames_.empty() && is_caller(frames_.back())) return;
  const auto found = std::find_if(frames_.rbegin(), frames_.rend(), is_caller);
  // One that began unseen: those outside it are as they were.
  if (found == frames_.rend() && caller != nullptr) return;
  frames_.erase(found.base(), frames_.end());
}

void PythonStack::push(PyFrameObject* frame) {
  Frame pushed{hold(reinterpret_cast<PyObject*>(frame)), code_of(frame), nullptr, ++num_frames_};
  if (pushed.code->kind == Kind::kModuleCall) {
    if (PyObject* module = local_of(frame, "self"); module != nullptr) {
      pushed.module = hold(module);
      Py_DECREF(module);
    }
  }
  frames_.push_back(std::move(pushed));
}

std::shared_ptr<const PythonStack::Code> PythonStack::code_of(PyFrameObject* frame) {
  PyCodeObject* code = PyFrame_GetCode(frame);
  const PythonObject object = hold(reinterpret_cast<PyObject*>(code));
  Py_DECREF(code);
  auto& known = codes_[object.get()];
  if (known == nullptr) {
    Code described;
    described.object = object;
    described.file = to_string(code->co_filename);
    described.function = to_string(code->co_qualname);
    if (object == library_.module_call_code) {
      described.kind = Kind::kModuleCall;
    } else if (object == library_.boundary_code) {
      described.kind = Kind::kBoundary;
    } else if (library_.is_library(described.file)) {
      described.kind = Kind::kLibrary;
    }
    known = std::make_shared<const Code>(std::move(described));
  }
  return known;
}

}  // namespace memomalloc
