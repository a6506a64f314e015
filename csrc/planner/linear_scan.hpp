// The order of events of the program itself: each buffer takes the lowest place that is free at its birth.
#pragma once

#include "planner/problem.hpp"

namespace memomalloc::planner {

// First fit in order of birth, as in the linear-scan register allocation of Poletto and Sarkar (1999); places
// are intervals of bytes instead of registers. O(n * w) with w buffers alive at a time, O(n log n) where all
// sizes are equal: then every placement of this kind is at the lower bound. Pins are ignored.
Placement linear_scan(const PreparedProblem& problem);

// Whether all sizes are equal, and any offset will do.
bool has_equal_sizes(const PreparedProblem& problem);

// About how many steps that takes, in O(n).
int64_t linear_scan_steps(const PreparedProblem& problem);

}  // namespace memomalloc::planner
