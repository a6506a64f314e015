#include "planner/part_search.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "planner/greedy.hpp"
#include "planner/prepare.hpp"
#include "planner/skyline_restarts.hpp"
#include "planner/tree_search.hpp"
#include "planner/window_search.hpp"

namespace memomalloc::planner {
namespace {

constexpr int32_t kFewBuffers = 600;
// About what it takes.
constexpr double kRunCostPerBuffer_ns = 500;
// A step of a tree or of windows, about; and at least, for what it does with every buffer.
constexpr double kWorkOfStep_ns = 4e6;
constexpr double kWorkOfStepPerBuffer_ns = 50;
// Where more than this share of all buffers lives at a time, in the mean, windows hold most of them.
constexpr double kShareOfWindow = 0.25;
// About what a first round of windows takes.
constexpr double kWorkOfWindows_ns = 5e7;
// Success makes a search so much more worth its time, up to a limit.
constexpr double kWeightGrowth = 1.5;
constexpr double kLargestWeight = 5;
// Without success it loses half of its weight in so much work, down to a share of what it had at first.
constexpr double kHalfLife_ns = 1e8;
constexpr double kLeastShareOfWeight = 0.15;
// Of a search beside a tree that nearly always wins, and whose weight is 1.
constexpr double kLargestWeightBesideTree = 1;
// The closer that tree came to the target, the less time the others get: of their weights, the share of the
// buffers that it could not place, to this power.
constexpr double kPowerOfUnplaced = 2;
constexpr double kLeastScale = 1e-3;

struct Search {
  const char* planner;
  double weight;
  // Returns its work, in nanoseconds about; negative: it has nothing left to do.
  std::function<double()> step;
  // At first what a step is likely to take: who is to have a small share of the time waits for its first
  // turn.
  double work;
  double first_weight = weight;
  double least_weight = kLeastShareOfWeight * weight;
  double largest_weight = kLargestWeight;
  bool is_tree = false;
};

}  // namespace

PartSearchOutcome search_part(const PreparedProblem& part, Placement from, const Goal& goal,
                              size_t best_order, uint64_t seed, Budget& budget) {
  PartSearchOutcome outcome{{std::move(from), false}, nullptr};
  Placement& best = outcome.part.placement;
  try {
    const bool few = part.num_buffers <= kFewBuffers;
    const bool has_tree = is_small_enough_for_tree_search(part);
    const bool tree_wins = few && has_tree && part.alignments.empty();
    std::optional<TreeSearch> tree;
    std::optional<WindowSearch> windows;
    SkylineRestarts restarts(part, best_order, seed);
    SkylineRestarts first_fit(part, kSkylineOrders.size() - 1, seed, Builder::kFirstFit);
    const auto run_once = [&](SkylineRestarts& search) {
      search.run(goal.target, budget, 1);
      if (search.best().height < best.height) best = search.best();
    };
    const double work_of_step_ns = std::max(kWorkOfStep_ns, kWorkOfStepPerBuffer_ns * part.num_buffers);
    std::vector<Search> searches;
    if (has_tree) {
      const auto step = [&]() -> double {
        if (!tree) tree.emplace(part, seed);
        const double old_work = tree->work_ns();
        tree->improve(best, goal, work_of_step_ns, budget);
        return tree->work_ns() - old_work;
      };
      // Where there are many buffers a single run may take the time there is.
      const double first_work = few ? 0 : tree_search_run_cost_ns(part);
      searches.push_back({"branch_and_bound", few ? 1.0 : 0.25, step, first_work});
      searches.back().is_tree = true;
      // It finds late what it finds.
      if (few) searches.back().least_weight = searches.back().weight;
    }
    const auto add = [&](const char* planner, double weight, double first_work, auto step) {
      searches.push_back({planner, weight, step, tree_wins ? first_work : 0});
      if (tree_wins) searches.back().largest_weight = kLargestWeightBesideTree;
    };
    const double mean_alive = static_cast<double>(num_in_sections(part)) / part.num_sections;
    if (mean_alive <= kShareOfWindow * part.num_buffers) {
      add("window_search", tree_wins ? 0.1 : 1.0, kWorkOfWindows_ns, [&]() -> double {
        if (!windows) windows.emplace(part, seed);
        if (windows->is_done()) return -1;
        const double old_work = windows->work_ns();
        windows->improve(best, goal.target, work_of_step_ns, budget);
        return windows->work_ns() - old_work;
      });
    }
    if (!part.has_pins()) {
      const double cost_ns = kRunCostPerBuffer_ns * part.num_buffers;
      add("skyline_restarts", tree_wins ? 0.2 : 1.0, cost_ns, [&, cost_ns]() -> double {
        run_once(restarts);
        return cost_ns;
      });
    }
    const double cost_ns = greedy_cost_ns(part);
    add("greedy_restarts", part.alignments.empty() ? 0.1 : 1.0, cost_ns, [&, cost_ns]() -> double {
      run_once(first_fit);
      return cost_ns;
    });
    while (best.height > goal.target && !budget.spent() && !searches.empty()) {
      const double unplaced = tree_wins && tree ? 1 - tree->most_placed_at_target() : 1;
      const double scale = std::max(kLeastScale, std::pow(unplaced, kPowerOfUnplaced));
      const auto turn = [&](const Search& search) {
        return search.work / (search.weight * (search.is_tree ? 1 : scale));
      };
      const auto next = std::min_element(searches.begin(), searches.end(),
                                         [&](const Search& a, const Search& b) { return turn(a) < turn(b); });
      const int64_t old_height = best.height;
      const double work = next->step();
      if (best.height < old_height) {
        outcome.planner = next->planner;
        next->weight =
            std::min(next->largest_weight, std::max(next->weight, next->first_weight) * kWeightGrowth);
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
