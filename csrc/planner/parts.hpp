// A search over the parts of a problem, between which nothing is alive.
#pragma once

#include <cstdint>
#include <functional>

#include "planner/budget.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

// What a search is for.
struct Goal {
  int64_t target;       // a height that is as good as any lower one
  bool decide = false;  // a placement above the target is worth nothing: say whether there is one within it
};

struct PartOutcome {
  Placement placement;
  bool proven =
      false;  // above the target: that no lower placement exists, or, if it was to decide, none within
};

// Improves a placement of one part until it is within the target. Each round is to make other random choices.
using ImprovePart = std::function<PartOutcome(const PreparedProblem& part, Placement from, const Goal& goal,
                                              uint64_t round, Budget& budget)>;

// Improves `from` part by part, the highest last. The arena is as high as its highest part, so that a part
// needs to be no lower than those before it turned out to be. Where that leaves time, those that had too
// little go on in another round. The result is proven if its highest part is.
PartOutcome improve_parts(const PreparedProblem& problem, Placement from, Goal goal, Budget& budget,
                          const ImprovePart& improve);

}  // namespace memomalloc::planner
