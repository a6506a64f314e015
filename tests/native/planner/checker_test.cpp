#include "planner/checker.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
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

// As many as that their neighbours may be far away in the set of those that are alive.
TEST(Checker, FindsOneByteAmongThousands) {
  std::mt19937 random(2);
  for (int n : {1, 64, 65, 4'096, 5'000, 300'000}) {
    Problem problem;
    std::vector<int64_t> offsets(static_cast<size_t>(n));
    std::vector<int> order(offsets.size());
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (int i = 0; i < n; ++i) {
      problem.starts.push_back(below(random, 2 * n));
      problem.ends.push_back(problem.starts.back() + 1 + below(random, 1 + n / (1 + below(random, n))));
      problem.sizes.push_back(1 + below(random, 9));
    }
    int64_t top = 0;
    for (int i : order) {
      offsets[static_cast<size_t>(i)] = top;
      top += problem.sizes[static_cast<size_t>(i)];
    }
    const auto find = [&] {
      return find_overlap(offsets.size(), problem.sizes.data(), problem.starts.data(), problem.ends.data(),
                          offsets.data());
    };
    ASSERT_EQ(find().first, -1);
    int num_moved = 0;
    for (int k = 0; k < 400 && num_moved < 5; ++k) {
      const auto i = static_cast<size_t>(below(random, n));
      const auto j = static_cast<size_t>(below(random, n));
      if (i == j || problem.starts[i] >= problem.ends[j] || problem.starts[j] >= problem.ends[i]) continue;
      ++num_moved;
      const int64_t old = offsets[i];
      // Its first byte on the other's last, or its last on the other's first.
      offsets[i] = k % 2 == 0 ? offsets[j] + problem.sizes[j] - 1 : offsets[j] - problem.sizes[i] + 1;
      const auto [a, b] = find();
      ASSERT_GE(a, 0) << n << " buffers";
      const auto first = static_cast<size_t>(a), second = static_cast<size_t>(b);
      EXPECT_TRUE(first == i || second == i);
      EXPECT_LT(offsets[first], offsets[second] + problem.sizes[second]);
      EXPECT_LT(offsets[second], offsets[first] + problem.sizes[first]);
      EXPECT_LT(problem.starts[first], problem.ends[second]);
      EXPECT_LT(problem.starts[second], problem.ends[first]);
      offsets[i] = old;
    }
  }
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
