#include "planner/containment_tree.hpp"

#include <gtest/gtest.h>

#include "planner/prepare.hpp"
#include "random_problem.hpp"

namespace memomalloc::planner {
namespace {

TEST(ContainmentTree, AgreesWithLookingAtAllBuffers) {
  std::mt19937 random(1);
  for (int k = 0; k < 100; ++k) {
    const PreparedProblem problem = prepare(random_problem(random, 1 + below(random, 60)));
    ContainmentTree tree(problem);
    for (int round = 0; round < 2; ++round) {
      std::vector<int32_t> ranks(problem.sizes.size());
      std::iota(ranks.begin(), ranks.end(), 0);
      std::shuffle(ranks.begin(), ranks.end(), random);
      tree.set_ranks(ranks);
      std::vector<char> removed(problem.sizes.size(), 0);
      for (int query = 0; query < 100; ++query) {
        const int left = below(random, problem.num_sections);
        const int right = left + 1 + below(random, problem.num_sections);
        int32_t expected = -1;
        for (int32_t i = 0; i < problem.num_buffers; ++i) {
          if (removed[i] || problem.starts[i] < left || problem.ends[i] > right) continue;
          if (expected < 0 || ranks[i] < ranks[expected]) expected = i;
        }
        ASSERT_EQ(tree.best_inside(left, right), expected);
        if (expected >= 0) {
          tree.remove(expected);
          removed[expected] = 1;
        }
      }
    }
  }
}

TEST(ContainmentTree, OfNothingIsEmpty) {
  const PreparedProblem problem = prepare({});
  ContainmentTree tree(problem);
  tree.set_ranks({});
  EXPECT_EQ(tree.best_inside(0, 10), -1);
}

}  // namespace
}  // namespace memomalloc::planner
