#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/arena.hpp"
#include "core/arena_budget.hpp"
#include "core/layout.hpp"

namespace memomalloc {

// Names one run for ever: which arena, and its how-manieth run.
using RunToken = uint64_t;

// What became of an attempt to begin a run.
enum class Begin : uint8_t {
  kStarted,
  kNested,   // this thread runs on an arena already; its plan covers this call
  kNoArena,  // all arenas of the pool are in use and no other may (budget, number) or can be mapped
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
  uint64_t num_evicted = 0;  // arenas unmapped to make room within the budget
  uint64_t mapped_bytes = 0;
};

// The arenas of one armed plan: as many as inferences run at once, each reused by the runs that follow.
class Pool {
 public:
  // At most `max_arenas` arenas at a time, and no more bytes than the budget allows all its pools together;
  // null: no limit on bytes.
  Pool(std::shared_ptr<const Layout> layout, uint32_t max_arenas, ArenaOptions options = {},
       std::shared_ptr<ArenaBudget> budget = nullptr);
  // Arenas are unmapped as their last tensors go; runs in progress go on.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Begins a run on the calling thread: its next requests are served from an arena of the pool.
  BeginResult begin();
  // The same, and waits up to `time_limit` for an arena if there is none.
  BeginResult begin(std::chrono::nanoseconds time_limit);

  // Ends a run. Called on another thread than the one that runs, or twice, it is safe: the run's own thread
  // ends it when it next begins one, or exits. Returns what happened in the run, or zeroes where this call
  // did not end it.
  static RunCounts end(RunToken token) noexcept;

  // Whether requests are matched by who asks, which somebody must follow during a run then.
  bool matches_askers() const noexcept { return layout_->askers() != nullptr; }

  bool prefaults() const noexcept { return options_.prefault; }

  PoolStats stats() const;

  // The first deviating requests of the last run that had any.
  DeviatingRequests last_deviating_requests() const;

  // Gives the pages that no run and no block uses back to the system, of arenas that were idle for so long;
  // returns the bytes. See Arena::release_pages().
  uint64_t release_pages(std::chrono::nanoseconds idle_for = {});

  // --- For the budget; the caller holds the registry lock

  // The idle arena that was not used for longest; null if none is idle.
  Arena* longest_unused() noexcept;
  // Unmaps an idle arena, so that another fits.
  void evict(Arena* arena) noexcept;

 private:
  friend RunCounts finish_run_of_thread() noexcept;

  BeginResult begin_locked();
  // What is left to do for a run once the lock, which the caller holds, is given back.
  static BeginResult started(BeginResult result, std::unique_lock<std::mutex>& lock) noexcept;
  Arena* find_free() noexcept;
  Arena* map_another();

  const std::shared_ptr<const Layout> layout_;
  const uint32_t max_arenas_;
  const ArenaOptions options_;
  const std::shared_ptr<ArenaBudget> budget_;
  // Guarded by the registry lock.
  std::vector<Arena*> arenas_;
  uint64_t num_runs_ = 0;
  uint64_t num_evicted_ = 0;
  RunCounts counts_;
  DeviatingRequests last_deviating_;
};

// In the child of a fork(), which has only one thread. The caller holds the registry lock.
void forget_waiting_threads() noexcept;

// Whether the calling thread runs on an arena. A run that another thread has asked to end is ended here.
bool is_running_on_this_thread() noexcept;

// Ends the calling thread's run: its counts go to the pool, the arena back to it. The caller holds the
// registry lock.
RunCounts finish_run_of_thread() noexcept;

}  // namespace memomalloc
