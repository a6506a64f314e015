// Which body lies in which memory, at the least cost.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "planner/bodies.hpp"
#include "planner/budget.hpp"
#include "planner/device_problem.hpp"

namespace memomalloc::planner {

// A memory for each body.
using Assignment = std::vector<int32_t>;

struct Realisation {
  bool fits = false;
  bool proven = false;    // if it does not fit: there is no way
  Assignment assignment;  // what fits; it may differ from what was asked for
};

// Whether the bodies of each memory with a capacity can be placed within it. With `may_move` what does not
// fit moves to a later memory.
using Realise = std::function<Realisation(const Assignment&, bool may_move, Budget&)>;

struct AssignmentOutcome {
  Assignment best;  // empty: none was found
  int64_t cost = 0;
  int64_t lower_bound = 0;  // of the cost
  bool proven = false;      // none is cheaper; if none was found, there is none
};

// Each body may lie in one memory at least. `from`: those of an earlier plan, -1 where there is none; or
// empty. First guesses come from prices for bytes and ticks of full memories (a Lagrangian relaxation, whose
// value is a lower bound of the cost too). They are improved a body at a time, and all assignments are
// searched, cheapest memories first, as far as the budget goes.
AssignmentOutcome assign(const DeviceProblem& problem, const Bodies& bodies, const Assignment& from,
                         const Realise& realise, uint64_t seed, Budget& budget);

}  // namespace memomalloc::planner
