#pragma once

#include <cstdint>

namespace memomalloc {

class Arena;
class Recording;

// What the allocator asks about the calling thread. Trivial, and in the static TLS block: reading it costs
// one instruction, and it may be read while the thread dies.
struct ThreadState {
  Arena* running;        // the arena this thread replays on; null: it does not
  Recording* recording;  // the innermost recording open on this thread; null: none
  uint32_t asker;  // a tag of the operators that run now, where somebody follows them; 0: none, or not known
};

inline thread_local ThreadState t_state __attribute__((tls_model("initial-exec"))) = {nullptr, nullptr, 0};

// Sees to it that a run or recording which is still open when the calling thread exits is ended then.
void end_runs_at_thread_exit();

}  // namespace memomalloc
