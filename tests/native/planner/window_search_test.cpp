#include "planner/window_search.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "planner/checker.hpp"
#include "planner/next_fit.hpp"
#include "planner/prepare.hpp"
#include "planner/skyline.hpp"
#include "random_problem.hpp"

namespace memomalloc::planner {
namespace {

constexpr double kEnough_s = 60;
constexpr double kRounds_ns = 1e9;

// Short lifetimes, a few buffers alive at a time.
Problem short_lifetimes(unsigned seed, int num_buffers, int features) {
  std::mt19937 random(seed);
  Problem problem;
  for (int i = 0; i < num_buffers; ++i) {
    problem.starts.push_back(below(random, num_buffers));
    problem.ends.push_back(problem.starts.back() + 1 + below(random, 20));
    problem.sizes.push_back(1 + below(random, 1000));
    if (features & kAligned) problem.alignments.push_back(int64_t{1} << below(random, 8));
    if (features & kPinned) problem.pins.push_back(i % 500 == 0 ? 0 : kFree);
  }
  return problem;
}

TEST(WindowSearch, LowersAPlacementAndKeepsItValid) {
  for (int features : {0, static_cast<int>(kAligned)}) {
    const Problem problem = short_lifetimes(1, 2'000, features);
    const PreparedProblem prepared = prepare(problem);
    Placement placement = quick_placement(prepared);
    const int64_t before = placement.height;
    Budget budget(kEnough_s, nullptr);
    WindowSearch windows(prepared, 0);
    windows.improve(placement, prepared.lower_bound, kRounds_ns, budget);
    EXPECT_LT(placement.height, before);
    EXPECT_GE(placement.height, prepared.lower_bound);
    EXPECT_EQ(placement.height, height_of(prepared, placement.offsets));
    EXPECT_GT(windows.work_ns(), 0);
    const std::vector<int64_t> offsets = to_bytes(problem, prepared, placement);
    const auto overlap = checker::find_overlap(offsets.size(), problem.sizes.data(), problem.starts.data(),
                                               problem.ends.data(), offsets.data());
    EXPECT_EQ(overlap.first, -1);
    for (size_t i = 0; i < problem.alignments.size(); ++i) EXPECT_EQ(offsets[i] % problem.alignments[i], 0);
  }
}

TEST(WindowSearch, LeavesPinsWhereTheyAre) {
  Problem problem = short_lifetimes(2, 1'500, kPinned);
  // Pins at one offset must not meet.
  for (size_t i = 0; i < problem.pins.size(); ++i) {
    if (problem.pins[i] == kFree) continue;
    problem.starts[i] = static_cast<int64_t>(i);
    problem.ends[i] = static_cast<int64_t>(i) + 400;
  }
  const PreparedProblem prepared = prepare(problem);
  Placement placement = quick_placement(prepared);
  const int64_t before = placement.height;
  Budget budget(kEnough_s, nullptr);
  WindowSearch windows(prepared, 0);
  windows.improve(placement, prepared.lower_bound, kRounds_ns, budget);
  EXPECT_LT(placement.height, before);
  const std::vector<int64_t> offsets = to_bytes(problem, prepared, placement);
  for (size_t i = 0; i < offsets.size(); ++i) {
    if (problem.pins[i] != kFree) {
      EXPECT_EQ(offsets[i], problem.pins[i]);
    }
  }
  const auto overlap = checker::find_overlap(offsets.size(), problem.sizes.data(), problem.starts.data(),
                                             problem.ends.data(), offsets.data());
  EXPECT_EQ(overlap.first, -1);
}

TEST(WindowSearch, GoesOnWhereItsWorkEnded) {
  const PreparedProblem prepared = prepare(short_lifetimes(4, 2'000, kPlain));
  Budget budget(kEnough_s, nullptr);
  Placement at_once = quick_placement(prepared);
  WindowSearch windows(prepared, 0);
  windows.improve(at_once, prepared.lower_bound, kRounds_ns, budget);

  Placement in_steps = quick_placement(prepared);
  WindowSearch stepwise(prepared, 0);
  int num_steps = 0;
  while (in_steps.height > at_once.height && stepwise.work_ns() < 2 * kRounds_ns) {
    const double old_work_ns = stepwise.work_ns();
    stepwise.improve(in_steps, prepared.lower_bound, 1, budget);
    // One window: three sizes, a tree in each.
    EXPECT_LT(stepwise.work_ns() - old_work_ns, 0.2 * kRounds_ns);
    EXPECT_EQ(in_steps.height, height_of(prepared, in_steps.offsets));
    ++num_steps;
  }
  EXPECT_LE(in_steps.height, at_once.height);
  EXPECT_GT(num_steps, 1);
}

// As where all are alive most of the time: a window holds nearly all, and a tree of it takes hundreds of
// skylines.
TEST(WindowSearch, ASmallStepIsShortWhereAllAreAliveTogether) {
  std::mt19937 random(5);
  Problem problem;
  for (int i = 0; i < 3'000; ++i) {
    const int64_t one = below(random, 12'000);
    const int64_t other = below(random, 12'000);
    problem.starts.push_back(std::min(one, other));
    problem.ends.push_back(std::max(one, other) + 1);
    problem.sizes.push_back(1 + below(random, 1'000'000));
  }
  const PreparedProblem prepared = prepare(problem);
  Budget budget(kEnough_s, nullptr);
  Placement placement = skyline(prepared, prepared.lower_bound, budget)->placement;
  WindowSearch windows(prepared, 0);
  const double skyline_s = budget.elapsed_s();
  windows.improve(placement, prepared.lower_bound, 1, budget);
  EXPECT_LT(budget.elapsed_s() - skyline_s, 40 * skyline_s);
}

TEST(WindowSearch, ChangesNothingWithoutTime) {
  const Problem problem = short_lifetimes(3, 1'000, kPlain);
  const PreparedProblem prepared = prepare(problem);
  Placement placement = quick_placement(prepared);
  const std::vector<int64_t> before = placement.offsets;
  Budget spent(0, nullptr);
  WindowSearch(prepared, 0).improve(placement, prepared.lower_bound, kRounds_ns, spent);
  EXPECT_EQ(placement.offsets, before);
}

}  // namespace
}  // namespace memomalloc::planner
