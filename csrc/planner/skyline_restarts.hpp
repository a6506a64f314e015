// The skyline planner again and again, with its priorities perturbed.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "planner/budget.hpp"
#include "planner/problem.hpp"
#include "planner/random.hpp"
#include "planner/skyline.hpp"

namespace memomalloc::planner {

// What a vector of keys is turned into a placement by.
enum class Builder {
  kSkyline,   // ignores pins
  kFirstFit,  // one after the other into the lowest gap: fills what alignments leave free; slower, honours
              // pins
};

// An anytime search. A run places all buffers by a vector of keys, the smallest first. Each run perturbs the
// keys of one of the five orders, or all or a few of those of the best run so far, by noise of a random
// spread; one run in three moreover favours the buffers that stuck out above the target in the best run.
// Deterministic for a seed and a number of runs.
class SkylineRestarts {
 public:
  // Borrows the problem. O(1): what the first run needs, it makes. `best_order` is that of the five orders
  // whose perturbations come first.
  SkylineRestarts(const PreparedProblem& problem, size_t best_order, uint64_t seed,
                  Builder builder = Builder::kSkyline);

  // Runs until the best height is at most `target`, the budget is spent, or `max_runs` were made.
  void run(int64_t target, Budget& budget, int64_t max_runs = std::numeric_limits<int64_t>::max());

  // Out of reach, without offsets, until a run has ended.
  const Placement& best() const { return best_; }

 private:
  void next_keys(int64_t target);
  bool place(Budget& budget);
  const std::vector<float>& order(size_t which);

  const PreparedProblem& problem_;
  Random random_;
  std::unique_ptr<SkylineBuilder> skyline_;
  std::vector<int64_t> peak_loads_;
  // Keys of the unperturbed orders: rank / n. Empty until needed.
  std::array<std::vector<float>, kSkylineOrders.size()> orders_;
  size_t best_order_;
  Builder builder_;
  std::vector<float> keys_;
  std::vector<float> best_keys_;
  std::vector<int32_t> buffers_;
  std::vector<int32_t> ranks_;
  Placement current_;
  Placement best_{{}, kNoCutoff};
  double best_excess_ = 0;  // what of it is above the target
};

// Part by part: only those above the target are searched, the highest first.
Placement skyline_restarts(const PreparedProblem& problem, SkylineOutcome from, int64_t target, uint64_t seed,
                           Budget& budget);

}  // namespace memomalloc::planner
