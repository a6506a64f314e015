#include "planner/plan.hpp"

#include <algorithm>
#include <functional>
#include <new>
#include <optional>
#include <stdexcept>
#include <utility>

#include "planner/bump.hpp"
#include "planner/gergov.hpp"
#include "planner/greedy.hpp"
#include "planner/linear_scan.hpp"
#include "planner/min_cost_flow.hpp"
#include "planner/next_fit.hpp"
#include "planner/portfolio.hpp"
#include "planner/prepare.hpp"
#include "planner/skyline.hpp"
#include "planner/skyline_restarts.hpp"
#include "planner/tree_search.hpp"

namespace memomalloc::planner {
namespace {

// Puts what it finds into `outcome` as it goes: that is the answer if it runs out of memory. An outcome
// without a planner's name is that of nobody: there was no time for a placement.
using Planner =
    std::function<void(const PreparedProblem&, const Goal&, uint64_t seed, Budget&, PortfolioOutcome&)>;

void keep(PortfolioOutcome& outcome, const char* planner, std::optional<Placement> placement) {
  if (!placement) return;
  outcome.placement = std::move(*placement);
  outcome.planner = planner;
}

// A planner that makes one placement, and perhaps knows no pins.
template <typename Place>
Planner one_shot(const char* name, Place place) {
  return [=](const PreparedProblem& problem, const Goal& goal, uint64_t, Budget& budget,
             PortfolioOutcome& outcome) {
    keep(outcome, name, around_pins(problem, place(problem, goal, budget), budget));
  };
}

Planner greedy_planner(const char* name, GreedyOrder order, GreedyFit fit) {
  return [=](const PreparedProblem& problem, const Goal&, uint64_t, Budget& budget,
             PortfolioOutcome& outcome) { keep(outcome, name, greedy(problem, order, fit, budget)); };
}

void branch_and_bound(const PreparedProblem& problem, const Goal& goal, uint64_t seed, Budget& budget,
                      PortfolioOutcome& outcome) {
  auto from = skyline(problem, goal.target, budget);
  if (!from) return;
  keep(outcome, "branch_and_bound", around_pins(problem, std::move(from->placement), budget));
  if (outcome.planner.empty()) return;
  const auto improve = [&](const PreparedProblem& part, Placement part_from, const Goal& part_goal,
                           uint64_t round, Budget& share) {
    return improve_by_tree_search(part, std::move(part_from), part_goal, seed + round, share);
  };
  PartOutcome improved = improve_parts(problem, outcome.placement, goal, budget, improve);
  outcome.placement = std::move(improved.placement);
  outcome.proven = improved.proven;
}

void run_restarts(const PreparedProblem& problem, const Goal& goal, uint64_t seed, Budget& budget,
                  PortfolioOutcome& outcome) {
  auto from = skyline(problem, goal.target, budget);
  if (!from) return;
  keep(outcome, "skyline_restarts", around_pins(problem, from->placement, budget));
  Placement best = skyline_restarts(problem, std::move(*from), goal.target, seed, budget);
  auto honoured = around_pins(problem, std::move(best), budget, outcome.placement.height);
  if (honoured) outcome.placement = std::move(*honoured);
}

std::optional<Placement> skyline_placement(const PreparedProblem& problem, const Goal& goal, Budget& budget) {
  auto found = skyline(problem, goal.target, budget);
  return found ? std::optional<Placement>(std::move(found->placement)) : std::nullopt;
}

// In the order of the offsets of an earlier plan; what it had not comes last, the largest first.
std::optional<Placement> warm_placement(const PreparedProblem& problem, const std::vector<int64_t>& offsets,
                                        Budget& budget) {
  if (offsets.empty()) return std::nullopt;
  std::vector<std::pair<int64_t, int64_t>> keys;
  for (size_t i = 0; i < problem.origins.size(); ++i) {
    const int64_t offset = offsets[problem.origins[i]];
    keys.emplace_back(offset < 0 ? kNoCutoff : offset, -problem.sizes[i]);
  }
  return place_in_order(problem, order_by(keys), GreedyFit::kFirst, budget);
}

const std::vector<std::pair<std::string, Planner>>& registry() {
  static const auto* planners = new std::vector<std::pair<std::string, Planner>>{
      {"auto", portfolio},
      {"skyline", one_shot("skyline", skyline_placement)},
      {"skyline_restarts", run_restarts},
      {"branch_and_bound", branch_and_bound},
      {"greedy_by_size", greedy_planner("greedy_by_size", GreedyOrder::kSize, GreedyFit::kFirst)},
      {"greedy_by_size_best_fit",
       greedy_planner("greedy_by_size_best_fit", GreedyOrder::kSize, GreedyFit::kBest)},
      {"greedy_by_area", greedy_planner("greedy_by_area", GreedyOrder::kArea, GreedyFit::kFirst)},
      {"greedy_by_area_best_fit",
       greedy_planner("greedy_by_area_best_fit", GreedyOrder::kArea, GreedyFit::kBest)},
      {"greedy_by_duration", greedy_planner("greedy_by_duration", GreedyOrder::kDuration, GreedyFit::kFirst)},
      {"greedy_by_duration_best_fit",
       greedy_planner("greedy_by_duration_best_fit", GreedyOrder::kDuration, GreedyFit::kBest)},
      {"greedy_by_breadth", greedy_planner("greedy_by_breadth", GreedyOrder::kBreadth, GreedyFit::kFirst)},
      {"greedy_by_breadth_best_fit",
       greedy_planner("greedy_by_breadth_best_fit", GreedyOrder::kBreadth, GreedyFit::kBest)},
      {"linear_scan", one_shot("linear_scan",
                               [](const PreparedProblem& problem, const Goal&, Budget& budget) {
                                 return linear_scan(problem, GreedyFit::kFirst, budget);
                               })},
      {"linear_scan_best_fit", one_shot("linear_scan_best_fit",
                                        [](const PreparedProblem& problem, const Goal&, Budget& budget) {
                                          return linear_scan(problem, GreedyFit::kBest, budget);
                                        })},
      {"next_fit",
       one_shot("next_fit", [](const PreparedProblem& problem, const Goal& goal,
                               Budget& budget) { return next_fit(problem, goal.target, budget); })},
      {"gergov", one_shot("gergov", [](const PreparedProblem& problem, const Goal&,
                                       Budget& budget) { return gergov(problem, budget); })},
      {"min_cost_flow", one_shot("min_cost_flow",
                                 [](const PreparedProblem& problem, const Goal&, Budget& budget) {
                                   return std::optional<Placement>(min_cost_flow(problem, budget));
                                 })},
      {"bump", one_shot("bump", [](const PreparedProblem& problem, const Goal&,
                                   Budget&) { return std::optional<Placement>(bump(problem)); })},
  };
  return *planners;
}

}  // namespace

const std::vector<std::string>& planner_names() {
  static const auto* names = [] {
    auto* found = new std::vector<std::string>;
    for (const auto& [name, planner] : registry()) found->push_back(name);
    return found;
  }();
  return *names;
}

Result plan(const Problem& problem, const Request& request) {
  const auto found = std::find_if(registry().begin(), registry().end(),
                                  [&](const auto& entry) { return entry.first == request.planner; });
  if (found == registry().end()) throw std::invalid_argument("unknown planner " + request.planner);

  Budget::Poll poll;
  int64_t unit = 1;
  if (request.poll) {
    poll = [&](int64_t height) { return request.poll(height < 0 ? height : height * unit); };
  }
  // What comes before the search counts as well.
  Budget budget(request.time_limit_s, poll);
  const PreparedProblem prepared = prepare(problem);
  unit = prepared.unit;
  Result result;
  result.planner = request.planner;
  const bool bounded = request.capacity != kNoCapacity;
  const int64_t capacity = request.capacity / prepared.unit;
  if (bounded && capacity < prepared.lower_bound) {
    result.proven_infeasible = true;
    return result;
  }
  const Goal goal{bounded ? capacity : prepared.lower_bound, bounded};
  PortfolioOutcome outcome;
  try {
    std::optional<Placement> warm = warm_placement(prepared, request.warm_start, budget);
    const bool is_enough = warm && warm->height <= goal.target;
    if (warm && (is_enough || request.planner == "auto")) keep(outcome, "warm_start", warm);
    if (!is_enough) found->second(prepared, goal, request.seed, budget, outcome);
    if (warm && (outcome.planner.empty() || warm->height < outcome.placement.height)) {
      keep(outcome, "warm_start", std::move(warm));
    }
  } catch (const std::bad_alloc&) {
    // What was found before memory ran out.
    outcome.proven = false;
  }
  if (outcome.planner.empty()) {
    outcome.placement = quick_placement(prepared);
    outcome.planner = "next_fit";
  }
  result.planner = outcome.planner;
  result.cancelled = budget.cancelled();
  result.arena = outcome.placement.height * prepared.unit;
  result.offsets = to_bytes(problem, prepared, std::move(outcome.placement));
  const bool within = result.arena <= goal.target * prepared.unit;
  result.proven_infeasible = bounded && !within && outcome.proven;
  result.proven_optimal =
      result.arena == prepared.lower_bound * prepared.unit || (!bounded && !within && outcome.proven);
  return result;
}

}  // namespace memomalloc::planner
