#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/observers.hpp"

namespace memomalloc {

// All that one recording saw: buffers in the order of their allocation. A tick is one event, an allocation or
// a free.
struct RecordedBuffers {
  std::vector<uint64_t> sizes;         // bytes, as requested
  std::vector<int64_t> starts;         // ticks; strictly increasing
  std::vector<int64_t> ends;           // ticks; exclusive; kAlive: not freed before the recording ended
  std::vector<uint32_t> contexts;      // what the context source said at the allocation
  std::vector<uint8_t> freed_in_call;  // freed while the call that asked for it was still running
  int64_t num_ticks = 0;
  // What other threads asked for meanwhile: it belongs to no buffer of this recording.
  uint64_t num_elsewhere = 0;
  uint64_t bytes_elsewhere = 0;

  static constexpr int64_t kAlive = -1;
};

// The calls of operators that no other operator made, in the order of their ends; those that neither read nor
// made a recorded buffer are left out. The buffers of [begin, end) are what a call made.
struct RecordedCalls {
  std::vector<int64_t> begins;     // ticks; of the next event when the call began
  std::vector<int64_t> ends;       // ticks; of the next event when it had ended
  std::vector<uint32_t> contexts;  // what the context source said of it
  std::vector<uint64_t> frames;    // what tells the frame that called from all others; 0: not known
  std::vector<uint8_t> tracked;    // autograd may keep what the call read or made
  // Pairs: a call, and a recorded buffer that was an argument of it or of an operator inside it.
  std::vector<uint32_t> reading_calls;
  std::vector<uint32_t> read_buffers;
  // Pairs: a call, and the bytes of an argument of its own that is no recorded buffer, or a parameter.
  std::vector<uint32_t> outside_calls;
  std::vector<uint64_t> outside_bytes;
  // Something read buffers in a way that cannot be followed: what is above is not all there was.
  bool is_incomplete = false;
};

// An argument of an operator: the memory of a tensor.
struct Argument {
  const void* block;
  uint64_t bytes;
  bool needs_gradient;
  bool is_parameter;  // autograd is to give it a gradient: it is read again, whatever this recording sees
};

// Knows what a thread is doing when it allocates. One a thread; shared by all recordings that are open on it.
class ContextSource : public std::enable_shared_from_this<ContextSource> {
 public:
  struct Context {
    uint32_t id = 0;     // names what asked, to the source
    uint32_t call = 0;   // names this one call of it
    uint64_t frame = 0;  // names the frame of the program that runs; 0: not known
  };
  virtual ~ContextSource() = default;
  // Asked by the recorded thread at an allocation, with no lock of the core held. Waits for nobody. May throw
  // std::bad_alloc.
  virtual Context current() = 0;
  // Whether a call is still running; asked at a free, on any thread.
  virtual bool is_running(uint32_t call) const noexcept = 0;
  // A recording that was opened with this source is closed, on any thread. Once a recording, with no lock
  // held.
  virtual void recording_closed() noexcept = 0;
};

// The ticks of recordings that are told together, each on a thread of its own. Guarded by the registry lock.
struct Clock {
  int64_t now = 0;
};

// Writes down the allocations of one thread, and the frees of those blocks on any thread, while it is open.
// Paid for while recording only: every event takes a lock.
class Recording {
 public:
  // Opens a recording on the calling thread, inside any that is open there already; each sees every event.
  // One with a clock that is given outlives the thread: what the thread allocated may be freed when it is
  // gone.
  static std::shared_ptr<Recording> open(std::shared_ptr<ContextSource> source = nullptr,
                                         std::shared_ptr<Clock> clock = nullptr);

  // Ends it; later events are not seen. May be called on any thread, and more than once.
  void close() noexcept;

  // The source of the recordings that are open on the calling thread, or were until another one closed them;
  // null if there is none.
  static ContextSource* source_of_this_thread() noexcept;

  // Whether a recording is open on the calling thread.
  static bool is_open_on_this_thread() noexcept;

  // What was recorded so far; complete once closed.
  RecordedBuffers buffers() const;
  RecordedCalls calls() const;
  bool is_closed() const noexcept;

  // Whether its thread is there, and its events are logged.
  bool has_thread() const noexcept;

  // By how many bytes the process's resident memory grew between the opening and the moment when most bytes
  // were alive.
  uint64_t resident_growth_bytes() const noexcept;

  // --- Called by the allocator

  // An allocation on the calling thread, by every recording open on it. May throw std::bad_alloc.
  static void log_allocation(void* block, std::size_t bytes);
  // An allocation on a thread that has no recording open, while another thread records.
  static void log_elsewhere(std::size_t bytes) noexcept;
  // A free on any thread. Called before the block goes back, since its address may be handed out again right
  // after.
  static void log_free(void* block) noexcept;
  static bool any_open() noexcept { return g_observers.any_recording(); }

  // --- Called by the context source, of the calling thread's recordings

  // An operator begins that no other one called; `with_gradients`: autograd follows what it does, if any of
  // its arguments needs a gradient.
  static void begin_call(bool with_gradients) noexcept;
  // It has these arguments, or one that it called has: `is_outermost` says which.
  static void log_arguments(const std::vector<Argument>& arguments, bool is_outermost) noexcept;
  // Whether it had to do with a recorded buffer so far.
  static bool has_call_to_log() noexcept;
  static void end_call(ContextSource::Context context) noexcept;
  // Somebody reads buffers in a way that cannot be followed.
  static void lose_calls() noexcept;

  // Ends what is open on the calling thread, which exits, but for frees of what outlives it.
  static void close_all_of_thread() noexcept;

  // In the child of a fork(), where the other threads do not exist. The caller holds the registry lock.
  static void close_those_of_other_threads() noexcept;

 private:
  Recording(std::shared_ptr<ContextSource> source, std::shared_ptr<Clock> clock);
  // Takes this, the innermost of the calling thread, out of its chain; frees go on being logged.
  void leave_thread() noexcept;
  // Takes recordings that are closed out of the calling thread's chain. The caller holds the registry lock,
  // and drops what it gets (each holds the next) without it.
  static std::shared_ptr<Recording> detach_closed() noexcept;
  void add(void* block, std::size_t bytes, ContextSource::Context context);
  void end(uint32_t buffer) noexcept;
  void add_arguments(const std::vector<Argument>& arguments, bool is_outermost);
  void add_call(ContextSource::Context context);
  // Does something with each recording that is open on the calling thread; if there is no memory for it,
  // their calls are lost, and that is all.
  template <typename Function>
  static void for_each_of_this_thread(const Function& function) noexcept;

  const std::shared_ptr<ContextSource> source_;
  const bool outlives_thread_;
  const std::shared_ptr<Clock> clock_;
  bool has_told_source_ = false;               // that it is closed, which it is told once
  RecordedBuffers buffers_;                    // without the number of ticks, which the clock has
  std::vector<uint32_t> asking_calls_;         // by buffer; see ContextSource
  std::unordered_map<void*, uint32_t> alive_;  // by address; erased at the free, for addresses are reused
  bool closed_ = false;

  RecordedCalls calls_;
  // Of the call that runs: when it began, and its arguments so far.
  uint32_t num_calls_ = 0;  // that began
  int64_t call_begin_ = 0;
  bool call_with_gradients_ = false;
  bool call_is_tracked_ = false;
  std::vector<uint32_t> call_reads_;
  std::vector<uint32_t> last_reads_;  // by buffer; the call that read it last, as num_calls_ counted then
  std::vector<uint64_t> call_outside_;

  uint64_t live_bytes_ = 0;
  uint64_t peak_live_bytes_ = 0;
  bool at_peak_ = false;  // the peak is not yet measured: its last block is not yet written
  uint64_t resident_at_opening_ = 0;
  uint64_t resident_at_peak_ = 0;

  // The chain of recordings open on one thread. The thread owns them while they are in it, since another
  // thread may close and drop one.
  std::shared_ptr<Recording> self_;
  Recording* outer_ = nullptr;
};

}  // namespace memomalloc
