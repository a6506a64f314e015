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

TEST(LowerBound, IsTheLargestLoadWithoutAlignments) {
  EXPECT_EQ(lower_bound_in_bytes({{3, 5, 7}, {0, 1, 2}, {2, 3, 4}, {}, {}}), 12);
  EXPECT_EQ(lower_bound_in_bytes({}), 0);
}

}  // namespace
}  // namespace memomalloc::planner
