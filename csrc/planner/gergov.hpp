// Towers first, then colours: the scheme of Gergov's approximation algorithms.
#pragma once

#include <cstdint>
#include <optional>

#include "planner/budget.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

inline constexpr int32_t kGergovMaxBuffers = 20'000;

// After Gergov, "Algorithms for compile-time memory optimization" (SODA 1999), in two phases. The first
// places every buffer within the lower bound while allowing some to overlap: a buffer goes on the lowest part
// of the roof that its lifetime meets, and raises the roof only there. The second separates those that
// overlap by colouring them, and places one colour after the other. The paper proves a factor of three for
// its choice of buffers and colours; this colours greedily with as many colours as it needs, lets first fit
// close the gaps, and proves nothing. O(n^2). Pins are ignored by the towers and honoured in the end. None if
// the budget was spent, or the placement would be as high as the cutoff.
std::optional<Placement> gergov(const PreparedProblem& problem, Budget& budget, int64_t cutoff = kNoCutoff);

// About how many nanoseconds that takes.
double gergov_cost_ns(const PreparedProblem& problem);

}  // namespace memomalloc::planner
