// The planner "auto": what is quick first, and search for as long as it can still help.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "planner/budget.hpp"
#include "planner/parts.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

struct PortfolioOutcome {
  Placement placement;
  std::string planner;  // who placed the highest part; empty: nobody had the time to
  bool proven = false;  // as in PartOutcome
};

// Linear scan of equal sizes, which it places at the lower bound. Else every planner that makes one
// placement, in the order of what they cost on this problem, until one is within the target; each gives up
// where it is as high as the best so far. Then a search of each part that is too high: branch and bound with
// restarts in turn with skyline with restarts, or, where there are too many buffers for the tree, the second
// alone. Honours pins. Begins with what `outcome` has, if that names a planner. `outcome` holds the best
// placement at any time, also when memory runs out: then std::bad_alloc is thrown.
void portfolio(const PreparedProblem& problem, const Goal& goal, uint64_t seed, Budget& budget,
               PortfolioOutcome& outcome);

// For planners that know no pins: keeps the order of their offsets and places around the pins, first fit.
std::optional<Placement> around_pins(const PreparedProblem& problem, std::optional<Placement> placement,
                                     Budget& budget, int64_t cutoff = kNoCutoff);

}  // namespace memomalloc::planner
