// Buffers hand their memory on to later ones along the cheapest flow.
#pragma once

#include <cstdint>

#include "planner/budget.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

inline constexpr int32_t kMinCostFlowMaxBuffers = 1500;

// The shared objects of Lee et al., "On-device neural net inference with mobile GPUs" (2019): every buffer
// takes either new memory, at the cost of its size, or that of a buffer that has died, at the cost of what it
// is larger by. The cheapest assignment is a min-cost flow between deaths and births. Each chain of buffers
// that follow each other is an object as large as its largest, and the objects are laid side by side. O(n^3)
// at worst. Throws std::invalid_argument for more than kMinCostFlowMaxBuffers buffers. Honours alignments,
// ignores pins. Where the budget was spent, the later births have new memory.
Placement min_cost_flow(const PreparedProblem& problem, Budget& budget);

// About how many nanoseconds that takes.
double min_cost_flow_cost_ns(const PreparedProblem& problem);

}  // namespace memomalloc::planner
