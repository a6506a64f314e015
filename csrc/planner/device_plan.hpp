// Plans for the memories of a device.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/budget.hpp"
#include "planner/device_problem.hpp"

namespace memomalloc::planner {

struct DeviceRequest {
  double time_limit_s = 1.0;
  uint64_t seed = 0;
  std::vector<Place> warm_start;  // of an earlier plan, memory -1 for what it had not; empty: none
  Budget::Poll poll;              // told the cost so far (-1: none); false: return the best plan so far
};

struct DeviceResult {
  std::vector<Place> places;  // in the order of the buffers; empty if no plan was found
  int64_t cost = 0;
  int64_t cost_lower_bound = 0;
  std::vector<int64_t> bytes;  // of each memory; all chunks but the last count as whole
  bool proven_cheapest = false;
  bool proven_optimal =
      false;  // no plan is cheaper, or as cheap and smaller in the memories without a capacity
  bool proven_infeasible = false;  // there is no plan
  bool cancelled = false;
};

// The cheapest places that can be found in time; of these, as few bytes as possible in each memory that has
// no capacity: within one, any place is as good as another. Throws std::bad_alloc where memory runs out. The
// result is not checked here: that is the checker's office.
DeviceResult plan_device(const DeviceProblem& problem, const DeviceRequest& request);

}  // namespace memomalloc::planner
