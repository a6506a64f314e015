#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "core/recording.hpp"
#include "core/thread_state.hpp"
#include "torch/python_stack.hpp"

namespace at {
struct RecordFunction;
}

namespace memomalloc {

// Knows who asks for a tensor on one thread: the operators that are running (from torch's RecordFunction
// callbacks), the modules that are being called and the line of the program (from the frames of Python or of
// TorchScript). Tells the recordings of the thread which tensors each operator reads. Costs some microseconds
// at each allocation while a recording is open; listens to nothing once none is.
//
// Waits for no lock but its own, behind which nobody waits for anything: least of all for the interpreter's,
// which another thread may have while it waits for a lock of torch that the allocating operator holds.
class OriginCapture final : public ContextSource {
 public:
  // One kind of asking, as it is told to Python.
  struct Described {
    std::vector<std::string> operators;  // outermost first
    std::vector<PythonObject> modules;   // outermost first
    std::string script_modules;          // TorchScript's own module path, where its interpreter runs
    std::string file;                    // empty: not known
    int line = 0;
    std::string function;
  };

  // The capture of the calling thread, for one recording more: a new one, or the one that an outer recording
  // opened. Called with the GIL. `follows_calls`: a new one asks what operators read, for which torch may
  // wait for the GIL as an operator begins or ends (no allocation waits).
  static std::shared_ptr<OriginCapture> of_this_thread(const LibraryFrames& library, bool follows_calls);
  bool follows_calls() const noexcept { return follows_calls_; }

  Context current() override;
  bool is_running(uint32_t call) const noexcept override;
  void recording_closed() noexcept override;

  // What was seen so far, by the id of a context. On any thread.
  std::vector<Described> contexts() const;

 private:
  struct RunningOperator {
    const at::RecordFunction* function;
    uint32_t name;
    uint32_t call;
    bool makes_tensors_only;  // aten::empty and its kind, which every operator asks for its memory
  };
  struct Source {
    uint32_t file = 0;
    int line = 0;
    uint32_t function = 0;
    uint64_t frame = 0;  // 0: no frame of Python
  };
  using Key = std::tuple<std::vector<uint32_t>, std::vector<PythonObject>, uint32_t, uint32_t, int, uint32_t>;

  OriginCapture(const LibraryFrames& library, bool follows_calls);
  // The capture that listens on the calling thread; null if none does.
  static OriginCapture* listening() noexcept;
  static void start_listening(bool follows_calls);
  static void stop_listening() noexcept;
  void start_operator(const at::RecordFunction& function);
  void end_operator(const at::RecordFunction& function) noexcept;
  // Tells the recordings which tensors the operator reads.
  void log_arguments(const at::RecordFunction& function, bool is_outermost);
  bool is_on_its_thread() const noexcept { return this_thread_number() == thread_; }

  uint32_t intern(const std::string& text);
  void read_python_frames(std::vector<PythonObject>& modules, Source& source);
  void read_script_frames(uint32_t& modules, Source& source);

  const uint64_t thread_;
  const LibraryFrames library_;
  const bool follows_calls_;
  PythonStack* stack_;  // as long as a recording is open
  std::atomic<uint32_t> num_open_{0};
  std::vector<RunningOperator> running_;  // its own thread's alone
  uint32_t num_calls_ = 0;
  std::vector<Argument> arguments_;  // of one operator, while they are logged

  // Guards what follows, which only its own thread writes and any may read.
  mutable std::mutex lock_;
  std::vector<std::string> texts_;
  std::unordered_map<std::string, uint32_t> text_ids_;
  std::map<Key, uint32_t> context_ids_;
  std::vector<const Key*> contexts_;
};

}  // namespace memomalloc
