// The searches of "auto" for one part of a problem.
#pragma once

#include <cstddef>
#include <cstdint>

#include "planner/budget.hpp"
#include "planner/parts.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

struct PartSearchOutcome {
  PartOutcome part;
  const char* planner = nullptr;  // who made the last step; null: nobody
};

// Branch and bound with restarts, skyline with restarts and windows of time, in turn: whose work was least
// for its weight comes next, and weights grow with success. The tree nearly always wins where there are few
// buffers: there the others begin later, and get the less, the more buffers it has placed within the target.
// It is left out where there are too many. Work is counted, not timed: a search that is not cut off by the
// clock is the same each time. `best_order` is the best order of the skyline. Where memory runs out, what was
// found before is the outcome.
PartSearchOutcome search_part(const PreparedProblem& part, Placement from, const Goal& goal,
                              size_t best_order, uint64_t seed, Budget& budget);

}  // namespace memomalloc::planner
