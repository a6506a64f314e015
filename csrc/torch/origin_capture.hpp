#pragma once

#include <Python.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "core/recording.hpp"

namespace at {
struct RecordFunction;
}

namespace memomalloc {

// What Python must tell the capture about itself: which frames are calls of a module, and which files are the
// library's.
struct LibraryFrames {
  PyObject* module_call_code = nullptr;  // of torch.nn.Module._call_impl; its local `self` is the module
  // Who called this is not part of an origin: optimized calls come from anywhere, and must look alike.
  PyObject* boundary_code = nullptr;
  std::vector<std::string> folders;  // files below them are nobody's "source line"
};

// Knows who asks for a tensor on one thread: the operators that are running (from torch's RecordFunction
// callbacks), the modules that are being called and the line of the program (from the frames of Python or of
// TorchScript). Costs some microseconds at each allocation, and nothing when no recording is open.
//
// Lives on the thread that made it, as long as a recording holds it. The interpreter's lock is taken at each
// allocation, so no lock of ours may be held there.
class OriginCapture final : public ContextSource {
 public:
  // One kind of asking, as it is told to Python.
  struct Described {
    std::vector<std::string> operators;  // outermost first
    std::vector<PyObject*> modules;      // outermost first; owned by the capture
    std::string script_modules;          // TorchScript's own module path, where its interpreter runs
    std::string file;
    int line = 0;
    std::string function;
  };

  // The capture of the calling thread: a new one, or the one that an outer recording opened. Called with the
  // GIL.
  static std::shared_ptr<OriginCapture> of_this_thread(const LibraryFrames& frames);
  ~OriginCapture() override;

  Context current() override;
  bool is_running(uint32_t call) const noexcept override;

  // By the id of a context. Called with the GIL.
  Described describe(uint32_t context) const;
  uint32_t num_contexts() const noexcept { return static_cast<uint32_t>(contexts_.size()); }

 private:
  struct RunningOperator {
    const at::RecordFunction* function;
    uint32_t name;
    uint32_t call;
    bool makes_tensors_only;  // aten::empty and its kind, which every operator asks for its memory
  };
  enum class FrameKind : uint8_t { kProgram, kLibrary, kModuleCall, kBoundary };
  struct Source {
    uint32_t file = 0;
    int line = 0;
    uint32_t function = 0;
  };
  using Key = std::tuple<std::vector<uint32_t>, std::vector<PyObject*>, uint32_t, uint32_t, int, uint32_t>;

  explicit OriginCapture(const LibraryFrames& frames);
  void start_operator(const at::RecordFunction& function);
  void end_operator(const at::RecordFunction& function) noexcept;
  static void stop_listening() noexcept;
  bool is_on_its_thread() const noexcept { return std::this_thread::get_id() == thread_; }

  uint32_t intern(const std::string& text);
  FrameKind kind_of(PyCodeObject* code);
  bool is_library(const std::string& file) const;
  void read_python_frames(std::vector<PyObject*>& modules, Source& source);
  void read_script_frames(uint32_t& modules, Source& source);

  const std::thread::id thread_;
  const LibraryFrames frames_;
  std::vector<RunningOperator> running_;
  uint32_t num_calls_ = 0;
  std::vector<std::string> texts_;
  std::unordered_map<std::string, uint32_t> text_ids_;
  std::unordered_map<PyCodeObject*, FrameKind> frame_kinds_;  // holds references
  std::map<Key, uint32_t> context_ids_;
  std::vector<const Key*> contexts_;  // holds references to the modules
};

}  // namespace memomalloc
