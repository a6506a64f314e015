#include "planner/plan.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "planner/bump.hpp"
#include "planner/greedy.hpp"
#include "planner/linear_scan.hpp"
#include "planner/prepare.hpp"
#include "planner/skyline.hpp"

namespace memomalloc::planner {
namespace {

struct Outcome {
  Placement placement;
  std::string planner;
  bool proven_optimal = false;
  bool proven_infeasible = false;
};

using Planner = std::function<Outcome(const PreparedProblem&, int64_t target, uint64_t seed, Budget&)>;

// For planners that know no pins: keep their order by offset, place around the pins.
Placement around_pins(const PreparedProblem& problem, Placement placement) {
  if (!problem.has_pins()) return placement;
  std::vector<int32_t> order(problem.sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return placement.offsets[a] < placement.offsets[b]; });
  return place_in_order(problem, order, GreedyFit::kFirst);
}

Planner greedy_planner(GreedyOrder order, GreedyFit fit) {
  return [=](const PreparedProblem& problem, int64_t, uint64_t, Budget&) {
    return Outcome{greedy(problem, order, fit), {}};
  };
}

const std::vector<std::pair<std::string, Planner>>& registry() {
  static const auto* planners = new std::vector<std::pair<std::string, Planner>>{
      {"auto",
       [](const PreparedProblem& problem, int64_t target, uint64_t, Budget& budget) {
         return Outcome{around_pins(problem, skyline(problem, target, budget)), "skyline"};
       }},
      {"skyline",
       [](const PreparedProblem& problem, int64_t target, uint64_t, Budget& budget) {
         return Outcome{around_pins(problem, skyline(problem, target, budget)), {}};
       }},
      {"greedy_by_size", greedy_planner(GreedyOrder::kSize, GreedyFit::kFirst)},
      {"greedy_by_size_best_fit", greedy_planner(GreedyOrder::kSize, GreedyFit::kBest)},
      {"greedy_by_area", greedy_planner(GreedyOrder::kArea, GreedyFit::kFirst)},
      {"greedy_by_area_best_fit", greedy_planner(GreedyOrder::kArea, GreedyFit::kBest)},
      {"greedy_by_duration", greedy_planner(GreedyOrder::kDuration, GreedyFit::kFirst)},
      {"greedy_by_duration_best_fit", greedy_planner(GreedyOrder::kDuration, GreedyFit::kBest)},
      {"greedy_by_breadth", greedy_planner(GreedyOrder::kBreadth, GreedyFit::kFirst)},
      {"greedy_by_breadth_best_fit", greedy_planner(GreedyOrder::kBreadth, GreedyFit::kBest)},
      {"linear_scan",
       [](const PreparedProblem& problem, int64_t, uint64_t, Budget&) {
         return Outcome{around_pins(problem, linear_scan(problem)), {}};
       }},
      {"bump",
       [](const PreparedProblem& problem, int64_t, uint64_t, Budget&) {
         return Outcome{around_pins(problem, bump(problem)), {}};
       }},
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
  const int64_t target = bounded ? capacity : prepared.lower_bound;
  const Outcome outcome = found->second(prepared, target, request.seed, budget);
  if (!outcome.planner.empty()) result.planner = outcome.planner;
  result.cancelled = budget.cancelled();
  result.proven_infeasible = outcome.proven_infeasible;
  if (outcome.placement.offsets.size() != prepared.sizes.size()) return result;
  result.offsets = to_bytes(problem, prepared, outcome.placement);
  result.arena = outcome.placement.height * prepared.unit;
  result.proven_optimal = outcome.proven_optimal || outcome.placement.height == prepared.lower_bound;
  return result;
}

}  // namespace memomalloc::planner
