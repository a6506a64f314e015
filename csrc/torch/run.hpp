#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "core/armed_plan.hpp"
#include "core/thread_state.hpp"

// An armed plan and a replay of it, as Python and the dispatcher hold them.
namespace memomalloc {

// Retires the plan as it goes.
struct PlanOwner {
  explicit PlanOwner(std::shared_ptr<ArmedPlan> armed) : plan(std::move(armed)) {}
  ~PlanOwner() {
    if (plan != nullptr) plan->retire();
  }
  PlanOwner(PlanOwner&&) noexcept = default;
  PlanOwner(const PlanOwner&) = delete;
  PlanOwner& operator=(const PlanOwner&) = delete;
  PlanOwner& operator=(PlanOwner&&) = delete;

  std::shared_ptr<ArmedPlan> plan;
};

// It ends with this object, if nobody ended it before. A signal handler of Python may raise an exception
// between any two calls; what a call has returned is freed then, and nothing else is done.
class Run {
 public:
  explicit Run(BeginResult result) noexcept : result_(result) {}
  ~Run() { end(); }
  Run(Run&& other) noexcept
      : result_(std::exchange(other.result_, {Begin::kNoRegion, 0})),
        follower_(std::exchange(other.follower_, 0)),
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
  uint64_t follower_ = 0;  // the thread whose askers are followed
  bool ended_ = false;
};

// Begins a run on the calling thread, and waits up to `wait_s` for memory. The caller holds the GIL. Throws
// nb::python_error: while it waits, Python's signal handlers run.
Run begin_run(ArmedPlan& plan, double wait_s);

}  // namespace memomalloc
