#include "planner/portfolio.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "planner/greedy.hpp"
#include "planner/linear_scan.hpp"
#include "planner/skyline.hpp"
#include "planner/skyline_restarts.hpp"
#include "planner/tree_search.hpp"

namespace memomalloc::planner {
namespace {

// Greedy compares all pairs: beyond this it would cost more than it could give.
constexpr int32_t kGreedyMaxBuffers = 20'000;
// Entries of the lists of neighbours and sections, four bytes each.
constexpr int64_t kTreeSearchMaxEntries = 50'000'000;

// About half a second.
constexpr int64_t kLinearScanMaxSteps = 500'000'000;

// The tree nearly always wins where there are few buffers.
constexpr int32_t kFewBuffers = 1000;
// Runs of the skyline before the first search of a tree, where there are more.
constexpr int64_t kFirstRuns = 300;

// Runs of the skyline for a number of nodes of the tree: where there are few buffers they take a fifth of the
// tree's time, beyond that most of it. Counted, not timed: a search that is not cut off by the clock is the
// same each time.
int64_t runs_for_nodes(const PreparedProblem& part, int64_t num_nodes) {
  constexpr double kRunsPerNode = 20;  // of a problem with one buffer, so to speak
  const double share = part.num_buffers <= kFewBuffers ? 0.2 : 4.0;
  const double runs = share * kRunsPerNode * static_cast<double>(num_nodes) / part.num_buffers;
  return 1 + static_cast<int64_t>(runs);
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
  if (has_equal_sizes(problem) && !problem.has_pins()) return {linear_scan(problem), "linear_scan", false};
  PortfolioOutcome outcome{around_pins(problem, skyline(problem, goal.target, budget)), "skyline", false};
  const auto try_other = [&](Placement placement, const char* planner) {
    if (placement.height >= outcome.placement.height) return;
    outcome.placement = std::move(placement);
    outcome.planner = planner;
    budget.found(outcome.placement.height);
  };
  if (outcome.placement.height > goal.target && !problem.has_pins() &&
      linear_scan_steps(problem) <= kLinearScanMaxSteps) {
    try_other(linear_scan(problem), "linear_scan");
  }
  if (outcome.placement.height > goal.target && problem.num_buffers <= kGreedyMaxBuffers) {
    try_other(greedy(problem, GreedyOrder::kSize, GreedyFit::kFirst), "greedy_by_size");
  }
  if (outcome.placement.height <= goal.target || budget.spent()) return outcome;

  const auto improve = [&](const PreparedProblem& part, Placement best, const Goal& part_goal,
                           Budget& share) {
    const bool with_restarts = !part.has_pins();
    SkylineRestarts restarts(part, seed);
    const auto restart = [&](int64_t max_runs) {
      restarts.run(part_goal.target, share, max_runs);
      if (restarts.best().height >= best.height) return;
      best = restarts.best();
      outcome.planner = "skyline_restarts";
    };
    if (!is_small_enough_for_tree_search(part)) {
      if (with_restarts) restart(std::numeric_limits<int64_t>::max());
      return PartOutcome{std::move(best), false};
    }
    if (with_restarts && part.num_buffers > kFewBuffers) restart(kFirstRuns);
    TreeSearch tree(part, seed);
    while (!tree.is_done(best, part_goal) && !share.spent()) {
      const int64_t old_height = best.height;
      const int64_t old_num_nodes = tree.num_nodes();
      tree.improve(best, part_goal, share);
      if (best.height < old_height) outcome.planner = "branch_and_bound";
      if (!with_restarts || tree.is_done(best, part_goal)) continue;
      restart(runs_for_nodes(part, tree.num_nodes() - old_num_nodes));
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
