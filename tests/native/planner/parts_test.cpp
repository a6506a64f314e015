#include "planner/parts.hpp"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "planner/bump.hpp"
#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

constexpr double kEnough_s = 60;

// Two parts of two buffers each; the second part is the higher one where nothing is reused.
PreparedProblem two_parts() {
  Problem problem;
  problem.starts = {0, 1, 5, 6, 7};
  problem.ends = {2, 3, 7, 8, 9};
  problem.sizes = {3, 5, 4, 6, 5};
  return prepare(problem);
}

void wait_until_spent(Budget& budget) {
  while (!budget.spent()) {
  }
}

TEST(Parts, TimeThatOnePartLeavesGoesToTheOthers) {
  const PreparedProblem problem = two_parts();
  Budget budget(0.2, nullptr);
  uint64_t last_round = 0;
  int num_calls = 0;
  const auto improve = [&](const PreparedProblem&, Placement from, const Goal& goal, uint64_t round,
                           Budget& share) {
    last_round = round;
    // The first one that is asked takes all of its time; the other needs none to be as low.
    if (++num_calls % 2 == 1) {
      wait_until_spent(share);
    } else {
      from.height = goal.target;
    }
    // Within the target this says nothing.
    return PartOutcome{std::move(from), num_calls % 2 == 0};
  };
  EXPECT_FALSE(improve_parts(problem, bump(problem), {1}, budget, improve).proven);
  EXPECT_GE(last_round, 1);
  EXPECT_TRUE(budget.spent());
}

TEST(Parts, NoRoundIsAddedWhereNoPartLackedTime) {
  const PreparedProblem problem = two_parts();
  Budget budget(kEnough_s, nullptr);
  int num_calls = 0;
  const auto improve = [&](const PreparedProblem&, Placement from, const Goal&, uint64_t, Budget&) {
    ++num_calls;
    return PartOutcome{std::move(from), false};
  };
  const PartOutcome outcome = improve_parts(problem, bump(problem), {1}, budget, improve);
  EXPECT_EQ(num_calls, 2);
  EXPECT_FALSE(outcome.proven);
}

TEST(Parts, AProofOfTheHighestIsOneOfAll) {
  const PreparedProblem problem = two_parts();
  Budget budget(0.2, nullptr);
  const auto improve = [&](const PreparedProblem& part, Placement from, const Goal&, uint64_t,
                           Budget& share) {
    const bool is_higher = part.num_buffers == 3;
    if (!is_higher) wait_until_spent(share);
    return PartOutcome{std::move(from), is_higher};
  };
  EXPECT_TRUE(improve_parts(problem, bump(problem), {1}, budget, improve).proven);
  EXPECT_FALSE(budget.spent());
}

}  // namespace
}  // namespace memomalloc::planner
