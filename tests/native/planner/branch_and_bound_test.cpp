#include "planner/branch_and_bound.hpp"

#include <gtest/gtest.h>

#include <array>
#include <numeric>

#include "planner/checker.hpp"
#include "planner/plan.hpp"
#include "planner/prepare.hpp"
#include "random_problem.hpp"

namespace memomalloc::planner {
namespace {

constexpr std::array<BranchOn, 4> kBranchings = {BranchOn::kLowestFloor, BranchOn::kFullestSection,
                                                 BranchOn::kFewestChoices, BranchOn::kFailures};
constexpr int64_t kUnlimited = int64_t{1} << 60;

std::vector<int32_t> random_ranks(std::mt19937& random, int32_t n) {
  std::vector<int32_t> ranks(static_cast<size_t>(n));
  std::iota(ranks.begin(), ranks.end(), 0);
  std::shuffle(ranks.begin(), ranks.end(), random);
  return ranks;
}

// Both answers of the tree, at the optimum and one unit below it, are those of trying everything.
void expect_exact(int features, int num_problems, unsigned seed) {
  std::mt19937 random(seed);
  int above_lower_bound = 0;
  for (int k = 0; k < num_problems; ++k) {
    const Problem problem = random_problem(random, 1 + below(random, 6), features);
    const int64_t best = smallest_arena(problem);
    const PreparedProblem prepared = prepare(problem);
    BranchAndBound tree(prepared);
    for (BranchOn branch_on : kBranchings) {
      const std::vector<int32_t> ranks = random_ranks(random, prepared.num_buffers);
      Budget budget(60, nullptr);
      ASSERT_EQ(tree.search(best / prepared.unit, branch_on, ranks, kUnlimited, budget), Verdict::kFits);
      EXPECT_EQ(tree.placement().height, best / prepared.unit);
      const std::vector<int64_t> offsets = to_bytes(problem, prepared, tree.placement());
      const auto overlap = checker::find_overlap(offsets.size(), problem.sizes.data(), problem.starts.data(),
                                                 problem.ends.data(), offsets.data());
      ASSERT_EQ(overlap.first, -1);
      if (best / prepared.unit == prepared.lower_bound) continue;
      ++above_lower_bound;
      ASSERT_EQ(tree.search(best / prepared.unit - 1, branch_on, ranks, kUnlimited, budget), Verdict::kNone);
    }
  }
  // Small problems without alignments and pins are nearly always at the lower bound: see ProvesImpossibility.
  if (features != kPlain) {
    EXPECT_GT(above_lower_bound, 0) << "no proof of impossibility was tested";
  }
}

TEST(BranchAndBound, AgreesWithTryingEverything) { expect_exact(kPlain, 3000, 1); }
TEST(BranchAndBound, AgreesWithTryingEverythingOnAlignedBuffers) { expect_exact(kAligned, 1000, 2); }
TEST(BranchAndBound, AgreesWithTryingEverythingAroundPins) { expect_exact(kPinned, 1000, 3); }
TEST(BranchAndBound, AgreesWithTryingEverythingOnAlignedBuffersAroundPins) {
  expect_exact(kAligned | kPinned, 1000, 4);
}

TEST(BranchAndBound, ProvesImpossibility) {
  std::mt19937 random(8);
  int num_proofs = 0;
  for (int k = 0; k < 60000; ++k) {
    const Problem problem = churning_problem(random, 6 + below(random, 8), 3 + below(random, 4));
    if (problem.sizes.size() > 11) continue;
    Request request;
    request.planner = "branch_and_bound";
    request.time_limit_s = 60;
    const Result result = plan(problem, request);
    ASSERT_TRUE(result.proven_optimal);
    const int64_t lower_bound = checker::peak_live_bytes(problem.sizes.size(), problem.sizes.data(),
                                                         problem.starts.data(), problem.ends.data());
    if (result.arena == lower_bound) continue;
    ++num_proofs;
    ASSERT_FALSE(fits_somehow(problem, result.arena - 1));
  }
  EXPECT_GT(num_proofs, 0);
}

TEST(BranchAndBound, OrdersTwinsWithoutLosingPlacements) {
  std::mt19937 random(5);
  for (int k = 0; k < 300; ++k) {
    Problem problem = random_problem(random, 3);
    for (int twin = 0; twin < 3; ++twin) {
      const auto i = static_cast<size_t>(below(random, 3));
      problem.sizes.push_back(problem.sizes[i]);
      problem.starts.push_back(problem.starts[i]);
      problem.ends.push_back(problem.ends[i]);
    }
    Request request;
    request.planner = "branch_and_bound";
    request.time_limit_s = 60;
    const Result result = plan(problem, request);
    EXPECT_TRUE(result.proven_optimal);
    EXPECT_EQ(result.arena, smallest_arena(problem));
  }
}

TEST(BranchAndBound, SaysUnknownAtTheLimitOfDeadEnds) {
  std::mt19937 random(6);
  const PreparedProblem prepared = prepare(random_problem(random, 40));
  BranchAndBound tree(prepared);
  Budget budget(60, nullptr);
  const std::vector<int32_t> ranks = random_ranks(random, prepared.num_buffers);
  EXPECT_EQ(tree.search(prepared.lower_bound, BranchOn::kLowestFloor, ranks, 2, budget), Verdict::kUnknown);
  EXPECT_LE(tree.num_nodes(), tree.most_placed() + 2);
}

TEST(BranchAndBound, ProvesThroughThePlanner) {
  std::mt19937 random(7);
  for (int k = 0; k < 500; ++k) {
    const Problem problem = random_problem(random, 1 + below(random, 6));
    const int64_t best = smallest_arena(problem);
    for (const char* name : {"branch_and_bound", "auto"}) {
      Request request;
      request.planner = name;
      request.time_limit_s = 60;
      const Result optimal = plan(problem, request);
      EXPECT_EQ(optimal.arena, best);
      EXPECT_TRUE(optimal.proven_optimal);
      request.capacity = best;
      const Result within = plan(problem, request);
      EXPECT_LE(within.arena, best);
      EXPECT_FALSE(within.proven_infeasible);
      request.capacity = best - 1;
      EXPECT_TRUE(plan(problem, request).proven_infeasible);
    }
  }
}

}  // namespace
}  // namespace memomalloc::planner
