// Branch and bound with restarts: many short searches, then longer ones, each in another order.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/branch_and_bound.hpp"
#include "planner/budget.hpp"
#include "planner/parts.hpp"
#include "planner/problem.hpp"
#include "planner/random.hpp"

namespace memomalloc::planner {

// Larger problems would need too much stack for the depth of the search.
inline constexpr int32_t kTreeSearchMaxBuffers = 5000;
// In bytes, of lists of neighbours and sections.
inline constexpr int64_t kTreeSearchMaxMemory = 100'000'000;

// About what a run takes.
struct TreeSearchCost {
  double start_ns;
  double node_ns;
};

// Of a run that goes straight to a placement, in O(n).
double tree_search_run_cost_ns(const PreparedProblem& problem);

// Whether a tree search of this problem is within its means.
bool is_small_enough_for_tree_search(const PreparedProblem& problem);

// The time of one search has a heavy tail: most orders are quick or hopeless. So the limits of dead ends
// follow Luby's sequence (luby.hpp), each number times a unit for as many runs as there are strategies. Dead
// ends, not nodes: a run that is stuck near its start ends as soon as one that is stuck near its end, and was
// cheaper. Every way of branching is used with every priority order, and after the first round with perturbed
// ones. Which pair of the two is good differs from problem to problem by orders of magnitude, but a good one
// shows early: it comes far, if not to the end. So most runs go to the pairs that came far, and half of them
// start from the priorities that came furthest. Deterministic for a seed and an amount of work. A search that
// ends within its limit is a proof.
//
// Without a capacity the runs climb a ladder between the target and the best placement: each rung asks for a
// capacity of its own. What is found on a high rung lowers all of them, so that time is spent just below the
// best placement as well as at the target, and what was learned on one rung is the start of the next one
// below.
class TreeSearch {
 public:
  // Borrows the problem, which must have at least one buffer.
  TreeSearch(const PreparedProblem& problem, uint64_t seed);

  // Improves `best` until it is done, so much work was done, about, or the budget is spent.
  void improve(Placement& best, const Goal& goal, double work_ns, Budget& budget);

  // Of all runs, in nanoseconds, about.
  double work_ns() const { return work_ns_; }

  // Of the buffers, the largest share that a run for the target had placed at a time: where that is small,
  // the target is out of reach.
  double most_placed_at_target() const {
    return static_cast<double>(most_placed_at_target_) / problem_.num_buffers;
  }

  // Whether there is nothing left to ask: `best` is within the target, or proven as PartOutcome says.
  bool is_done(const Placement& best, const Goal& goal) const;

 private:
  // A way of branching with a priority order.
  struct Strategy {
    BranchOn branch_on;
    size_t order;
    int64_t num_runs = 0;
    double sum_of_scores = 0;
    double best_score = 0;
    std::vector<float> best_keys = {};

    double mean_score() const { return sum_of_scores / static_cast<double>(num_runs); }
  };
  // The questions for one capacity, which comes down as better placements are found.
  struct Rung {
    double height;  // from the target, 0, to the best placement, 1
    int64_t capacity = -1;
    int64_t num_runs = 0;
    double work_ns = 0;
    std::vector<Strategy> strategies = {};
  };

  // The rung whose turn it is, with its capacity brought up to date.
  Rung& next_rung(int64_t lowest, int64_t highest, bool decide);
  Verdict run(Rung& rung, Budget& budget);
  Strategy& next_strategy(Rung& rung);
  void next_ranks(const Strategy& strategy);
  void learn(Strategy& strategy);

  const PreparedProblem& problem_;
  Random random_;
  BranchAndBound tree_;
  std::vector<std::vector<int32_t>> orders_;
  std::vector<Rung> rungs_;
  std::vector<float> keys_;
  std::vector<int32_t> buffers_;
  std::vector<int32_t> ranks_;
  int64_t excluded_;  // it is proven that no placement is this low
  TreeSearchCost cost_;
  double work_ns_;
  int32_t most_placed_at_target_ = 0;
};

// A TreeSearch until it is done or the budget spent; what it got, where the part is too large for
// one.
PartOutcome improve_by_tree_search(const PreparedProblem& part, Placement from, const Goal& goal,
                                   uint64_t seed, Budget& budget);

}  // namespace memomalloc::planner
