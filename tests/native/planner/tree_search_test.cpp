#include "planner/tree_search.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "planner/checker.hpp"
#include "planner/prepare.hpp"
#include "planner/skyline.hpp"
#include "random_problem.hpp"

namespace memomalloc::planner {
namespace {

constexpr double kEnough_s = 600;

TEST(TreeSearch, ReachesTheBoundOfCutRectanglesInLittleWork) {
  // Counted, not timed.
  constexpr double kMaxWork_ns = 4e8;
  double work_ns = 0;
  for (int num_buffers : {150, 200, 250, 300}) {
    for (unsigned seed = 1; seed <= 5; ++seed) {
      std::mt19937 random(1000 * seed + static_cast<unsigned>(num_buffers));
      const Problem problem = cut_rectangle(random, static_cast<size_t>(num_buffers));
      const PreparedProblem prepared = prepare(problem);
      Budget budget(kEnough_s, nullptr);
      const Goal goal{prepared.lower_bound, false};
      Placement best = skyline(prepared, goal.target, budget)->placement;
      TreeSearch tree(prepared, 0);
      tree.improve(best, goal, kMaxWork_ns, budget);
      work_ns += tree.work_ns();
      EXPECT_EQ(best.height, prepared.lower_bound) << num_buffers << " buffers, seed " << seed;
      EXPECT_GT(tree.most_placed_at_target(), 0.5);
      EXPECT_LE(tree.most_placed_at_target(), 1);
      const std::vector<int64_t> offsets = to_bytes(problem, prepared, best);
      const auto overlap = checker::find_overlap(offsets.size(), problem.sizes.data(), problem.starts.data(),
                                                 problem.ends.data(), offsets.data());
      EXPECT_EQ(overlap.first, -1);
    }
  }
  EXPECT_LE(work_ns, kMaxWork_ns);
}

// What leads on is not held against a run, however many buffers there are.
TEST(TreeSearch, ARunEndsByDeadEnds) {
  constexpr int64_t kDeadEnds = 10;
  std::mt19937 random(1);
  int num_placed = 0;
  for (int k = 0; k < 20; ++k) {
    const PreparedProblem prepared = prepare(cut_rectangle(random, 60));
    std::vector<int32_t> ranks(prepared.sizes.size());
    std::iota(ranks.begin(), ranks.end(), 0);
    BranchAndBound tree(prepared);
    Budget budget(kEnough_s, nullptr);
    const Verdict verdict = tree.search(prepared.lower_bound, BranchOn::kFailures, ranks, kDeadEnds, budget);
    EXPECT_LE(tree.num_nodes(), tree.most_placed() + kDeadEnds);
    if (verdict == Verdict::kUnknown) {
      EXPECT_EQ(tree.num_nodes(), tree.most_placed() + kDeadEnds);
    }
    if (verdict == Verdict::kFits && tree.num_nodes() > kDeadEnds) ++num_placed;
  }
  EXPECT_GT(num_placed, 0);
}

}  // namespace
}  // namespace memomalloc::planner
