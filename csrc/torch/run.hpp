#pragma once

#include <utility>

#include "core/pool.hpp"
#include "core/thread_state.hpp"

// A replay of a pool's plan, as Python and the dispatcher hold it.
namespace memomalloc {

// It ends with this object, if nobody ended it before. A signal handler of Python may raise an exception
// between any two calls; what a call has returned is freed then, and nothing else is done.
class Run {
 public:
  explicit Run(BeginResult result) noexcept : result_(result) {}
  ~Run() { end(); }
  Run(Run&& other) noexcept
      : result_(std::exchange(other.result_, {Begin::kNoArena, 0})),
        follower_(std::exchange(other.follower_, nullptr)),
        ended_(other.ended_) {}
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;
  Run& operator=(Run&&) = delete;

  bool started() const noexcept { return result_.outcome == Begin::kStarted; }
  // "started", or why it was not.
  const char* outcome() const noexcept;

  // Lets the askers be followed until the run ends. May throw: the run ends with this object then.
  void follow();

  // What happened in the run; zeroes where this call did not end it.
  RunCounts end() noexcept;

 private:
  BeginResult result_;
  const ThreadState* follower_ = nullptr;
  bool ended_ = false;
};

// Begins a run on the calling thread, and waits up to `wait_s` for an arena. The caller holds the GIL. Throws
// nb::python_error: while it waits, Python's signal handlers run.
Run begin_run(Pool& pool, double wait_s);

}  // namespace memomalloc
