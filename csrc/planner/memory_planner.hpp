// Plans the bodies that are to lie in one memory.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/bodies.hpp"
#include "planner/budget.hpp"
#include "planner/device_problem.hpp"

namespace memomalloc::planner {

struct MemoryPlan {
  // Without places, where a little more than the capacity was found: of those that end within it, the places;
  // of the others, memory -1. Else empty.
  std::vector<Place> partly;
  std::vector<Place>
      places;  // of the bases of the bodies, in the order they were given; empty: none was found
  int64_t bytes = 0;
  int64_t lower_bound = 0;
  // With places, and without a capacity: there is no smaller one. Without places: there are none.
  bool proven = false;
};

// The bodies that `members` names, in memory `memory` of `problem`: within its capacity, or, if it has none,
// in as few bytes as can be found. What is no more than buffers side by side goes to the planner "auto" as it
// is. Everything else is planned as if each body needed all its bytes from its birth to its death; then by
// first fit, again and again with perturbed orders, in turn with an exact search. `from`: places of the
// bodies in an earlier plan, memory -1 where there is none; empty: there was no such plan.
MemoryPlan plan_memory(const DeviceProblem& problem, const Bodies& bodies, int64_t memory,
                       const std::vector<int32_t>& members, const std::vector<Place>& from, uint64_t seed,
                       Budget& budget);

}  // namespace memomalloc::planner
