// One way in for every planner: a stated problem and a planner's name, offsets in bytes out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planner/budget.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

inline constexpr int64_t kNoCapacity = -1;

struct Request {
  std::string planner = "auto";
  int64_t capacity = kNoCapacity;  // in bytes; a search stops at the first plan within it
  double time_limit_s = 1.0;       // of all planners; see plan()
  uint64_t seed = 0;
  std::vector<int64_t>
      warm_start;     // offsets in bytes of an earlier plan, kFree for what it had not; empty: none
  Budget::Poll poll;  // told bytes; false: return the best plan so far
};

struct Result {
  std::vector<int64_t> offsets;  // in bytes, in the order of the problem; empty if no plan was found
  int64_t arena = 0;             // in bytes
  std::string planner;           // who found it
  bool proven_optimal = false;
  bool proven_infeasible = false;  // no plan is within the capacity
  bool cancelled = false;
};

// Every name that `plan` knows.
const std::vector<std::string>& planner_names();

// Runs one planner. The best placement so far is the result where the time or memory runs out. Where a
// planner had no time for any, it is one of next fit, which takes less than a microsecond a buffer beyond the
// limit: preparation takes as much, whatever the limit. With a warm start, buffers are first placed in the
// order of its offsets, each as low as it can be: the result is no higher than that, and "auto" searches from
// there. Beside the problem and the result about 150 bytes a buffer are used, and 150 MB by a search. Throws
// std::invalid_argument for a name that is not in `planner_names()`, or for more buffers than the planner can
// take, and std::bad_alloc where there is not memory enough for any placement. The result is not checked
// here: that is the checker's office.
Result plan(const Problem& problem, const Request& request);

}  // namespace memomalloc::planner
