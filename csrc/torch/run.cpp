#include "torch/run.hpp"

#include <nanobind/nanobind.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "torch/asker.hpp"
#include "torch/python_object.hpp"

namespace nb = nanobind;

namespace memomalloc {

const char* Run::outcome() const noexcept {
  switch (result_.outcome) {
    case Begin::kStarted:
      return "started";
    case Begin::kNested:
      return "nested";
    case Begin::kNoRegion:
      break;
  }
  return "no_arena";
}

void Run::follow() {
  if (!started()) return;
  follow_askers();
  follower_ = this_thread_number();
}

RunCounts Run::end() noexcept {
  // What was begun on another thread stays there: that thread may be in a run of its own by now.
  if (std::exchange(follower_, 0) == this_thread_number()) {
    try {
      stop_following_askers();
    } catch (...) {
      // Followed without need: it costs time, and nothing else.
    }
  }
  return started() && !std::exchange(ended_, true) ? ArmedPlan::end(result_.token) : RunCounts{};
}

Run begin_run(ArmedPlan& plan, double wait_s) {
  using Clock = std::chrono::steady_clock;
  // Waits in slices, between which Python's signal handlers run: Ctrl-C does not wait for memory.
  constexpr std::chrono::nanoseconds kSlice = std::chrono::milliseconds(50);
  constexpr double kForEver_s = 1e9;
  BeginResult result;
  {
    std::optional<WithoutGil> without;
    if (plan.prefaults()) without.emplace();  // which may take seconds
    result = plan.begin();
  }
  if (result.outcome == Begin::kNoRegion && wait_s > 0) {
    const std::chrono::duration<double> longest(std::min(wait_s, kForEver_s));
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(longest);
    while (result.outcome == Begin::kNoRegion && Clock::now() < deadline) {
      {
        const WithoutGil without;
        result = plan.begin(std::min<std::chrono::nanoseconds>(kSlice, deadline - Clock::now()));
      }
      if (result.outcome == Begin::kNoRegion && asking_python([] { return PyErr_CheckSignals(); }) != 0)
        throw nb::python_error();
    }
  }
  Run run(result);
  if (plan.matches_askers()) run.follow();
  return run;
}

}  // namespace memomalloc
