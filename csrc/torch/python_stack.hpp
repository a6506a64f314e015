#pragma once

#include <Python.h>

#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace memomalloc {

// An object of Python that may be let go on any thread, with or without the interpreter's lock: without it,
// the object goes when somebody who has it calls drop_released_objects().
using PythonObject = std::shared_ptr<PyObject>;
PythonObject hold(PyObject* object);
void drop_released_objects() noexcept;

// What Python must tell about itself: which frames are calls of a module, and which files are the library's.
struct LibraryFrames {
  PythonObject module_call_code;  // of torch.nn.Module._call_impl; its local `self` is the module
  // Who called this is not part of an origin: optimized calls come from anywhere, and must look alike.
  PythonObject boundary_code;
  std::vector<std::string> folders;  // files below them are nobody's "source line"

  bool is_library(const std::string& file) const;
};

// The frames of Python on one thread, kept up to date by the thread's profile function: that one is called
// with the interpreter's lock as each frame begins and ends. So the frames can be read at an allocation,
// where that lock may not be waited for: the operator that allocates may hold a lock of torch, and whoever
// has the interpreter's may be waiting for that.
//
// A profile function that was there before goes on being called. Where the program sets another one, the
// frames are not known from then on.
class PythonStack {
 public:
  enum class Kind : uint8_t { kProgram, kLibrary, kModuleCall, kBoundary };
  // What is known of a frame's code; one for all frames of a code.
  struct Code {
    PythonObject object;
    Kind kind = Kind::kProgram;
    std::string file;
    std::string function;
  };
  struct Frame {
    PythonObject object;  // a PyFrameObject
    std::shared_ptr<const Code> code;
    PythonObject module;  // of a call of a module
    uint64_t number;      // tells it from all other frames of the thread; never 0

    // The line that runs, or the call of which runs. Reads what only the frame's own thread writes.
    int line() const noexcept;
  };

  // Follows the frames of the calling thread, until stop() was called as often. Called with the GIL.
  static PythonStack* start(const LibraryFrames& library);
  // On any thread. Elsewhere than on its own, or without the GIL, the profile function stays until it is next
  // called. The stack may be gone after it.
  void stop() noexcept;

  // The frames that run, outermost first; null where they are not known. Called on the stack's own thread,
  // with or without the GIL.
  const std::vector<Frame>* frames() const noexcept;

 private:
  PythonStack(const LibraryFrames& library, PyThreadState* thread);
  static int on_event(PyObject* previous, PyFrameObject* frame, int what, PyObject* argument);
  // Takes the profile function from the thread, which is the calling one, and ends this.
  void end() noexcept;
  void push(PyFrameObject* frame);
  // Takes away frames that ended unseen, so that the innermost one is `caller`.
  void cut_back_to(const PyFrameObject* caller) noexcept;
  std::shared_ptr<const Code> code_of(PyFrameObject* frame);

  const LibraryFrames library_;
  PyThreadState* const thread_;
  std::atomic<uint32_t> num_followers_{0};
  Py_tracefunc previous_function_ = nullptr;
  PythonObject previous_object_;
  std::vector<Frame> frames_;
  uint64_t num_frames_ = 0;                                           // that there were
  std::unordered_map<PyObject*, std::shared_ptr<const Code>> codes_;  // each holds its key
};

}  // namespace memomalloc
