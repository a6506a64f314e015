#include "planner/parts.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

// In the next round, of a part that did not need all of its time.
constexpr double kWeightOfQuick = 0.1;

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
  if (is_one_part(problem)) return improve(problem, std::move(from), goal, 0, budget);
  PartOutcome outcome{std::move(from), false};
  struct Open {
    PreparedProblem part;
    Placement placement;
    bool proven = false;  // that it cannot be lower
    double weight = 1;    // of its share of the time
  };
  std::vector<Open> open;
  for (PreparedProblem& part : split_into_parts(problem)) {
    Placement placement = placement_of_part(part, outcome.placement);
    if (placement.height > goal.target) open.push_back({std::move(part), std::move(placement)});
  }
  bool was_cut = true;
  for (uint64_t round = 0; was_cut && !outcome.proven && (round == 0 || !budget.spent()); ++round) {
    was_cut = false;
    open.erase(std::remove_if(open.begin(), open.end(),
                              [&](const Open& own) { return own.placement.height <= goal.target; }),
               open.end());
    std::stable_sort(open.begin(), open.end(),
                     [](const Open& a, const Open& b) { return a.placement.height < b.placement.height; });
    int64_t target = goal.target;
    double weight_of_rest = 0;
    for (const Open& own : open) weight_of_rest += own.weight;
    for (size_t i = 0; i < open.size() && !budget.cancelled(); ++i) {
      Open& own = open[i];
      const double part_of_time = i + 1 == open.size() ? 1 : own.weight / weight_of_rest;
      weight_of_rest -= own.weight;
      if (own.placement.height <= target) continue;
      if (!own.proven) {
        // The highest comes last: it gets the time that the others leave.
        Budget share = budget.slice(part_of_time);
        PartOutcome found = improve(own.part, std::move(own.placement), {target, goal.decide}, round, share);
        const bool lacked_time = share.spent();
        was_cut = was_cut || lacked_time;
        own.weight = lacked_time ? 1 : kWeightOfQuick;
        own.placement = std::move(found.placement);
        for (size_t k = 0; k < own.placement.offsets.size(); ++k) {
          outcome.placement.offsets[own.part.origins[k]] = own.placement.offsets[k];
        }
        if (own.placement.height <= target) continue;
        own.proven = found.proven;
      }
      outcome.proven = own.proven;
      if (goal.decide) break;
      target = own.placement.height;
    }
  }
  outcome.placement.height = height_of(problem, outcome.placement.offsets);
  return outcome;
}

}  // namespace memomalloc::planner
