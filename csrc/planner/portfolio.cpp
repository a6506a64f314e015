#include "planner/portfolio.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <new>
#include <numeric>
#include <utility>
#include <vector>

#include "planner/gergov.hpp"
#include "planner/greedy.hpp"
#include "planner/linear_scan.hpp"
#include "planner/min_cost_flow.hpp"
#include "planner/next_fit.hpp"
#include "planner/skyline.hpp"
#include "planner/skyline_restarts.hpp"
#include "planner/tree_search.hpp"
#include "planner/window_search.hpp"

namespace memomalloc::planner {
namespace {

// The tree nearly always wins where there are few buffers.
constexpr int32_t kFewBuffers = 1000;
// Runs of the skyline before the first search of a tree, where there are more.
constexpr int64_t kFirstRuns = 300;
// Of the time that is left, what one more of the planners that seldom win may cost.
constexpr double kShareOfLongShots = 0.05;
// What any may cost.
constexpr double kShareOfShots = 0.3;

// What is quicker than that is tried whatever the limit.
constexpr double kGrace_ns = 2e6;
// Of all time, what is kept for the search.
constexpr double kShareOfSearch = 0.4;

// Runs of the skyline for a number of nodes of the tree: where there are few buffers they take a fifth of the
// tree's time, beyond that most of it. Counted, not timed: a search that is not cut off by the clock is the
// same each time.
int64_t runs_for_nodes(const PreparedProblem& part, int64_t num_nodes) {
  constexpr double kRunsPerNode = 20;  // of a problem with one buffer, so to speak
  const double share = part.num_buffers <= kFewBuffers ? 0.2 : 4.0;
  const double runs = share * kRunsPerNode * static_cast<double>(num_nodes) / part.num_buffers;
  return 1 + static_cast<int64_t>(runs);
}

// A planner that makes one placement below a cutoff, if it can and the budget lasts.
struct OneShot {
  const char* planner;
  double cost_ns;
  double max_share;  // of the time that is left
  std::function<std::optional<Placement>(int64_t cutoff)> place;
};

std::vector<OneShot> one_shots(const PreparedProblem& problem, const Goal& goal, Budget& budget) {
  std::vector<OneShot> shots;
  const auto heuristic = [&](const char* planner, double cost_ns, double max_share, auto place) {
    shots.push_back({planner, cost_ns, max_share, [&problem, &budget, place](int64_t cutoff) {
                       // What ignores pins comes out higher where they are honoured, or, by chance, lower.
                       const int64_t own_cutoff = problem.has_pins() ? kNoCutoff : cutoff;
                       return around_pins(problem, place(own_cutoff), budget, cutoff);
                     }});
  };
  const double skyline_ns = skyline_cost_ns(problem);
  heuristic("skyline", (kSkylineOrders.size() - 1) * skyline_ns, kShareOfShots, [&](int64_t cutoff) {
    auto found = skyline(problem, goal.target, budget, 1, kSkylineOrders.size(), cutoff);
    return found ? std::optional<Placement>(std::move(found->placement)) : std::nullopt;
  });
  heuristic("next_fit", next_fit_cost_ns(problem), kShareOfShots,
            [&](int64_t cutoff) { return next_fit(problem, goal.target, budget, cutoff); });
  for (const auto& [planner, fit] :
       {std::pair("linear_scan", GreedyFit::kFirst), std::pair("linear_scan_best_fit", GreedyFit::kBest)}) {
    heuristic(
        planner, linear_scan_cost_ns(problem), kShareOfShots,
        [&problem, &budget, fit = fit](int64_t cutoff) { return linear_scan(problem, fit, budget, cutoff); });
  }
  const double greedy_ns = greedy_cost_ns(problem);
  const auto add_greedy = [&](const char* planner, GreedyOrder order, GreedyFit fit) {
    shots.push_back({planner, greedy_ns, kShareOfShots, [&problem, &budget, order, fit](int64_t cutoff) {
                       return greedy(problem, order, fit, budget, cutoff);
                     }});
  };
  add_greedy("greedy_by_size", GreedyOrder::kSize, GreedyFit::kFirst);
  add_greedy("greedy_by_breadth", GreedyOrder::kBreadth, GreedyFit::kFirst);
  add_greedy("greedy_by_size_best_fit", GreedyOrder::kSize, GreedyFit::kBest);
  add_greedy("greedy_by_breadth_best_fit", GreedyOrder::kBreadth, GreedyFit::kBest);
  add_greedy("greedy_by_duration", GreedyOrder::kDuration, GreedyFit::kFirst);
  add_greedy("greedy_by_area", GreedyOrder::kArea, GreedyFit::kFirst);
  add_greedy("greedy_by_duration_best_fit", GreedyOrder::kDuration, GreedyFit::kBest);
  add_greedy("greedy_by_area_best_fit", GreedyOrder::kArea, GreedyFit::kBest);
  if (problem.num_buffers <= kGergovMaxBuffers) {
    heuristic("gergov", gergov_cost_ns(problem), kShareOfLongShots,
              [&](int64_t cutoff) { return gergov(problem, budget, cutoff); });
  }
  if (problem.num_buffers <= kMinCostFlowMaxBuffers) {
    heuristic("min_cost_flow", min_cost_flow_cost_ns(problem), kShareOfLongShots,
              [&](int64_t) { return std::optional<Placement>(min_cost_flow(problem, budget)); });
  }
  std::stable_sort(shots.begin(), shots.end(),
                   [](const OneShot& a, const OneShot& b) { return a.cost_ns < b.cost_ns; });
  return shots;
}

}  // namespace

std::optional<Placement> around_pins(const PreparedProblem& problem, std::optional<Placement> placement,
                                     Budget& budget, int64_t cutoff) {
  if (!placement || !problem.has_pins()) return placement;
  std::vector<int32_t> order(problem.sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return placement->offsets[a] < placement->offsets[b]; });
  placement.reset();
  return place_in_order(problem, order, GreedyFit::kFirst, budget, cutoff);
}

void portfolio(const PreparedProblem& problem, const Goal& goal, uint64_t seed, Budget& budget,
               PortfolioOutcome& outcome) {
  outcome.placement.height = kNoCutoff;
  const auto keep = [&](std::optional<Placement> placement, const char* planner) {
    if (!placement || placement->height >= outcome.placement.height) return;
    outcome.placement = std::move(*placement);
    outcome.planner = planner;
    budget.found(outcome.placement.height);
  };
  if (has_equal_sizes(problem) && !problem.has_pins()) {
    keep(linear_scan(problem, GreedyFit::kFirst, budget), "linear_scan");
    return;
  }
  size_t best_order = 0;
  {
    auto found = skyline(problem, goal.target, budget, 0, 1);
    if (found) keep(around_pins(problem, std::move(found->placement), budget), "skyline");
  }
  double grace_ns = kGrace_ns;
  if (outcome.placement.height > goal.target) {
    for (const OneShot& shot : one_shots(problem, goal, budget)) {
      grace_ns -= shot.cost_ns;
      if (budget.cancelled()) break;
      if (grace_ns < 0) {
        const double left_s = budget.remaining_s();
        if (budget.spent() || left_s < kShareOfSearch * (left_s + budget.elapsed_s())) break;
        if (shot.cost_ns > shot.max_share * 1e9 * left_s) continue;
      }
      keep(shot.place(outcome.placement.height), shot.planner);
      if (outcome.placement.height <= goal.target) break;
    }
  }
  if (outcome.planner.empty() || outcome.placement.height <= goal.target || budget.spent()) return;

  const auto improve = [&](const PreparedProblem& part, Placement best, const Goal& part_goal,
                           Budget& share) {
    bool proven = false;
    try {
      const bool with_restarts = !part.has_pins();
      SkylineRestarts restarts(part, best_order, seed);
      const auto restart = [&](int64_t max_runs) {
        restarts.run(part_goal.target, share, max_runs);
        if (restarts.best().height >= best.height) return;
        best = restarts.best();
        outcome.planner = "skyline_restarts";
      };
      WindowSearch windows(part, seed);
      // Whether it was lowered.
      const auto lower_windows = [&] {
        const int64_t old_height = best.height;
        windows.improve(best, part_goal.target, share);
        if (best.height < old_height) outcome.planner = "window_search";
        return best.height < old_height;
      };
      if (!is_small_enough_for_tree_search(part)) {
        // More runs each time: where windows help, they help soon.
        for (int64_t max_runs = 1; best.height > part_goal.target && !share.spent(); max_runs *= 2) {
          while (lower_windows() && best.height > part_goal.target && !share.spent()) {
          }
          if (with_restarts) restart(max_runs);
          if (!with_restarts && windows.is_done()) break;
        }
        return PartOutcome{std::move(best), false};
      }
      if (part.num_buffers > kFewBuffers) {
        lower_windows();
        if (with_restarts) restart(kFirstRuns);
      }
      TreeSearch tree(part, seed);
      while (!tree.is_done(best, part_goal) && !share.spent()) {
        const int64_t old_height = best.height;
        const int64_t old_num_nodes = tree.num_nodes();
        tree.improve(best, part_goal, share);
        if (best.height < old_height) outcome.planner = "branch_and_bound";
        if (tree.is_done(best, part_goal)) break;
        if (with_restarts) restart(runs_for_nodes(part, tree.num_nodes() - old_num_nodes));
        if (part.num_buffers > kFewBuffers) lower_windows();
      }
      proven = tree.is_done(best, part_goal);
    } catch (const std::bad_alloc&) {
      // What was found before memory ran out.
    }
    return PartOutcome{std::move(best), proven};
  };
  PartOutcome improved = improve_parts(problem, outcome.placement, goal, budget, improve);
  outcome.placement = std::move(improved.placement);
  outcome.proven = improved.proven;
}

}  // namespace memomalloc::planner
