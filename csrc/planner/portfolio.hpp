// The planner "auto": what is quick first, and search for as long as it can still help.
#pragma once

#include <cstdint>
#include <string>

#include "planner/budget.hpp"
#include "planner/parts.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

struct PortfolioOutcome {
  Placement placement;
  std::string planner;  // who placed the highest part
  bool proven = false;  // as in PartOutcome
};

// Linear scan of equal sizes, which it places at the lower bound. Else skyline; if that is above the target,
// linear scan and greedy by size where they are cheap; if these are too, a search of each part that is too
// high: branch and bound with restarts in turn with skyline with restarts, or, where there are too many
// buffers for the tree, the second alone. Honours pins.
PortfolioOutcome portfolio(const PreparedProblem& problem, const Goal& goal, uint64_t seed, Budget& budget);

// Whether a tree search of this problem is within its means.
bool is_small_enough_for_tree_search(const PreparedProblem& problem);

// For planners that know no pins: keeps the order of their offsets and places around the pins, first fit.
Placement around_pins(const PreparedProblem& problem, Placement placement);

}  // namespace memomalloc::planner
