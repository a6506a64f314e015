#include "planner/plan.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>

#include "planner/checker.hpp"
#include "planner/prepare.hpp"
#include "planner/skyline.hpp"
#include "planner/skyline_restarts.hpp"
#include "random_problem.hpp"

namespace memomalloc::planner {
namespace {

void expect_valid(const Problem& problem, const Result& result) {
  ASSERT_EQ(result.offsets.size(), problem.sizes.size());
  const auto overlap =
      checker::find_overlap(problem.sizes.size(), problem.sizes.data(), problem.starts.data(),
                            problem.ends.data(), result.offsets.data());
  EXPECT_EQ(overlap.first, -1);
  int64_t arena = 0;
  for (size_t i = 0; i < result.offsets.size(); ++i) {
    EXPECT_GE(result.offsets[i], 0);
    if (!problem.alignments.empty()) {
      EXPECT_EQ(result.offsets[i] % problem.alignments[i], 0);
    }
    if (!problem.pins.empty() && problem.pins[i] != kFree) {
      EXPECT_EQ(result.offsets[i], problem.pins[i]);
    }
    arena = std::max(arena, result.offsets[i] + problem.sizes[i]);
  }
  EXPECT_EQ(result.arena, arena);
}

// The contract of every planner.
class EveryPlanner : public testing::TestWithParam<std::string> {
 protected:
  Request request() const {
    Request request;
    request.planner = GetParam();
    request.time_limit_s = 0.002;
    return request;
  }
};

TEST_P(EveryPlanner, PlansRandomProblemsOfAllFeatures) {
  std::mt19937 random(1);
  for (int k = 0; k < 120; ++k) {
    const Problem problem = random_problem(random, 1 + below(random, 30), k % 4);
    expect_valid(problem, plan(problem, request()));
  }
}

TEST_P(EveryPlanner, PlansNothing) {
  const Result result = plan({}, request());
  EXPECT_EQ(result.arena, 0);
  EXPECT_TRUE(result.proven_optimal);
}

TEST_P(EveryPlanner, PlansEmptyBuffers) {
  const Problem problem{{0, 0}, {0, 1}, {5, 2}, {}, {}};
  expect_valid(problem, plan(problem, request()));
}

TEST_P(EveryPlanner, NeverFindsLessThanTheBest) {
  std::mt19937 random(2);
  for (int k = 0; k < 60; ++k) {
    const Problem problem = random_problem(random, 1 + below(random, 5), k % 4);
    EXPECT_GE(plan(problem, request()).arena, smallest_arena(problem));
  }
}

TEST_P(EveryPlanner, ProvesThatLessThanTheLowerBoundIsImpossible) {
  Request bounded = request();
  bounded.capacity = 15;
  const Problem problem{{8, 8}, {0, 0}, {1, 1}, {}, {}};
  const Result result = plan(problem, bounded);
  EXPECT_TRUE(result.proven_infeasible);
  EXPECT_TRUE(result.offsets.empty());
}

TEST_P(EveryPlanner, TakesHugeSizes) {
  const int64_t size = int64_t{1} << 59;
  const Problem problem{{size, size, size + 64}, {0, 1, 2}, {2, 3, 4}, {}, {}};
  expect_valid(problem, plan(problem, request()));
}

TEST_P(EveryPlanner, RunsInSeveralThreadsAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> num_failed{0};
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      const Problem problem = random_problem(random, 20);
      const Result result = plan(problem, request());
      // relaxed: a count, read after the threads are joined
      if (result.offsets.empty()) num_failed.fetch_add(1, std::memory_order_relaxed);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_failed.load(std::memory_order_relaxed), 0);
}

INSTANTIATE_TEST_SUITE_P(Planners, EveryPlanner, testing::ValuesIn(planner_names()),
                         [](const auto& info) { return info.param; });

// Rectangles that fill a larger one: the lower bound can be reached, and no quick planner does.
Problem hard_problem() {
  std::mt19937 random(3);
  struct Piece {
    int start, end, bottom, top;
  };
  std::vector<Piece> pieces = {{0, 512, 0, 512}};
  while (pieces.size() < 200) {
    const auto index = static_cast<size_t>(below(random, static_cast<int>(pieces.size())));
    const Piece piece = pieces[index];
    if (random() % 2 == 0 && piece.end - piece.start > 16) {
      const int cut = piece.start + 1 + below(random, piece.end - piece.start - 1);
      pieces[index].end = cut;
      pieces.push_back({cut, piece.end, piece.bottom, piece.top});
    } else if (piece.top - piece.bottom > 16) {
      const int cut = piece.bottom + 1 + below(random, piece.top - piece.bottom - 1);
      pieces[index].top = cut;
      pieces.push_back({piece.start, piece.end, cut, piece.top});
    }
  }
  Problem problem;
  for (const Piece& piece : pieces) {
    problem.starts.push_back(piece.start);
    problem.ends.push_back(piece.end);
    problem.sizes.push_back(piece.top - piece.bottom);
  }
  // One buffer too many for the rectangle, so that no search can end at the lower bound at once.
  problem.starts.push_back(0);
  problem.ends.push_back(1);
  problem.sizes.push_back(1);
  return problem;
}

TEST(Plan, IsCancelledByThePoll) {
  for (const char* name : {"auto", "branch_and_bound", "skyline_restarts"}) {
    int num_polls = 0;
    Request request;
    request.planner = name;
    request.time_limit_s = 60;
    request.poll = [&](int64_t best) {
      EXPECT_GT(best, 0);
      return ++num_polls < 3;
    };
    const Problem problem = hard_problem();
    const Result result = plan(problem, request);
    if (result.proven_optimal) continue;  // it was quicker than the third poll
    EXPECT_TRUE(result.cancelled) << name;
    EXPECT_EQ(num_polls, 3) << name;
    expect_valid(problem, result);
  }
}

TEST(Plan, EndsAtTheTimeLimit) {
  for (const std::string& name : planner_names()) {
    Request request;
    request.planner = name;
    request.time_limit_s = 0.05;
    const auto start = std::chrono::steady_clock::now();
    const Problem problem = hard_problem();
    expect_valid(problem, plan(problem, request));
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    EXPECT_LT(elapsed.count(), 5) << name;  // a sanitizer makes the last step slow
  }
}

TEST(Plan, IsNeverWorseThanGreedyBySize) {
  std::mt19937 random(4);
  for (int k = 0; k < 200; ++k) {
    const Problem problem = random_problem(random, 30, k % 4);
    Request request;
    request.time_limit_s = 0;
    const int64_t arena = plan(problem, request).arena;
    request.planner = "greedy_by_size";
    EXPECT_LE(arena, plan(problem, request).arena);
  }
}

// Births at random, each buffer alive for at most `longest` of 2 n ticks.
Problem random_lifetimes(unsigned seed, int num_buffers, int longest, int largest) {
  std::mt19937 random(seed);
  Problem problem;
  for (int i = 0; i < num_buffers; ++i) {
    problem.starts.push_back(below(random, 2 * num_buffers));
    problem.ends.push_back(problem.starts.back() + 1 + below(random, longest));
    problem.sizes.push_back(1 + below(random, largest));
  }
  return problem;
}

TEST(Plan, AutoReachesTheBoundOfEqualSizesWithoutSearching) {
  const Problem problem = random_lifetimes(5, 20'000, 2'000, 1);
  Request request;
  request.time_limit_s = 0;
  const Result result = plan(problem, request);
  EXPECT_TRUE(result.proven_optimal);
  expect_valid(problem, result);
}

TEST(Plan, LinearScanOfEqualSizesTakesTheLowestFreePlaces) {
  const Problem problem = random_lifetimes(6, 3'000, 500, 1);
  Problem other = problem;
  other.alignments.assign(other.sizes.size(), 1);
  other.sizes.push_back(2);  // sizes differ: the general scan, which ends at the same offsets
  other.starts.push_back(10'000);
  other.ends.push_back(10'001);
  other.alignments.push_back(1);
  Request request;
  request.planner = "linear_scan";
  const Result quick = plan(problem, request);
  expect_valid(problem, quick);
  Result general = plan(other, request);
  general.offsets.pop_back();
  EXPECT_EQ(quick.offsets, general.offsets);
}

TEST(Skyline, LooksAtTheClockWithinAPlacement) {
  const PreparedProblem problem = prepare(random_lifetimes(7, 20'000, 2'000, 1'000'000));
  const std::vector<int32_t> ranks = skyline_ranks(problem, peak_load_of_each(problem), kSkylineOrders[0]);
  SkylineBuilder builder(problem);
  Placement placement;
  Budget spent(0, nullptr);
  Budget enough(60, nullptr);
  EXPECT_FALSE(builder.place(ranks, placement, spent));
  EXPECT_TRUE(builder.place(ranks, placement, enough));
  EXPECT_EQ(height_of(problem, placement.offsets), placement.height);
  EXPECT_FALSE(builder.place(ranks, placement, enough, placement.height)) << "as high as the cutoff";
  SkylineRestarts restarts(problem, 0, 0);
  restarts.run(problem.lower_bound, spent);
  EXPECT_TRUE(restarts.best().offsets.empty());
}

// Buffers that die in the order of their births, with sizes of a period of `period`.
Problem staircase(int num_buffers, int num_alive, int period) {
  Problem problem;
  for (int i = 0; i < num_buffers; ++i) {
    problem.starts.push_back(i);
    problem.ends.push_back(i + num_alive);
    problem.sizes.push_back(1000 + 64 * (i % period));
  }
  return problem;
}

TEST(NextFit, WastesNoMoreThanALargestBufferWhereThoseDieFirstThatAreBornFirst) {
  const Problem problem = staircase(5'000, 50, 16);
  Request request;
  request.planner = "next_fit";
  request.time_limit_s = 60;
  const Result result = plan(problem, request);
  EXPECT_EQ(result.planner, "next_fit");
  expect_valid(problem, result);
  EXPECT_LE(result.arena, lower_bound_in_bytes(problem) + 2 * 1960);
}

TEST(Plan, GivesAPlanOfNextFitWhereNoOtherWasMadeInTime) {
  for (int features : {0, kAligned | kPinned}) {
    Problem problem = random_lifetimes(9, 20'000, 20'000, 1'000'000);
    if (features & kAligned) problem.alignments.assign(problem.sizes.size(), 4096);
    if (features & kPinned) {
      problem.pins.assign(problem.sizes.size(), kFree);
      problem.pins[17] = 4096;
    }
    for (const char* name :
         {"auto", "greedy_by_size_best_fit", "gergov", "linear_scan", "branch_and_bound"}) {
      Request request;
      request.planner = name;
      request.time_limit_s = 0;
      const Result result = plan(problem, request);
      EXPECT_EQ(result.planner, "next_fit") << name;
      expect_valid(problem, result);
    }
  }
}

TEST(Plan, AutoIsNeverWorseThanAnyPlannerThatIsQuick) {
  std::mt19937 random(10);
  for (int k = 0; k < 40; ++k) {
    const Problem problem = random_problem(random, 40, k % 4);
    Request request;
    request.time_limit_s = 0;
    const int64_t arena = plan(problem, request).arena;
    for (const std::string& name : planner_names()) {
      if (name == "branch_and_bound" || name == "skyline_restarts") continue;
      request.planner = name;
      EXPECT_LE(arena, plan(problem, request).arena) << name;
    }
  }
}

TEST(Plan, IsTheSameForASeed) {
  const Problem problem = hard_problem();
  Request request;
  request.time_limit_s = 60;
  request.capacity = 512 * 11 / 10;
  const Result first = plan(problem, request);
  EXPECT_EQ(plan(problem, request).offsets, first.offsets);
}

// Floors that creep: sizes of a few bytes below one of a gigabyte, with alignments that keep them apart.
Problem creeping_problem() {
  return {{100, 100, 100, 100, 4096, 855'876'988, 4255},
          {-47, -76, -1, 10, 55, -100, 78},
          {-31, 17, 75, 75, 131, -14, 80},
          {64, 1'048'576, 1, 1, 1, 1, 1},
          {}};
}

TEST(BranchAndBoundPlanner, KeepsItsLimitsWhereFloorsCreep) {
  std::mt19937 random(11);
  for (int k = 0; k < 30; ++k) {
    Problem problem = creeping_problem();
    for (int i = 0; i < k; ++i) {
      problem.starts.push_back(below(random, 180) - 90);
      problem.ends.push_back(problem.starts.back() + 1 + below(random, 90));
      problem.sizes.push_back(i % 3 == 0 ? int64_t{1} << below(random, 40) : 1 + below(random, 9));
      problem.alignments.push_back(
          std::array<int64_t, 4>{1, 3, 64, 1'048'576}[static_cast<size_t>(below(random, 4))]);
    }
    Request request;
    request.planner = "branch_and_bound";
    request.time_limit_s = 0.05;
    const auto start = std::chrono::steady_clock::now();
    expect_valid(problem, plan(problem, request));
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    EXPECT_LT(elapsed.count(), 5);
  }
}

TEST(Plan, RefusesUnknownPlanners) {
  Request request;
  request.planner = "magic";
  EXPECT_THROW(plan({}, request), std::invalid_argument);
}

}  // namespace
}  // namespace memomalloc::planner
