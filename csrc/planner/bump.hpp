// One after the other, nothing reused: the arena of a program that never frees.
#pragma once

#include "planner/problem.hpp"

namespace memomalloc::planner {

// Stacks the buffers in order of birth, O(n). Pins are ignored.
Placement bump(const PreparedProblem& problem);

}  // namespace memomalloc::planner
