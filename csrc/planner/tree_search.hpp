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

// Larger problems would need too much memory for pairs of neighbours, and stack for the depth of the search.
inline constexpr int32_t kTreeSearchMaxBuffers = 5000;

// The time of one search has a heavy tail: most orders are quick or hopeless. So the node limits follow the
// sequence of Luby, Sinclair and Zuckerman, "Optimal speedup of Las Vegas algorithms" (1993): 1 1 2 1 1 2 4
// ... times a unit, each for as many runs as there are strategies. Every way of branching is used with every
// priority order, and after the first round with perturbed ones. Which pair of the two is good differs from
// problem to problem by orders of magnitude, but a good one shows early: it comes far, if not to the end. So
// most runs go to the pairs that came far, and half of them start from the priorities that came furthest.
// Deterministic for a seed and a number of nodes. A search that ends within its limit is a proof.
class TreeSearch {
 public:
  // Borrows the problem, which must have at least one buffer.
  TreeSearch(const PreparedProblem& problem, uint64_t seed);

  // One round of improving `best`: asks for the target of the goal, then, unless it is to decide, bisects
  // between what was not found and the best. The target can be reached more often than not, so that the
  // bisection gets no more nodes than the first question. Each round spends more than the one before.
  void improve(Placement& best, const Goal& goal, Budget& budget);

  // Of all rounds.
  int64_t num_nodes() const { return num_nodes_; }

  // Whether the last round left nothing to ask: `best` is within the target, or proven as PartOutcome says.
  bool is_done(const Placement& best, const Goal& goal) const;

 private:
  // A way of branching with a priority order.
  struct Strategy {
    BranchOn branch_on;
    size_t order;
    int64_t num_runs = 0;
    double sum_of_scores = 0;
    double best_score = 0;
    std::vector<double> best_keys = {};

    double mean_score() const { return sum_of_scores / static_cast<double>(num_runs); }
  };

  Verdict fits(int64_t capacity, int64_t num_nodes, Budget& budget);
  Strategy& next_strategy();
  void next_ranks(const Strategy& strategy);
  void learn(Strategy& strategy);

  const PreparedProblem& problem_;
  Random random_;
  BranchAndBound tree_;
  std::vector<std::vector<int32_t>> orders_;
  std::vector<Strategy> strategies_;
  std::vector<double> keys_;
  std::vector<int32_t> buffers_;
  std::vector<int32_t> ranks_;
  int64_t num_runs_ = 0;
  int64_t excluded_;  // it is proven that no placement is this low
  int64_t num_nodes_in_round_;
  int64_t num_nodes_ = 0;
};

// Rounds of a TreeSearch until it is done or the budget spent.
PartOutcome improve_by_tree_search(const PreparedProblem& part, Placement from, const Goal& goal,
                                   uint64_t seed, Budget& budget);

}  // namespace memomalloc::planner
