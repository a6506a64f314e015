// The arena as a ring: what lives for about as long as its neighbours follows them round.
#pragma once

#include <cstdint>
#include <optional>

#include "planner/budget.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

// Next fit (Knuth, The Art of Computer Programming, 2.5): in order of birth, each buffer takes the next free
// place after the one that was taken last, and wraps round at a height, which is bisected between the lower
// bound and the best height that will do. Where buffers die in about the order in which they are born,
// nothing is wasted but what does not fit before the wrap. O(n) a height where they do. Free buffers lie
// above all pinned ones. None if the budget was spent before any height would do.
std::optional<Placement> next_fit(const PreparedProblem& problem, int64_t target, Budget& budget);

// About how many nanoseconds that takes.
double next_fit_cost_ns(const PreparedProblem& problem);

// Some placement in O(n), for when nothing better is had in time: next fit at the first height that will do,
// with no more steps than a few for each buffer. Honours pins and alignments.
Placement quick_placement(const PreparedProblem& problem);

}  // namespace memomalloc::planner
