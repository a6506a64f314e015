#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/arena.hpp"
#include "core/layout.hpp"

namespace memomalloc {

// Names one run for ever: which arena, and its how-manieth run.
using RunToken = uint64_t;

// What became of an attempt to begin a run.
enum class Begin : uint8_t {
  kStarted,
  kNested,   // this thread runs on an arena already; its plan covers this call
  kNoArena,  // all arenas of the pool are in use and no other may or can be mapped
};

struct BeginResult {
  Begin outcome;
  RunToken token;  // of the run, where one was started
};

// What a pool did since it was made.
struct PoolStats {
  uint64_t num_runs = 0;
  RunCounts counts;
  uint64_t num_arenas = 0;
  uint64_t num_arenas_in_use = 0;
  uint64_t mapped_bytes = 0;
};

// The arenas of one armed plan: as many as inferences run at once, each reused by the runs that follow.
class Pool {
 public:
  // At most `max_arenas` arenas at a time. `poison` overwrites every block as it is given back: a tool for
  // tests.
  Pool(std::shared_ptr<const Layout> layout, uint32_t max_arenas, bool poison);
  // Arenas are unmapped as their last tensors go; runs in progress go on.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Begins a run on the calling thread: its next requests are served from an arena of the pool.
  BeginResult begin();

  // Ends a run. Called on another thread than the one that runs, or twice, it is safe: the run's own thread
  // ends it when it next begins one, or exits. Returns what happened in the run, or zeroes where this call
  // did not end it.
  static RunCounts end(RunToken token) noexcept;

  PoolStats stats() const;

 private:
  friend RunCounts finish_run_of_thread() noexcept;

  Arena* find_idle() noexcept;

  const std::shared_ptr<const Layout> layout_;
  const uint32_t max_arenas_;
  const bool poison_;
  // Guarded by the registry lock.
  std::vector<Arena*> arenas_;
  uint64_t num_runs_ = 0;
  RunCounts counts_;
};

// Ends the calling thread's run: its counts go to the pool, the arena back to it. The caller holds the
// registry lock.
RunCounts finish_run_of_thread() noexcept;

}  // namespace memomalloc
