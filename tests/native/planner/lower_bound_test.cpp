#include "planner/lower_bound.hpp"

#include <gtest/gtest.h>

#include "planner/prepare.hpp"
#include "random_problem.hpp"

namespace memomalloc::planner {
namespace {

int64_t largest_load(const Problem& problem) {
  const PreparedProblem prepared = prepare(problem);
  return *std::max_element(prepared.loads.begin(), prepared.loads.end()) * prepared.unit;
}

// Alignments that are multiples of each other, or of nothing in common.
Problem aligned_problem(std::mt19937& random, int num_buffers, bool pinned) {
  Problem problem = random_problem(random, num_buffers, pinned ? kPinned : kPlain);
  const bool powers = random() % 2 == 0;
  for (size_t i = 0; i < problem.sizes.size(); ++i) {
    int64_t alignment = powers ? int64_t{1} << below(random, 5) : 1 + below(random, 6);
    if (pinned && problem.pins[i] != kFree) alignment = 4;
    problem.alignments.push_back(alignment);
  }
  return problem;
}

TEST(LowerBound, IsNeverAboveTheBestPlacement) {
  std::mt19937 random(1);
  int above_load = 0;
  int reached = 0;
  for (int k = 0; k < 4000; ++k) {
    const Problem problem = aligned_problem(random, 1 + below(random, 6), k % 4 == 0);
    const int64_t bound = lower_bound_in_bytes(problem);
    const int64_t best = smallest_arena(problem);
    ASSERT_LE(bound, best);
    EXPECT_GE(bound, largest_load(problem));
    if (bound > largest_load(problem)) ++above_load;
    if (bound > largest_load(problem) && bound == best) ++reached;
  }
  EXPECT_GT(above_load, 500) << "alignments raised hardly any bound";
  EXPECT_GT(reached, 200) << "the bound is weak";
}

TEST(LowerBound, CountsWholeMultiplesOfAnAlignmentForAllButTheHighest) {
  EXPECT_EQ(lower_bound_in_bytes({{64, 64, 64}, {0, 0, 0}, {1, 1, 1}, {4096, 4096, 4096}, {}}),
            2 * 4096 + 64);
}

TEST(LowerBound, LetsSmallBuffersFillWhatAlignmentLeavesFree) {
  EXPECT_EQ(lower_bound_in_bytes({{64, 64, 4032}, {0, 0, 0}, {1, 1, 1}, {4096, 4096, 1}, {}}), 4096 + 64);
}

TEST(LowerBound, IsNeverAboveTheBestPlacementAroundPins) {
  std::mt19937 random(2);
  int raised = 0;
  int reached = 0;
  for (int k = 0; k < 4000; ++k) {
    // All alive at one tick, so that pins that do not meet can be drawn.
    Problem problem;
    int64_t top = 0;
    const int num_buffers = 2 + below(random, 5);
    for (int i = 0; i < num_buffers; ++i) {
      problem.starts.push_back(below(random, 6));
      problem.ends.push_back(6 + below(random, 6));
      problem.sizes.push_back(1 + below(random, 9));
      if (k % 2 == 0) problem.alignments.push_back(1 + below(random, 4));
      const bool pinned = below(random, 2) == 0;
      problem.pins.push_back(pinned ? top + 12 * below(random, 2) : kFree);
      if (pinned) top = 12 * ((problem.pins.back() + problem.sizes.back() + 11) / 12);
    }
    const int64_t bound = lower_bound_in_bytes(problem);
    const int64_t best = smallest_arena(problem);
    ASSERT_LE(bound, best);
    const int64_t without =
        std::max(largest_load(problem), top_of_pins(prepare(problem)) * prepare(problem).unit);
    EXPECT_GE(bound, without);
    if (bound > without) ++raised;
    if (bound > without && bound == best) ++reached;
  }
  EXPECT_GT(raised, 350) << "pins raised hardly any bound";
  EXPECT_GT(reached, 250) << "the bound is weak";
}

TEST(LowerBound, APinLeavesNoRoomBelowIt) {
  constexpr int64_t kLarge = int64_t{1} << 32;
  EXPECT_EQ(lower_bound_in_bytes({{kLarge, 320}, {0, 0}, {1, 1}, {}, {kFree, kLarge / 2}}),
            kLarge / 2 + 320 + kLarge);
  // Below is room for 15 of 20.
  EXPECT_EQ(lower_bound_in_bytes({{10, 10, 1}, {0, 0, 0}, {1, 1, 1}, {}, {kFree, kFree, 15}}), 21);
  // Pins of other times are in nobody's way.
  EXPECT_EQ(lower_bound_in_bytes({{10, 10}, {0, 1}, {1, 2}, {}, {kFree, 5}}), 15);
}

TEST(LowerBound, IsTheLargestLoadWithoutAlignments) {
  EXPECT_EQ(lower_bound_in_bytes({{3, 5, 7}, {0, 1, 2}, {2, 3, 4}, {}, {}}), 12);
  EXPECT_EQ(lower_bound_in_bytes({}), 0);
}

}  // namespace
}  // namespace memomalloc::planner
