#include "planner/parts.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

Placement placement_of_part(const PreparedProblem& part, const Placement& whole) {
  Placement placement;
  for (int32_t buffer : part.origins) placement.offsets.push_back(whole.offsets[buffer]);
  placement.height = height_of(part, placement.offsets);
  return placement;
}

bool is_one_part(const PreparedProblem& problem) {
  int32_t part_end = problem.ends.empty() ? 0 : problem.ends.front();
  for (int32_t buffer = 0; buffer < problem.num_buffers; ++buffer) {
    if (problem.starts[buffer] >= part_end) return false;
    part_end = std::max(part_end, problem.ends[buffer]);
  }
  return true;
}

}  // namespace

PartOutcome improve_parts(const PreparedProblem& problem, Placement from, Goal goal, Budget& budget,
                          const ImprovePart& improve) {
  if (from.height <= goal.target) return {std::move(from), false};
  if (is_one_part(problem)) return improve(problem, std::move(from), goal, budget);
  PartOutcome outcome{std::move(from), false};
  struct Open {
    PreparedProblem part;
    Placement placement;
  };
  std::vector<Open> open;
  for (PreparedProblem& part : split_into_parts(problem)) {
    Placement placement = placement_of_part(part, outcome.placement);
    if (placement.height > goal.target) open.push_back({std::move(part), std::move(placement)});
  }
  std::stable_sort(open.begin(), open.end(),
                   [](const Open& a, const Open& b) { return a.placement.height < b.placement.height; });
  for (size_t i = 0; i < open.size() && !budget.cancelled(); ++i) {
    if (open[i].placement.height <= goal.target) continue;
    // The highest comes last: it gets the time that the others leave.
    Budget share = budget.slice(1.0 / static_cast<double>(open.size() - i));
    const PartOutcome part = improve(open[i].part, std::move(open[i].placement), goal, share);
    for (size_t k = 0; k < part.placement.offsets.size(); ++k) {
      outcome.placement.offsets[open[i].part.origins[k]] = part.placement.offsets[k];
    }
    if (part.placement.height <= goal.target) continue;
    outcome.proven = part.proven;
    if (goal.decide) break;
    goal.target = part.placement.height;
  }
  outcome.placement.height = height_of(problem, outcome.placement.offsets);
  return outcome;
}

}  // namespace memomalloc::planner
