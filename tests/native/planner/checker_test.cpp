#include "planner/checker.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "random_problem.hpp"

namespace memomalloc::checker {
namespace {

using planner::below;
using planner::Problem;

TEST(Checker, AgreesWithComparingAllPairs) {
  std::mt19937 random(1);
  int num_overlapping = 0;
  for (int k = 0; k < 3000; ++k) {
    const Problem problem = planner::random_problem(random, 1 + below(random, 8));
    const size_t n = problem.sizes.size();
    std::vector<int64_t> offsets;
    for (size_t i = 0; i < n; ++i) offsets.push_back(below(random, 60));
    const auto clash = [&](size_t i, size_t j) {
      return problem.starts[i] < problem.ends[j] && problem.starts[j] < problem.ends[i] &&
             offsets[i] < offsets[j] + problem.sizes[j] && offsets[j] < offsets[i] + problem.sizes[i];
    };
    bool expected = false;
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < i; ++j) expected = expected || clash(i, j);
    }
    const auto found =
        find_overlap(n, problem.sizes.data(), problem.starts.data(), problem.ends.data(), offsets.data());
    ASSERT_EQ(found.first >= 0, expected);
    if (expected) {
      ASSERT_TRUE(clash(static_cast<size_t>(found.first), static_cast<size_t>(found.second)));
    }
    num_overlapping += expected;
  }
  EXPECT_GT(num_overlapping, 300);
  EXPECT_LT(num_overlapping, 2700);
}

TEST(Checker, BuffersWithoutBytesOverlapNothing) {
  const std::vector<int64_t> sizes = {0, 8, 0}, starts = {0, 0, 0}, ends = {9, 9, 9}, offsets = {4, 0, 4};
  EXPECT_EQ(find_overlap(3, sizes.data(), starts.data(), ends.data(), offsets.data()).first, -1);
  EXPECT_EQ(peak_live_bytes(3, sizes.data(), starts.data(), ends.data()), 8);
}

TEST(Checker, LifetimesAreHalfOpen) {
  const std::vector<int64_t> sizes = {8, 8}, starts = {0, 5}, ends = {5, 9}, offsets = {0, 0};
  EXPECT_EQ(find_overlap(2, sizes.data(), starts.data(), ends.data(), offsets.data()).first, -1);
  EXPECT_EQ(peak_live_bytes(2, sizes.data(), starts.data(), ends.data()), 8);
}

}  // namespace
}  // namespace memomalloc::checker
