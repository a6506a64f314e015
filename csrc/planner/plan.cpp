#include "planner/plan.hpp"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <utility>

#include "planner/bump.hpp"
#include "planner/gergov.hpp"
#include "planner/greedy.hpp"
#include "planner/linear_scan.hpp"
#include "planner/min_cost_flow.hpp"
#include "planner/portfolio.hpp"
#include "planner/prepare.hpp"
#include "planner/skyline.hpp"
#include "planner/skyline_restarts.hpp"
#include "planner/tree_search.hpp"

namespace memomalloc::planner {
namespace {

struct Outcome {
  Placement placement;
  std::string planner;  // who found it, where that is not the planner that was asked
  bool proven = false;  // as in PartOutcome
};

using Planner = std::function<Outcome(const PreparedProblem&, const Goal&, uint64_t seed, Budget&)>;

Planner greedy_planner(GreedyOrder order, GreedyFit fit) {
  return [=](const PreparedProblem& problem, const Goal&, uint64_t, Budget&) {
    return Outcome{greedy(problem, order, fit), {}};
  };
}

Outcome branch_and_bound(const PreparedProblem& problem, const Goal& goal, uint64_t seed, Budget& budget) {
  if (!is_small_enough_for_tree_search(problem)) {
    throw std::invalid_argument("branch_and_bound cannot take so many buffers with so many neighbours");
  }
  const auto improve = [&](const PreparedProblem& part, Placement from, const Goal& part_goal,
                           Budget& share) {
    return improve_by_tree_search(part, std::move(from), part_goal, seed, share);
  };
  Placement from = around_pins(problem, skyline(problem, goal.target, budget));
  PartOutcome outcome = improve_parts(problem, std::move(from), goal, budget, improve);
  return {std::move(outcome.placement), {}, outcome.proven};
}

Outcome run_portfolio(const PreparedProblem& problem, const Goal& goal, uint64_t seed, Budget& budget) {
  PortfolioOutcome outcome = portfolio(problem, goal, seed, budget);
  return {std::move(outcome.placement), std::move(outcome.planner), outcome.proven};
}

Outcome run_skyline(const PreparedProblem& problem, const Goal& goal, uint64_t, Budget& budget) {
  return {around_pins(problem, skyline(problem, goal.target, budget)), {}};
}

Outcome run_restarts(const PreparedProblem& problem, const Goal& goal, uint64_t seed, Budget& budget) {
  return {around_pins(problem, skyline_restarts(problem, goal.target, seed, budget)), {}};
}

// A planner that runs once and needs to know nothing but the problem, perhaps not even its pins.
Planner heuristic(Placement (*place)(const PreparedProblem&)) {
  return [=](const PreparedProblem& problem, const Goal&, uint64_t, Budget&) {
    return Outcome{around_pins(problem, place(problem)), {}};
  };
}

const std::vector<std::pair<std::string, Planner>>& registry() {
  static const auto* planners = new std::vector<std::pair<std::string, Planner>>{
      {"auto", run_portfolio},
      {"skyline", run_skyline},
      {"skyline_restarts", run_restarts},
      {"branch_and_bound", branch_and_bound},
      {"greedy_by_size", greedy_planner(GreedyOrder::kSize, GreedyFit::kFirst)},
      {"greedy_by_size_best_fit", greedy_planner(GreedyOrder::kSize, GreedyFit::kBest)},
      {"greedy_by_area", greedy_planner(GreedyOrder::kArea, GreedyFit::kFirst)},
      {"greedy_by_area_best_fit", greedy_planner(GreedyOrder::kArea, GreedyFit::kBest)},
      {"greedy_by_duration", greedy_planner(GreedyOrder::kDuration, GreedyFit::kFirst)},
      {"greedy_by_duration_best_fit", greedy_planner(GreedyOrder::kDuration, GreedyFit::kBest)},
      {"greedy_by_breadth", greedy_planner(GreedyOrder::kBreadth, GreedyFit::kFirst)},
      {"greedy_by_breadth_best_fit", greedy_planner(GreedyOrder::kBreadth, GreedyFit::kBest)},
      {"linear_scan", heuristic(&linear_scan)},
      {"gergov", heuristic(&gergov)},
      {"min_cost_flow", heuristic(&min_cost_flow)},
      {"bump", heuristic(&bump)},
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

  Result result;
  result.planner = request.planner;
  const PreparedProblem prepared = prepare(problem);
  const bool bounded = request.capacity != kNoCapacity;
  const int64_t capacity = request.capacity / prepared.unit;
  if (bounded && capacity < prepared.lower_bound) {
    result.proven_infeasible = true;
    return result;
  }
  Budget::Poll poll;
  if (request.poll) {
    poll = [&](int64_t height) { return request.poll(height < 0 ? height : height * prepared.unit); };
  }
  Budget budget(request.time_limit_s, poll);
  const Goal goal{bounded ? capacity : prepared.lower_bound, bounded};
  const Outcome outcome = found->second(prepared, goal, request.seed, budget);
  if (!outcome.planner.empty()) result.planner = outcome.planner;
  result.cancelled = budget.cancelled();
  result.offsets = to_bytes(problem, prepared, outcome.placement);
  result.arena = outcome.placement.height * prepared.unit;
  const bool within = outcome.placement.height <= goal.target;
  result.proven_infeasible = bounded && !within && outcome.proven;
  result.proven_optimal =
      outcome.placement.height == prepared.lower_bound || (!bounded && !within && outcome.proven);
  return result;
}

}  // namespace memomalloc::planner
