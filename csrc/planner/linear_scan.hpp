// The order of events of the program itself: each buffer takes the lowest place that is free at its birth.
#pragma once

#include <cstdint>
#include <optional>

#include "planner/budget.hpp"
#include "planner/greedy.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

// In order of birth, as in the linear-scan register allocation of Poletto and Sarkar (1999); places are
// intervals of bytes instead of registers. First fit takes the lowest free place, best fit the smallest. O(n
// * w) with w buffers alive at a time, O(n log n) where all sizes are equal: then every placement of this
// kind is at the lower bound. Pins are ignored. None if the budget was spent, or the placement would be as
// high as the cutoff.
std::optional<Placement> linear_scan(const PreparedProblem& problem, GreedyFit fit, Budget& budget,
                                     int64_t cutoff = kNoCutoff);

// Whether all sizes are equal, and any offset will do.
bool has_equal_sizes(const PreparedProblem& problem);

// About how many nanoseconds that takes, in O(n).
double linear_scan_cost_ns(const PreparedProblem& problem);

}  // namespace memomalloc::planner
