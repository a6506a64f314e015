// Greedy planners: buffers in a fixed order, each into a gap between those already placed.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "planner/budget.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

enum class GreedyOrder {
  kSize,      // largest first: Pisarchyk and Lee 2020, "Efficient memory management for deep neural net
              // inference"
  kArea,      // largest size times lifetime first
  kDuration,  // longest lifetime first
  kBreadth,   // buffers of the section with the largest load first: "greedy by breadth" of the same paper
};

enum class GreedyFit {
  kFirst,  // the lowest gap that is large enough
  kBest,   // the smallest gap that is large enough
};

// The buffers, best first.
std::vector<int32_t> greedy_order(const PreparedProblem& problem, GreedyOrder order);

// Places the free buffers in the given order around the pinned ones. Honours pins and alignments. O(n)
// memory. None if the budget was spent, or the placement would be as high as the cutoff.
std::optional<Placement> place_in_order(const PreparedProblem& problem, const std::vector<int32_t>& order,
                                        GreedyFit fit, Budget& budget, int64_t cutoff = kNoCutoff);

std::optional<Placement> greedy(const PreparedProblem& problem, GreedyOrder order, GreedyFit fit,
                                Budget& budget, int64_t cutoff = kNoCutoff);

// About how many nanoseconds that takes, in O(n).
double greedy_cost_ns(const PreparedProblem& problem);

}  // namespace memomalloc::planner
