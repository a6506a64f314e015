#include "planner/portfolio.hpp"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "planner/greedy.hpp"
#include "planner/skyline.hpp"
#include "planner/skyline_restarts.hpp"
#include "planner/tree_search.hpp"

namespace memomalloc::planner {
namespace {

// Greedy compares all pairs: beyond this it would cost more than it could give.
constexpr int32_t kGreedyMaxBuffers = 20'000;
// Entries of the lists of neighbours and sections, four bytes each.
constexpr int64_t kTreeSearchMaxEntries = 50'000'000;

// Seconds of restarts for each second of tree search. The tree nearly always wins where there are few
// buffers.
double restarts_per_tree_search(const PreparedProblem& part) {
  constexpr int32_t kFewBuffers = 1000;
  return part.num_buffers <= kFewBuffers ? 0.2 : 1.0;
}

}  // namespace

Placement around_pins(const PreparedProblem& problem, Placement placement) {
  if (!problem.has_pins()) return placement;
  std::vector<int32_t> order(problem.sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return placement.offsets[a] < placement.offsets[b]; });
  return place_in_order(problem, order, GreedyFit::kFirst);
}

bool is_small_enough_for_tree_search(const PreparedProblem& problem) {
  if (problem.num_buffers > kTreeSearchMaxBuffers) return false;
  int64_t entries = 0;
  for (int32_t i = 0; i < problem.num_buffers; ++i) entries += problem.width(i);
  for (int32_t i = 0; i < problem.num_buffers; ++i) {
    for (int32_t j = i + 1; j < problem.num_buffers && problem.starts[j] < problem.ends[i]; ++j) entries += 2;
  }
  return entries <= kTreeSearchMaxEntries;
}

PortfolioOutcome portfolio(const PreparedProblem& problem, const Goal& goal, uint64_t seed, Budget& budget) {
  PortfolioOutcome outcome{around_pins(problem, skyline(problem, goal.target, budget)), "skyline", false};
  if (outcome.placement.height > goal.target && problem.num_buffers <= kGreedyMaxBuffers) {
    Placement greedy_placement = greedy(problem, GreedyOrder::kSize, GreedyFit::kFirst);
    if (greedy_placement.height < outcome.placement.height) {
      outcome.placement = std::move(greedy_placement);
      outcome.planner = "greedy_by_size";
    }
  }
  if (outcome.placement.height <= goal.target || budget.spent()) return outcome;

  const auto improve = [&](const PreparedProblem& part, Placement best, const Goal& part_goal,
                           Budget& share) {
    const bool with_restarts = !part.has_pins();
    SkylineRestarts restarts(part, seed);
    const auto restart = [&](Budget& slice) {
      restarts.run(part_goal.target, slice);
      if (restarts.best().height >= best.height) return;
      best = restarts.best();
      outcome.planner = "skyline_restarts";
    };
    if (!is_small_enough_for_tree_search(part)) {
      if (with_restarts) restart(share);
      return PartOutcome{std::move(best), false};
    }
    TreeSearch tree(part, seed);
    while (!tree.is_done(best, part_goal) && !share.spent()) {
      const int64_t old_height = best.height;
      const double start_s = share.elapsed_s();
      tree.improve(best, part_goal, share);
      if (best.height < old_height) outcome.planner = "branch_and_bound";
      if (!with_restarts || tree.is_done(best, part_goal) || share.spent()) continue;
      const double slice_s = (share.elapsed_s() - start_s) * restarts_per_tree_search(part);
      Budget slice = share.slice(std::min(1.0, slice_s / std::max(share.remaining_s(), 1e-9)));
      restart(slice);
    }
    const bool proven = tree.is_done(best, part_goal);
    return PartOutcome{std::move(best), proven};
  };
  PartOutcome improved = improve_parts(problem, std::move(outcome.placement), goal, budget, improve);
  outcome.placement = std::move(improved.placement);
  outcome.proven = improved.proven;
  return outcome;
}

}  // namespace memomalloc::planner
