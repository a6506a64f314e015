// The order of events of the program itself: each buffer takes the lowest place that is free at its birth.
#pragma once

#include "planner/problem.hpp"

namespace memomalloc::planner {

// First fit in order of birth, as in the linear-scan register allocation of Poletto and Sarkar (1999); places
// are intervals of bytes instead of registers. O(n * w) with w buffers alive at a time. Pins are ignored.
Placement linear_scan(const PreparedProblem& problem);

}  // namespace memomalloc::planner
