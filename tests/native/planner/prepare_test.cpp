#include "planner/prepare.hpp"

#include <gtest/gtest.h>

#include "random_problem.hpp"

namespace memomalloc::planner {
namespace {

TEST(Prepare, KeepsWhichBuffersOverlapInTime) {
  std::mt19937 random(1);
  for (int k = 0; k < 500; ++k) {
    const Problem problem = random_problem(random, 1 + below(random, 12));
    const PreparedProblem prepared = prepare(problem);
    for (int32_t i = 0; i < prepared.num_buffers; ++i) {
      ASSERT_LT(prepared.starts[i], prepared.ends[i]);
      ASSERT_LE(prepared.ends[i], prepared.num_sections);
      for (int32_t j = 0; j < i; ++j) {
        const auto a = static_cast<size_t>(prepared.origins[i]);
        const auto b = static_cast<size_t>(prepared.origins[j]);
        const bool stated = problem.starts[a] < problem.ends[b] && problem.starts[b] < problem.ends[a];
        const bool kept = prepared.starts[i] < prepared.ends[j] && prepared.starts[j] < prepared.ends[i];
        ASSERT_EQ(stated, kept);
      }
    }
    EXPECT_LE(prepared.num_sections, prepared.num_buffers);
  }
}

TEST(Prepare, DividesByTheGreatestCommonDivisor) {
  const PreparedProblem prepared = prepare({{192, 320}, {0, 0}, {1, 1}, {64, 64}, {}});
  EXPECT_EQ(prepared.unit, 64);
  EXPECT_EQ(prepared.lower_bound, 8);
  EXPECT_TRUE(prepared.alignments.empty());
}

TEST(Prepare, KeepsAlignmentsThatTheUnitDoesNotImply) {
  const PreparedProblem prepared = prepare({{96, 96}, {0, 0}, {1, 1}, {64, 32}, {}});
  EXPECT_EQ(prepared.unit, 32);
  ASSERT_EQ(prepared.alignments.size(), 2u);
  EXPECT_EQ(prepared.alignment(0) + prepared.alignment(1), 3);
}

TEST(Prepare, DropsEmptyBuffersAndGivesThemTheirPinBack) {
  const Problem problem{{0, 8, 0}, {0, 0, 0}, {1, 1, 1}, {}, {kFree, kFree, 48}};
  const PreparedProblem prepared = prepare(problem);
  EXPECT_EQ(prepared.num_buffers, 1);
  EXPECT_EQ(to_bytes(problem, prepared, {{2}, 3}), (std::vector<int64_t>{0, 16, 48}));
}

TEST(Prepare, TakesTicksOfAllSizes) {
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  const PreparedProblem prepared = prepare({{1, 2, 4}, {kMin, 0, kMax - 1}, {0, kMax, kMax}, {}, {}});
  EXPECT_EQ(prepared.lower_bound, 6);
}

TEST(Prepare, SplitsWhereNothingIsAlive) {
  const PreparedProblem whole = prepare({{1, 2, 3, 4}, {0, 1, 5, 9}, {3, 5, 8, 12}, {}, {}});
  const std::vector<PreparedProblem> parts = split_into_parts(whole);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[0].lower_bound, 3);
  EXPECT_EQ(parts[1].lower_bound, 3);
  EXPECT_EQ(parts[2].lower_bound, 4);
}

TEST(Prepare, PeakLoadsAreThoseOfEachLifetime) {
  std::mt19937 random(2);
  for (int k = 0; k < 200; ++k) {
    const PreparedProblem problem = prepare(random_problem(random, 1 + below(random, 12)));
    const std::vector<int64_t> peaks = peak_load_of_each(problem);
    for (int32_t i = 0; i < problem.num_buffers; ++i) {
      EXPECT_EQ(peaks[i], *std::max_element(problem.loads.begin() + problem.starts[i],
                                            problem.loads.begin() + problem.ends[i]));
    }
  }
}

}  // namespace
}  // namespace memomalloc::planner
