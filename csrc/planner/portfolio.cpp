#include "planner/portfolio.hpp"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "planner/gergov.hpp"
#include "planner/greedy.hpp"
#include "planner/linear_scan.hpp"
#include "planner/min_cost_flow.hpp"
#include "planner/next_fit.hpp"
#include "planner/part_search.hpp"
#include "planner/prepare.hpp"
#include "planner/skyline.hpp"

namespace memomalloc::planner {
namespace {

// Of the time that is left, what one more of the planners that seldom win may cost.
constexpr double kShareOfLongShots = 0.05;
// What any may cost.
constexpr double kShareOfShots = 0.3;

// What is quicker than that is tried whatever the limit.
constexpr double kGrace_ns = 2e6;
// Of all time, what is kept for the search; and from planners that cost a small part of what is left.
constexpr double kShareOfSearch = 0.65;
constexpr double kLeastShareOfSearch = 0.4;

// A planner that makes one placement below a cutoff, if it can and the budget lasts.
struct OneShot {
  const char* planner;
  double cost_ns;
  double max_share;  // of the time that is left
  std::function<std::optional<Placement>(int64_t cutoff)> place;
};

// `best_order` becomes that of the best order of the skyline.
std::vector<OneShot> one_shots(const PreparedProblem& problem, const Goal& goal, Budget& budget,
                               size_t& best_order) {
  std::vector<OneShot> shots;
  const auto heuristic = [&](const char* planner, double cost_ns, double max_share, auto place) {
    shots.push_back({planner, cost_ns, max_share, [&problem, &budget, place](int64_t cutoff) {
                       // What ignores pins comes out higher where they are honoured, or, by chance, lower.
                       const int64_t own_cutoff = problem.has_pins() ? kNoCutoff : cutoff;
                       return around_pins(problem, place(own_cutoff), budget, cutoff);
                     }});
  };
  for (size_t order = 1; order < kSkylineOrders.size(); ++order) {
    heuristic("skyline", skyline_cost_ns(problem), kShareOfShots, [&, order](int64_t cutoff) {
      auto found = skyline(problem, goal.target, budget, order, order + 1, cutoff);
      if (!found) return std::optional<Placement>();
      best_order = order;
      return std::optional<Placement>(std::move(found->placement));
    });
  }
  heuristic("next_fit", next_fit_cost_ns(problem), kShareOfShots,
            [&](int64_t) { return next_fit(problem, goal.target, budget); });
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
  // There may be no time for all; where there are alignments, these win most often.
  const bool aligned = !problem.alignments.empty();
  if (aligned) add_greedy("greedy_by_breadth_best_fit", GreedyOrder::kBreadth, GreedyFit::kBest);
  if (aligned) add_greedy("greedy_by_breadth", GreedyOrder::kBreadth, GreedyFit::kFirst);
  add_greedy("greedy_by_size", GreedyOrder::kSize, GreedyFit::kFirst);
  if (!aligned) add_greedy("greedy_by_breadth", GreedyOrder::kBreadth, GreedyFit::kFirst);
  add_greedy("greedy_by_size_best_fit", GreedyOrder::kSize, GreedyFit::kBest);
  if (!aligned) add_greedy("greedy_by_breadth_best_fit", GreedyOrder::kBreadth, GreedyFit::kBest);
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
  const std::vector<int32_t> order = order_by(placement->offsets);
  placement.reset();
  return place_in_order(problem, order, GreedyFit::kFirst, budget, cutoff);
}

void portfolio(const PreparedProblem& problem, const Goal& goal, uint64_t seed, Budget& budget,
               PortfolioOutcome& outcome) {
  if (outcome.planner.empty()) outcome.placement.height = kNoCutoff;
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
    for (const OneShot& shot : one_shots(problem, goal, budget, best_order)) {
      grace_ns -= shot.cost_ns;
      if (budget.cancelled()) break;
      if (grace_ns < 0) {
        const double left_s = budget.remaining_s();
        const double all_s = left_s + budget.elapsed_s();
        if (budget.spent() || left_s < kLeastShareOfSearch * all_s) break;
        const double max_share = left_s < kShareOfSearch * all_s ? kShareOfLongShots : shot.max_share;
        if (shot.cost_ns > max_share * 1e9 * left_s) continue;
      }
      keep(shot.place(outcome.placement.height), shot.planner);
      if (outcome.placement.height <= goal.target) break;
    }
  }
  if (outcome.planner.empty() || outcome.placement.height <= goal.target || budget.spent()) return;

  const auto improve = [&](const PreparedProblem& part, Placement from, const Goal& part_goal, uint64_t round,
                           Budget& share) {
    PartSearchOutcome found = search_part(part, std::move(from), part_goal, best_order, seed + round, share);
    if (found.planner != nullptr) outcome.planner = found.planner;
    return std::move(found.part);
  };
  PartOutcome improved = improve_parts(problem, outcome.placement, goal, budget, improve);
  outcome.placement = std::move(improved.placement);
  outcome.proven = improved.proven;
}

}  // namespace memomalloc::planner
