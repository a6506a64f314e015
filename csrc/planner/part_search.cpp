#include "planner/part_search.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "planner/greedy.hpp"
#include "planner/skyline_restarts.hpp"
#include "planner/tree_search.hpp"
#include "planner/window_search.hpp"

namespace memomalloc::planner {
namespace {

constexpr int32_t kFewBuffers = 600;
// About what it takes.
constexpr double kRunCostPerBuffer_ns = 500;
// A step of a tree is so many nodes, and one for each buffer.
constexpr int64_t kNodesOfStep = 1000;
// Success makes a search so much more worth its time, up to a limit.
constexpr double kWeightGrowth = 1.5;
constexpr double kLargestWeight = 5;
// Without success it loses half of its weight in so much work, down to a share of what it had at first.
constexpr double kHalfLife_ns = 1e8;
constexpr double kLeastShareOfWeight = 0.15;

struct Search {
  const char* planner;
  double weight;
  std::function<double()>
      step;  // returns its work, in nanoseconds about; negative: it has nothing left to do
  double work = 0;
  double first_weight = weight;
  double least_weight = kLeastShareOfWeight * weight;
};

}  // namespace

PartSearchOutcome search_part(const PreparedProblem& part, Placement from, const Goal& goal,
                              size_t best_order, uint64_t seed, Budget& budget) {
  PartSearchOutcome outcome{{std::move(from), false}, nullptr};
  Placement& best = outcome.part.placement;
  try {
    const bool few = part.num_buffers <= kFewBuffers;
    const bool few_plain = few && part.alignments.empty();
    std::optional<TreeSearch> tree;
    std::optional<WindowSearch> windows;
    SkylineRestarts restarts(part, best_order, seed);
    SkylineRestarts first_fit(part, kSkylineOrders.size() - 1, seed, Builder::kFirstFit);
    const auto run_once = [&](SkylineRestarts& search) {
      search.run(goal.target, budget, 1);
      if (search.best().height < best.height) best = search.best();
    };
    std::vector<Search> searches;
    if (is_small_enough_for_tree_search(part)) {
      const double node_ns = tree_search_node_cost_ns(part);
      searches.push_back({"branch_and_bound", few ? 1.0 : 0.25, [&, node_ns]() -> double {
                            if (!tree) tree.emplace(part, seed);
                            const int64_t old_num_nodes = tree->num_nodes();
                            tree->improve(best, goal, kNodesOfStep + part.num_buffers, budget);
                            return node_ns * static_cast<double>(tree->num_nodes() - old_num_nodes);
                          }});
      // Where there are many buffers a single step may take the time there is: it waits for its turn.
      if (!few) searches.back().work = node_ns * static_cast<double>(kNodesOfStep + part.num_buffers);
    }
    searches.push_back({"window_search", few_plain ? 0.1 : 1.0, [&]() -> double {
                          if (!windows) windows.emplace(part, seed);
                          if (windows->is_done()) return -1;
                          const double old_work = windows->work_ns();
                          windows->improve(best, goal.target, budget);
                          return windows->work_ns() - old_work;
                        }});
    if (!part.has_pins()) {
      searches.push_back({"skyline_restarts", few_plain ? 0.2 : 1.0, [&]() -> double {
                            run_once(restarts);
                            return kRunCostPerBuffer_ns * part.num_buffers;
                          }});
    }
    searches.push_back({"greedy_restarts", part.alignments.empty() ? 0.1 : 1.0,
                        [&, cost = greedy_cost_ns(part)]() -> double {
                          run_once(first_fit);
                          return cost;
                        }});
    // The tree finds late what it finds, but is nearly always what finds it.
    if (few && is_small_enough_for_tree_search(part)) searches.front().least_weight = searches.front().weight;
    while (best.height > goal.target && !budget.spent() && !searches.empty()) {
      const auto next = std::min_element(
          searches.begin(), searches.end(),
          [](const Search& a, const Search& b) { return a.work / a.weight < b.work / b.weight; });
      const int64_t old_height = best.height;
      const double work = next->step();
      if (best.height < old_height) {
        outcome.planner = next->planner;
        next->weight = std::min(kLargestWeight, std::max(next->weight, next->first_weight) * kWeightGrowth);
      } else {
        next->weight =
            std::max(next->least_weight, next->weight * std::exp2(-std::max(0.0, work) / kHalfLife_ns));
      }
      if (tree && tree->is_done(best, goal)) break;
      if (work < 0) {
        searches.erase(next);
      } else {
        next->work += work;
      }
    }
    outcome.part.proven = tree && tree->is_done(best, goal);
  } catch (const std::bad_alloc&) {
    // What was found before memory ran out.
  }
  return outcome;
}

}  // namespace memomalloc::planner
