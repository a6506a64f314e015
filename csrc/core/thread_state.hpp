#pragma once

#include <atomic>
#include <cstdint>

namespace memomalloc {

class Region;
class Recording;

// What the allocator asks about the calling thread. Trivial, and in the static TLS block: reading it costs
// one instruction, and it may be read while the thread dies.
struct ThreadState {
  Region* running;       // the region this thread replays on; null: it does not
  Region* home;          // the one it replayed on last; it may be another thread's by now
  Recording* recording;  // the innermost recording open on this thread; null: none
  uint32_t asker;   // a tag of the operators that run now, where somebody follows them; 0: none, or not known
  bool is_exiting;  // its thread-local objects are being destroyed: nothing begins any more
  uint64_t number;  // see this_thread_number()
  uint64_t num_upstream;  // requests of this thread that went upstream
};

inline thread_local ThreadState t_state
    __attribute__((tls_model("initial-exec"))) = {nullptr, nullptr, nullptr, 0, false, 0, 0};

inline std::atomic<uint64_t> g_num_threads{0};

// Tells the calling thread from all others, also from those that are gone: the system's numbers and the
// addresses of a thread are used again. Never 0.
inline uint64_t this_thread_number() noexcept {
  // relaxed: all that matters is that no two threads get one number.
  if (t_state.number == 0) t_state.number = g_num_threads.fetch_add(1, std::memory_order_relaxed) + 1;
  return t_state.number;
}

// Sees to it that a run or recording which is still open when the calling thread exits is ended then.
void end_runs_at_thread_exit();

}  // namespace memomalloc
