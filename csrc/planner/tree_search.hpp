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
// ... times a unit. Every way of branching is used with every priority order, and after the first round with
// perturbed ones. Deterministic for a seed and a number of nodes. A search that ends within its limit is a
// proof.
class TreeSearch {
 public:
  // Borrows the problem, which must have at least one buffer.
  TreeSearch(const PreparedProblem& problem, uint64_t seed);

  // One round of improving `best`: asks for the target of the goal, then, unless it is to decide, bisects
  // between what was not found and the best. Each round spends more nodes on a question than the one before.
  void improve(Placement& best, const Goal& goal, Budget& budget);

  // Whether the last round left nothing to ask: `best` is within the target, or proven as PartOutcome says.
  bool is_done(const Placement& best, const Goal& goal) const;

 private:
  Verdict fits(int64_t capacity, int64_t num_nodes, Budget& budget);
  const std::vector<int32_t>& next_ranks();

  const PreparedProblem& problem_;
  Random random_;
  BranchAndBound tree_;
  std::vector<std::vector<int32_t>> orders_;
  std::vector<int32_t> perturbed_;
  int64_t num_runs_ = 0;
  int64_t excluded_;  // it is proven that no placement is this low
  int64_t num_nodes_per_question_;
};

// Rounds of a TreeSearch until it is done or the budget spent.
PartOutcome improve_by_tree_search(const PreparedProblem& part, Placement from, const Goal& goal,
                                   uint64_t seed, Budget& budget);

}  // namespace memomalloc::planner
