// The skyline planner again and again, with its priorities perturbed.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/budget.hpp"
#include "planner/problem.hpp"
#include "planner/random.hpp"
#include "planner/skyline.hpp"

namespace memomalloc::planner {

// An anytime search. A run places all buffers by a vector of keys, the smallest first. Each run perturbs
// either the keys of the best run so far or those of one of the five orders, by noise of a random spread; one
// run in three moreover favours the buffers that stuck out above the target in the best run. Deterministic
// for a seed and a number of runs.
class SkylineRestarts {
 public:
  // Borrows the problem. The first runs are the unperturbed orders.
  SkylineRestarts(const PreparedProblem& problem, uint64_t seed);

  // Runs until the best height is at most `target` or the budget is spent.
  void run(int64_t target, Budget& budget);

  // After the first run. Ignores pins.
  const Placement& best() const { return best_; }

 private:
  void next_keys(int64_t target);
  void place();

  const PreparedProblem& problem_;
  Random random_;
  SkylineBuilder builder_;
  std::vector<std::vector<double>> orders_;  // keys of the unperturbed orders: rank / n
  size_t num_runs_ = 0;
  std::vector<double> keys_;
  std::vector<double> best_keys_;
  std::vector<int32_t> buffers_;
  std::vector<int32_t> ranks_;
  Placement current_;
  Placement best_;
};

// Part by part: only those above the target are searched, the highest first.
Placement skyline_restarts(const PreparedProblem& problem, int64_t target, uint64_t seed, Budget& budget);

}  // namespace memomalloc::planner
