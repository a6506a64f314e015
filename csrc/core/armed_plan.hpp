#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>

#include "core/layout.hpp"
#include "core/region.hpp"
#include "core/run_budget.hpp"

namespace memomalloc {

// Names one run for ever: which region, and its how-manieth run.
using RunToken = uint64_t;

// What became of an attempt to begin a run.
enum class Begin : uint8_t {
  kStarted,
  kNested,    // this thread is in a run already, whose plan covers this call
  kNoRegion,  // there is no memory for one more run (limits, or the system), or there are too many of this
              // plan
};

struct BeginResult {
  Begin outcome;
  RunToken token;  // of the run, where one was started
};

// How a plan is replayed.
struct ReplayOptions {
  bool poison = false;             // overwrite every block as it is given back: a tool for tests
  bool prefault = false;           // make the pages of a run resident as it begins, not at their first use
  bool huge_pages = false;         // ask for huge pages (MADV_HUGEPAGE)
  uint32_t max_runs = UINT32_MAX;  // at one time
  // Of runs without a plan, whose large requests come from spare memory of the process all the same: a run
  // gives way to any other that the thread begins, and no memory is kept for it.
  bool gives_way = false;
};

// What the runs of a plan did since it was armed.
struct PlanCounts {
  uint64_t num_runs = 0;
  RunCounts counts;
  // Times that another plan could not be laid over a region of this one, since a tensor that is no output
  // lived on.
  uint64_t num_kept_regions = 0;
};

// A plan that is ready to be replayed. It has no memory: each run lays it over a region of the process.
//
// Shared by its owner and the regions that it lies on: these keep it, so that a run need not.
class ArmedPlan : public std::enable_shared_from_this<ArmedPlan> {
 public:
  // `budget`: bytes for the runs of several plans; null: no limit.
  static std::shared_ptr<ArmedPlan> make(std::shared_ptr<const Layout> layout, ReplayOptions options = {},
                                         std::shared_ptr<RunBudget> budget = nullptr);
  ArmedPlan(const ArmedPlan&) = delete;
  ArmedPlan& operator=(const ArmedPlan&) = delete;

  // Begins a run on the calling thread: its next requests are served from a region. Takes no lock where the
  // thread comes back to the region that it used last, and that one is clear or still laid with this plan.
  BeginResult begin() noexcept;
  // The same, and waits up to `time_limit` for memory if there is none.
  BeginResult begin(std::chrono::nanoseconds time_limit);

  // Ends a run. Called on another thread than the one that runs, or twice, it is safe: the run's own thread
  // ends it when it next begins one, or exits. Returns what happened in the run, or zeroes where this call
  // did not end it. Takes no lock on the run's own thread.
  static RunCounts end(RunToken token) noexcept;

  // Nobody will begin a run any more; regions let go of the plan as they can. Runs in progress go on.
  void retire() noexcept;
  bool is_retired() const noexcept {
    return is_retired_.load(std::memory_order_relaxed);
  }  // soon is early enough

  const Layout& layout() const noexcept { return *layout_; }
  const ReplayOptions& options() const noexcept { return options_; }
  // Whether requests are matched by who asks, which somebody must follow during a run then.
  bool matches_askers() const noexcept { return layout_->askers() != nullptr; }
  bool prefaults() const noexcept { return options_.prefault; }
  // Rises from plan to plan; never 0.
  uint64_t number() const noexcept { return number_; }

  // Whether requests that it does not foresee may be served from spare memory, which no budget counts.
  bool may_use_spare() const noexcept { return budget_ == nullptr; }
  // Whether a region laid with the plan stays within the budget. What other plans left in its memory, idle,
  // counts.
  bool is_within_budget(const Region& region) const noexcept;

  // A run is over, as far as limits go.
  void count_end() noexcept;

  PlanCounts counts() const noexcept;
  // The first deviating requests of the last run that had any.
  DeviatingRequests last_deviating_requests() const;

 private:
  friend RunCounts finish_run_of_thread() noexcept;

  // Counters of some of the threads, on cache lines of their own: those of a plan that many run must not meet
  // here.
  struct alignas(64) Shard {
    std::atomic<uint64_t> num_runs{0};
    std::atomic<uint64_t> served{0};
    std::atomic<uint64_t> missing{0};
    std::atomic<uint64_t> kept{0};
    std::array<std::atomic<uint64_t>, kNumDeviations> upstream{};
    std::atomic<uint64_t> upstream_bytes{0};
  };
  static constexpr std::size_t kNumShards = 16;

  ArmedPlan(std::shared_ptr<const Layout> layout, ReplayOptions options, std::shared_ptr<RunBudget> budget);
  bool may_begin() noexcept;
  // The region that the thread used last, taken and laid with this plan; null if that cannot be.
  Region* take_home() noexcept;
  void count(const RunCounts& counts) noexcept;

  const std::shared_ptr<const Layout> layout_;
  const ReplayOptions options_;
  const std::shared_ptr<RunBudget> budget_;
  const uint64_t number_;
  std::atomic<uint32_t> num_running_{0};  // where they are limited
  std::atomic<uint64_t> num_kept_regions_{0};
  std::atomic<bool> is_retired_{false};
  std::array<Shard, kNumShards> shards_;
  DeviatingRequests last_deviating_;  // guarded by the registry lock
};

// Whether the calling thread is in a run of a plan. A run that another thread has asked to end is ended here.
bool is_running_on_this_thread() noexcept;

// Ends the run without a plan that the calling thread is in, if any.
void end_run_that_gives_way() noexcept;

// Ends the calling thread's run: its counts go to the plan, the region back to the process.
RunCounts finish_run_of_thread() noexcept;

// In the child of a fork(), which has only one thread. The caller holds the registry lock.
void forget_waiting_threads() noexcept;

}  // namespace memomalloc
