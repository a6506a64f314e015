#include "torch/origin_capture.hpp"

#include <ATen/record_function.h>
#include <torch/csrc/jit/frontend/source_range.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "torch/operators.hpp"

namespace memomalloc {
namespace {

// The capture of this thread, for the callbacks. Weak: its recordings own it, and may be dropped on another
// thread.
struct ThreadCapture {
  std::weak_ptr<OriginCapture> capture;
  at::CallbackHandle callback = at::INVALID_CALLBACK_HANDLE;
};
thread_local ThreadCapture t_capture;

bool is_finalizing() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// Holds the interpreter's lock, whether or not the thread held it before.
class Gil {
 public:
  Gil() : state_(PyGILState_Ensure()) {}
  ~Gil() { PyGILState_Release(state_); }
  Gil(const Gil&) = delete;
  Gil& operator=(const Gil&) = delete;

 private:
  const PyGILState_STATE state_;
};

// Keeps the garbage collector from running, and so from freeing tensors of the program at a moment of our
// making.
class GarbageCollectionPause {
 public:
  GarbageCollectionPause() : was_on_(PyGC_Disable() != 0) {}
  ~GarbageCollectionPause() {
    if (was_on_) PyGC_Enable();
  }
  GarbageCollectionPause(const GarbageCollectionPause&) = delete;
  GarbageCollectionPause& operator=(const GarbageCollectionPause&) = delete;

 private:
  const bool was_on_;
};

std::string to_string(PyObject* text) {
  Py_ssize_t length = 0;
  const char* utf8 = PyUnicode_AsUTF8AndSize(text, &length);
  if (utf8 == nullptr) {
    PyErr_Clear();
    return "?";
  }
  return {utf8, static_cast<std::size_t>(length)};
}

}  // namespace

std::shared_ptr<OriginCapture> OriginCapture::of_this_thread(const LibraryFrames& frames) {
  std::shared_ptr<OriginCapture> capture = t_capture.capture.lock();
  if (capture != nullptr) return capture;
  // The last capture of this thread may have ended on another one, which could not remove the callback.
  stop_listening();
  capture.reset(new OriginCapture(frames));
  t_capture.capture = capture;
  t_capture.callback = at::addThreadLocalCallback(
      at::RecordFunctionCallback(
          [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
            // On a thread that torch handed the callback on to there is no capture, and nothing to do.
            if (const auto listening = t_capture.capture.lock()) listening->start_operator(function);
            return nullptr;
          },
          [](const at::RecordFunction& function, at::ObserverContext*) {
            if (const auto listening = t_capture.capture.lock()) listening->end_operator(function);
          })
          .scopes(operator_scopes()));
  return capture;
}

void OriginCapture::stop_listening() noexcept {
  const at::CallbackHandle callback = std::exchange(t_capture.callback, at::INVALID_CALLBACK_HANDLE);
  if (callback != at::INVALID_CALLBACK_HANDLE) at::removeCallback(callback);
}

OriginCapture::OriginCapture(const LibraryFrames& frames)
    : thread_(std::this_thread::get_id()), frames_(frames) {
  Py_INCREF(frames_.module_call_code);
  Py_INCREF(frames_.boundary_code);
  texts_.emplace_back();  // text 0: none
}

OriginCapture::~OriginCapture() {
  if (is_on_its_thread()) stop_listening();
  // While the interpreter ends its lock cannot be had on another thread; what it holds goes with it.
  if (!Py_IsInitialized() || is_finalizing()) return;
  const Gil gil;
  for (const auto& [code, kind] : frame_kinds_) Py_DECREF(code);
  for (const Key* key : contexts_) {
    for (PyObject* module : std::get<1>(*key)) Py_DECREF(module);
  }
  Py_DECREF(frames_.module_call_code);
  Py_DECREF(frames_.boundary_code);
}

void OriginCapture::start_operator(const at::RecordFunction& function) {
  const std::string name = function.name();
  if (!is_of_the_program(name)) return;
  running_.push_back({&function, intern(name), ++num_calls_, makes_tensors_only(name)});
}

void OriginCapture::end_operator(const at::RecordFunction& function) noexcept {
  // Operators end in the order opposite to their starts, but for one that began before the recording, or ends
  // elsewhere.
  const auto ended = std::find_if(running_.rbegin(), running_.rend(),
                                  [&](const RunningOperator& other) { return other.function == &function; });
  if (ended != running_.rend()) running_.erase(std::prev(ended.base()), running_.end());
}

ContextSource::Context OriginCapture::current() {
  std::vector<uint32_t> operators;
  uint32_t call = 0;
  for (const RunningOperator& running : running_) {
    if (running.makes_tensors_only && !operators.empty()) continue;
    operators.push_back(running.name);
    call = running.call;
  }
  Source source;
  uint32_t script_modules = 0;
  std::vector<PyObject*> modules;
  read_script_frames(script_modules, source);

  const Gil gil;
  const GarbageCollectionPause pause;
  read_python_frames(modules, source);
  std::reverse(modules.begin(), modules.end());
  const auto [entry, added] =
      context_ids_.try_emplace(Key{std::move(operators), std::move(modules), script_modules, source.file,
                                   source.line, source.function},
                               num_contexts());
  if (added) {
    contexts_.push_back(&entry->first);
    for (PyObject* module : std::get<1>(entry->first)) Py_INCREF(module);
  }
  return {entry->second, call};
}

bool OriginCapture::is_running(uint32_t call) const noexcept {
  if (!is_on_its_thread()) return false;  // a free on another thread is no part of the operator
  return std::any_of(running_.begin(), running_.end(),
                     [call](const RunningOperator& running) { return running.call == call; });
}

OriginCapture::Described OriginCapture::describe(uint32_t context) const {
  const auto& [operators, modules, script_modules, file, line, function] = *contexts_.at(context);
  Described described;
  for (const uint32_t name : operators) described.operators.push_back(texts_[name]);
  described.modules = modules;
  described.script_modules = texts_[script_modules];
  described.file = texts_[file];
  described.line = line;
  described.function = texts_[function];
  return described;
}

uint32_t OriginCapture::intern(const std::string& text) {
  const auto [entry, added] = text_ids_.try_emplace(text, static_cast<uint32_t>(texts_.size()));
  if (added) texts_.push_back(text);
  return entry->second;
}

bool OriginCapture::is_library(const std::string& file) const {
  return file.empty() || file.front() == '<' ||
         std::any_of(frames_.folders.begin(), frames_.folders.end(), [&file](const std::string& folder) {
           return file.compare(0, folder.size(), folder) == 0;
         });
}

OriginCapture::FrameKind OriginCapture::kind_of(PyCodeObject* code) {
  const auto [entry, added] = frame_kinds_.try_emplace(code, FrameKind::kProgram);
  if (added) {
    Py_INCREF(code);
    if (reinterpret_cast<PyObject*>(code) == frames_.module_call_code) {
      entry->second = FrameKind::kModuleCall;
    } else if (reinterpret_cast<PyObject*>(code) == frames_.boundary_code) {
      entry->second = FrameKind::kBoundary;
    } else if (is_library(to_string(code->co_filename))) {
      entry->second = FrameKind::kLibrary;
    }
  }
  return entry->second;
}

void OriginCapture::read_python_frames(std::vector<PyObject*>& modules, Source& source) {
  PyFrameObject* frame = PyThreadState_GetFrame(PyThreadState_Get());
  while (frame != nullptr) {
    PyCodeObject* code = PyFrame_GetCode(frame);
    const FrameKind kind = kind_of(code);
    if (kind == FrameKind::kBoundary) {
      Py_DECREF(code);
      Py_DECREF(frame);
      break;
    }
    if (kind == FrameKind::kModuleCall) {
      PyObject* locals = PyFrame_GetLocals(frame);
      PyObject* module = locals != nullptr ? PyMapping_GetItemString(locals, "self") : nullptr;
      if (module != nullptr) {
        modules.push_back(module);
        Py_DECREF(module);  // the frame keeps it while it runs, and the context once it is known
      } else {
        PyErr_Clear();
      }
      Py_XDECREF(locals);
    } else if (kind == FrameKind::kProgram && source.file == 0) {
      source = {intern(to_string(code->co_filename)), PyFrame_GetLineNumber(frame),
                intern(to_string(code->co_qualname))};
    }
    Py_DECREF(code);
    PyFrameObject* caller = PyFrame_GetBack(frame);
    Py_DECREF(frame);
    frame = caller;
  }
}

void OriginCapture::read_script_frames(uint32_t& modules, Source& source) {
  const std::vector<torch::jit::StackEntry> stack = torch::jit::currentCallstack();
  if (stack.empty()) return;
  for (const torch::jit::StackEntry& entry : stack) {  // innermost first
    const auto position = entry.range.file_line_col();
    if (!position.has_value()) continue;
    const auto& [file, line, column] = *position;
    // A line of the library is better than none: the frames of Python only know who called the script.
    if (source.file == 0 || !is_library(file)) {
      source = {intern(file), static_cast<int>(line), intern(entry.filename)};
    }
    if (!is_library(file)) break;
  }
  std::string path;
  for (const std::string& level : torch::jit::currentModuleHierarchy()) {
    if (!path.empty()) path += '.';
    path += level;
  }
  modules = intern(path);
}

}  // namespace memomalloc
