// The C interface: what it answers, what it refuses and how, and that nothing but a status gets out.
#include "memomalloc/planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "failing_allocations.hpp"
#include "memomalloc/planner.hpp"

namespace memomalloc::library {
namespace {

// A problem in vectors, to be changed before it is asked for.
struct Columns {
  std::vector<int64_t> sizes{100, 200, 50, 150};
  std::vector<int64_t> starts{0, 1, 4, 5};
  std::vector<int64_t> ends{3, 6, 9, 8};
  std::vector<int64_t> alignments;
  std::vector<int64_t> pins;
  int64_t alignment = 1;

  memomalloc_problem problem() const {
    memomalloc_problem problem = MEMOMALLOC_PROBLEM_INIT;
    problem.num_buffers = sizes.size();
    problem.sizes = sizes.data();
    problem.starts = starts.data();
    problem.ends = ends.data();
    problem.alignments = alignments.empty() ? nullptr : alignments.data();
    problem.pins = pins.empty() ? nullptr : pins.data();
    problem.alignment = alignment;
    return problem;
  }
};

struct Answer {
  memomalloc_status status;
  std::vector<int64_t> offsets;
  memomalloc_result result;
  memomalloc_error error;
};

constexpr int64_t kUntouched = -77;

Answer ask(const memomalloc_problem& problem, const memomalloc_request* request = nullptr) {
  Answer answer{0,
                std::vector<int64_t>(problem.num_buffers, kUntouched),
                MEMOMALLOC_RESULT_INIT,
                {-5, -5, "untouched"}};
  answer.status = memomalloc_plan(&problem, request, answer.offsets.data(), &answer.result, &answer.error);
  return answer;
}

Columns random_columns(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](int64_t limit) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(limit));
  };
  Columns columns;
  columns.sizes.clear();
  columns.starts.clear();
  columns.ends.clear();
  for (size_t i = 0; i < n; ++i) {
    columns.sizes.push_back(1 + below(1000));
    columns.starts.push_back(below(static_cast<int64_t>(n)));
    columns.ends.push_back(columns.starts.back() + 1 + below(20));
    columns.alignments.push_back(int64_t{1} << below(6));
  }
  return columns;
}

TEST(Library, PlansAndSaysHowGoodThePlanIs) {
  Columns columns;
  columns.alignment = 64;
  const memomalloc_problem problem = columns.problem();
  const Answer answer = ask(problem);
  ASSERT_EQ(answer.status, MEMOMALLOC_OK) << answer.error.message;
  EXPECT_EQ(answer.result.arena, 512);  // 256 + 64 + 192
  EXPECT_EQ(answer.result.lower_bound, 512);
  EXPECT_EQ(answer.result.proven_optimal, 1);
  EXPECT_EQ(answer.result.cancelled, 0);
  EXPECT_GE(answer.result.elapsed_s, 0);
  EXPECT_STRNE(answer.result.planner, "");
  EXPECT_STREQ(answer.error.message, "untouched");
  EXPECT_EQ(memomalloc_check(&problem, answer.offsets.data(), nullptr), MEMOMALLOC_OK);
  int64_t bound = 0;
  EXPECT_EQ(memomalloc_lower_bound(&problem, &bound, nullptr), MEMOMALLOC_OK);
  EXPECT_EQ(bound, 512);
}

TEST(Library, EveryPlannerHonoursAlignmentsAndPins) {
  Columns columns = random_columns(60, 3);
  columns.pins.assign(60, -1);
  columns.pins[7] = 4096;
  columns.pins[8] = 0;
  columns.starts[7] = columns.starts[8] = 5;
  columns.ends[7] = columns.ends[8] = 9;
  columns.alignment = 4;
  const memomalloc_problem problem = columns.problem();
  size_t count = 0;
  for (; memomalloc_planner_name(count) != nullptr; ++count) {
    memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
    request.planner = memomalloc_planner_name(count);
    request.time_limit_s = 0.05;
    const Answer answer = ask(problem, &request);
    ASSERT_EQ(answer.status, MEMOMALLOC_OK) << request.planner << ": " << answer.error.message;
    EXPECT_EQ(answer.offsets[7], 4096);
    EXPECT_EQ(answer.offsets[8], 0);
    for (size_t i = 0; i < 60; ++i) {
      EXPECT_EQ(answer.offsets[i] % std::max<int64_t>(columns.alignments[i], 4), 0) << request.planner;
    }
    EXPECT_GE(answer.result.arena, answer.result.lower_bound);
    memomalloc_error error;
    EXPECT_EQ(memomalloc_check(&problem, answer.offsets.data(), &error), MEMOMALLOC_OK) << error.message;
  }
  EXPECT_EQ(count, memomalloc_num_planners());
  EXPECT_GT(count, 10U);
}

TEST(Library, NoBuffersNeedNoArrays) {
  memomalloc_problem problem = MEMOMALLOC_PROBLEM_INIT;
  memomalloc_result result = MEMOMALLOC_RESULT_INIT;
  EXPECT_EQ(memomalloc_plan(&problem, nullptr, nullptr, &result, nullptr), MEMOMALLOC_OK);
  EXPECT_EQ(result.arena, 0);
  EXPECT_EQ(memomalloc_check(&problem, nullptr, nullptr), MEMOMALLOC_OK);
}

TEST(Library, ACapacityIsMetOrProvenToBeTooSmallOrNotFound) {
  Columns columns;
  memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
  request.capacity = 400;
  EXPECT_EQ(ask(columns.problem(), &request).status, MEMOMALLOC_OK);
  request.capacity = 399;
  const Answer none = ask(columns.problem(), &request);
  EXPECT_EQ(none.status, MEMOMALLOC_NO_PLAN_EXISTS);
  EXPECT_EQ(none.offsets[0], kUntouched);
  EXPECT_EQ(none.result.lower_bound, 400);
  EXPECT_NE(std::string(none.error.message).find("399"), std::string::npos);
  EXPECT_EQ(none.error.buffer, -1);

  // A heuristic proves nothing.
  request.planner = "bump";
  request.capacity = 450;
  const Answer not_found = ask(columns.problem(), &request);
  EXPECT_EQ(not_found.status, MEMOMALLOC_NO_PLAN_FOUND);
  EXPECT_EQ(not_found.result.arena, 500);
  EXPECT_EQ(not_found.offsets[0], kUntouched);
}

struct Fault {
  const char* name;
  void (*make)(Columns&);
  int64_t buffer;
  const char* message;
};

const Fault kFaults[] = {
    {"NegativeSize", [](Columns& c) { c.sizes[2] = -1; }, 2, "must not be negative"},
    {"EmptyLifetime", [](Columns& c) { c.ends[1] = c.starts[1]; }, 1, "is empty"},
    {"AlignmentOfZero", [](Columns& c) { c.alignment = 0; }, -1, "alignment 0 must be"},
    {"HugeAlignment", [](Columns& c) { c.alignments = {1, 1, 1, (int64_t{1} << 31) + 1}; }, 3,
     "must be between"},
    {"NegativePin", [](Columns& c) { c.pins = {-1, -2, -1, -1}; }, 1, "must be -1 (free)"},
    {"CrookedPin", [](Columns& c) { c.alignment = 8, c.pins = {-1, 4, -1, -1}; }, 1, "not a multiple"},
    {"PinsThatCollide", [](Columns& c) { c.pins = {0, 99, -1, -1}; }, 0, "pinned to the same bytes"},
    {"SumTooLarge", [](Columns& c) { c.sizes[0] = c.sizes[1] = int64_t{1} << 60, c.sizes[2] = 1; }, 2,
     "sum to more"},
    {"SizeThatRoundsOver", [](Columns& c) { c.alignment = 64, c.sizes[0] = INT64_MAX; }, 0, "sum to more"},
    {"PinBeyondAll", [](Columns& c) { c.pins = {INT64_MAX, -1, -1, -1}; }, 0, "sum to more"},
};

class Refused : public testing::TestWithParam<Fault> {};

TEST_P(Refused, NamesTheBuffer) {
  Columns columns;
  GetParam().make(columns);
  const memomalloc_problem problem = columns.problem();
  const Answer answer = ask(problem);
  EXPECT_EQ(answer.status, MEMOMALLOC_INVALID_ARGUMENT);
  EXPECT_EQ(answer.error.buffer, GetParam().buffer);
  EXPECT_NE(std::string(answer.error.message).find(GetParam().message), std::string::npos)
      << answer.error.message;
  EXPECT_EQ(answer.offsets[0], kUntouched);
  EXPECT_EQ(answer.result.arena, -1);
  const std::vector<int64_t> offsets(4, 0);
  EXPECT_EQ(memomalloc_check(&problem, offsets.data(), nullptr), MEMOMALLOC_INVALID_ARGUMENT);
  int64_t bound = kUntouched;
  EXPECT_EQ(memomalloc_lower_bound(&problem, &bound, nullptr), MEMOMALLOC_INVALID_ARGUMENT);
  EXPECT_EQ(bound, kUntouched);
}

INSTANTIATE_TEST_SUITE_P(Library, Refused, testing::ValuesIn(kFaults),
                         [](const auto& info) { return info.param.name; });

TEST(Library, RefusesNullPointersAndWrongRequests) {
  Columns columns;
  memomalloc_problem problem = columns.problem();
  std::vector<int64_t> offsets(4);
  memomalloc_error error;
  EXPECT_EQ(memomalloc_plan(nullptr, nullptr, offsets.data(), nullptr, &error), MEMOMALLOC_INVALID_ARGUMENT);
  EXPECT_EQ(memomalloc_plan(&problem, nullptr, nullptr, nullptr, &error), MEMOMALLOC_INVALID_ARGUMENT);
  EXPECT_EQ(memomalloc_lower_bound(&problem, nullptr, &error), MEMOMALLOC_INVALID_ARGUMENT);
  EXPECT_EQ(memomalloc_check(&problem, nullptr, &error), MEMOMALLOC_INVALID_ARGUMENT);
  EXPECT_EQ(memomalloc_plan(nullptr, nullptr, nullptr, nullptr, nullptr), MEMOMALLOC_INVALID_ARGUMENT);
  problem.ends = nullptr;
  EXPECT_EQ(ask(problem).status, MEMOMALLOC_INVALID_ARGUMENT);
  problem = columns.problem();
  problem.num_buffers = size_t{1} << 40;  // read nothing of it
  EXPECT_EQ(memomalloc_plan(&problem, nullptr, offsets.data(), nullptr, nullptr),
            MEMOMALLOC_INVALID_ARGUMENT);
  problem = columns.problem();

  memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
  request.planner = "nonsense";
  const Answer unknown = ask(problem, &request);
  EXPECT_EQ(unknown.status, MEMOMALLOC_UNKNOWN_PLANNER);
  EXPECT_NE(std::string(unknown.error.message).find("skyline"), std::string::npos);
  request = MEMOMALLOC_REQUEST_INIT;
  request.capacity = -2;
  EXPECT_EQ(ask(problem, &request).status, MEMOMALLOC_INVALID_ARGUMENT);
  request = MEMOMALLOC_REQUEST_INIT;
  for (const double limit : {-1.0, std::numeric_limits<double>::quiet_NaN()}) {
    request.time_limit_s = limit;
    EXPECT_EQ(ask(problem, &request).status, MEMOMALLOC_INVALID_ARGUMENT);
  }
}

TEST(Library, TooManyBuffersForAPlannerAreUnsupported) {
  const Columns columns = random_columns(6000, 1);
  memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
  request.planner = "min_cost_flow";
  EXPECT_EQ(ask(columns.problem(), &request).status, MEMOMALLOC_UNSUPPORTED);
}

TEST(Library, CheckNamesWhatIsWrong) {
  Columns columns;
  columns.alignment = 2;
  columns.pins = {-1, 100, -1, -1};
  const memomalloc_problem problem = columns.problem();
  memomalloc_error error{};
  const auto check = [&](std::vector<int64_t> offsets) {
    return memomalloc_check(&problem, offsets.data(), &error);
  };
  EXPECT_EQ(check({0, 100, 0, 300}), MEMOMALLOC_OK);
  EXPECT_EQ(check({-2, 100, 0, 300}), MEMOMALLOC_INVALID_PLAN);
  EXPECT_EQ(error.buffer, 0);
  EXPECT_EQ(check({0, 100, 1, 300}), MEMOMALLOC_INVALID_PLAN);
  EXPECT_EQ(error.buffer, 2);
  EXPECT_EQ(check({0, 102, 0, 310}), MEMOMALLOC_INVALID_PLAN);
  EXPECT_EQ(error.buffer, 1);
  EXPECT_EQ(check({INT64_MAX - 1, 100, 0, 300}), MEMOMALLOC_INVALID_PLAN);
  EXPECT_EQ(check({2, 100, 0, 300}), MEMOMALLOC_INVALID_PLAN);
  EXPECT_EQ(std::minmax(error.buffer, error.other_buffer), std::minmax<int64_t>(0, 1));
  EXPECT_NE(std::string(error.message).find("share bytes"), std::string::npos);
}

TEST(Library, AnOlderLibraryRefusesWhatItDoesNotKnow) {
  Columns columns;
  struct Newer {
    memomalloc_problem known;
    int64_t unknown;
  } newer{columns.problem(), 0};
  newer.known.struct_size = sizeof(Newer);
  std::vector<int64_t> offsets(4);
  EXPECT_EQ(memomalloc_plan(&newer.known, nullptr, offsets.data(), nullptr, nullptr), MEMOMALLOC_OK);
  newer.unknown = 1;
  EXPECT_EQ(memomalloc_plan(&newer.known, nullptr, offsets.data(), nullptr, nullptr), MEMOMALLOC_UNSUPPORTED);

  memomalloc_problem problem = columns.problem();
  for (const size_t never_set : {size_t{0}, size_t{0xdeadbeefdeadbeef}}) {
    problem.struct_size = never_set;
    EXPECT_EQ(ask(problem).status, MEMOMALLOC_INVALID_ARGUMENT);
  }
  memomalloc_result result{};
  problem = columns.problem();
  EXPECT_EQ(memomalloc_plan(&problem, nullptr, offsets.data(), &result, nullptr),
            MEMOMALLOC_INVALID_ARGUMENT);
}

// The size, the field with the largest offset and its offset: what the first binary interface has for good.
static_assert(MEMOMALLOC_ABI == 1);
static_assert(sizeof(memomalloc_problem) == 64 && offsetof(memomalloc_problem, alignment) == 56);
static_assert(offsetof(memomalloc_problem, sizes) == 16 && offsetof(memomalloc_problem, starts) == 24);
static_assert(offsetof(memomalloc_problem, ends) == 32 && offsetof(memomalloc_problem, alignments) == 40);
static_assert(offsetof(memomalloc_problem, pins) == 48);
static_assert(sizeof(memomalloc_request) == 72 && offsetof(memomalloc_request, cancellation) == 56);
static_assert(offsetof(memomalloc_request, warm_start) == 64);
static_assert(offsetof(memomalloc_request, planner) == 8 && offsetof(memomalloc_request, capacity) == 16);
static_assert(offsetof(memomalloc_request, time_limit_s) == 24 && offsetof(memomalloc_request, seed) == 32);
static_assert(offsetof(memomalloc_request, progress) == 40 && offsetof(memomalloc_request, user_data) == 48);
static_assert(sizeof(memomalloc_result) == 104 && offsetof(memomalloc_result, planner) == 40);
static_assert(offsetof(memomalloc_result, arena) == 8 && offsetof(memomalloc_result, lower_bound) == 16);
static_assert(offsetof(memomalloc_result, elapsed_s) == 24 &&
              offsetof(memomalloc_result, proven_optimal) == 32);
static_assert(sizeof(memomalloc_error) == 256 && offsetof(memomalloc_error, message) == 16);
static_assert(sizeof(memomalloc_progress) == 32 && offsetof(memomalloc_progress, elapsed_s) == 24);
static_assert(std::is_standard_layout_v<memomalloc_problem> &&
              std::is_trivially_copyable_v<memomalloc_result>);
static_assert(noexcept(memomalloc_plan(nullptr, nullptr, nullptr, nullptr, nullptr)));

// The least arena is 17 and the lower bound 16: the skyline, which proves nothing, searches until it is
// stopped.
Columns endless() {
  Columns columns;
  columns.sizes = {5, 3, 6, 4, 3, 5, 2, 3, 7, 5};
  columns.starts = {8, 4, 2, 2, 4, 3, 6, 2, 7, 9};
  columns.ends = {12, 10, 4, 8, 7, 5, 11, 3, 8, 12};
  return columns;
}

struct Watched {
  int calls = 0;
  int64_t lower_bound = 0;
  int64_t best_arena = 0;
};

TEST(Library, ProgressIsToldAndEndsASearch) {
  const Columns columns = endless();
  memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
  request.time_limit_s = 100;
  request.planner = "skyline_restarts";
  Watched watched;
  request.user_data = &watched;
  request.progress = [](const memomalloc_progress* progress, void* user_data) {
    auto* told = static_cast<Watched*>(user_data);
    told->lower_bound = progress->lower_bound;
    told->best_arena = progress->best_arena;
    EXPECT_EQ(progress->struct_size, sizeof(memomalloc_progress));
    return ++told->calls < 3 ? 1 : 0;
  };
  const Answer answer = ask(columns.problem(), &request);
  ASSERT_EQ(answer.status, MEMOMALLOC_OK) << answer.error.message;
  EXPECT_EQ(watched.calls, 3);
  EXPECT_EQ(watched.lower_bound, answer.result.lower_bound);
  EXPECT_GE(watched.best_arena, answer.result.arena);
  EXPECT_EQ(answer.result.cancelled, 1);
  EXPECT_LT(answer.result.elapsed_s, 50);
}

TEST(Library, AnExceptionOfTheProgressFunctionStopsAtTheBorder) {
  const Columns columns = endless();
  memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
  request.time_limit_s = 100;
  request.planner = "skyline_restarts";
  request.progress = [](const memomalloc_progress*, void*) -> int { throw std::string("mine"); };
  const Answer answer = ask(columns.problem(), &request);
  EXPECT_EQ(answer.status, MEMOMALLOC_CALLBACK_FAILED);
  EXPECT_EQ(answer.offsets[0], kUntouched);
}

TEST(Library, AnotherThreadCancelsWhileManyPlan) {
  const Columns columns = endless();
  memomalloc_cancellation* cancellation = memomalloc_cancellation_create();
  ASSERT_NE(cancellation, nullptr);
  memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
  request.time_limit_s = 100;
  request.planner = "skyline_restarts";
  request.cancellation = cancellation;
  std::atomic<int> searching{0};
  request.user_data = &searching;
  request.progress = [](const memomalloc_progress*, void* user_data) {
    ++*static_cast<std::atomic<int>*>(user_data);
    return 1;
  };
  std::vector<Answer> answers(3);
  std::vector<std::thread> threads;
  for (Answer& answer : answers) {
    threads.emplace_back([&] { answer = ask(columns.problem(), &request); });
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(50);
  while (searching.load() < 3 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  memomalloc_cancel(cancellation);
  for (std::thread& thread : threads) thread.join();
  for (const Answer& answer : answers) {
    EXPECT_EQ(answer.status, MEMOMALLOC_OK) << answer.error.message;
    EXPECT_EQ(answer.result.cancelled, 1);
    EXPECT_LT(answer.result.elapsed_s, 90);
  }
  // Once cancelled, always: the first pass only.
  const Answer late = ask(columns.problem(), &request);
  EXPECT_EQ(late.status, MEMOMALLOC_OK);
  EXPECT_EQ(late.result.cancelled, 1);
  memomalloc_cancellation_destroy(cancellation);
  memomalloc_cancellation_destroy(nullptr);
  memomalloc_cancel(nullptr);
}

TEST(Library, AnAllocationThatFailsIsAStatusWhereverItIs) {
  Columns columns = random_columns(40, 11);
  columns.pins.assign(40, -1);
  columns.pins[3] = 2048;
  const memomalloc_problem problem = columns.problem();
  for (const char* planner : {"auto", "greedy_by_size", "branch_and_bound", "gergov", "min_cost_flow"}) {
    memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
    request.planner = planner;
    request.time_limit_s = 0.02;
    std::vector<int64_t> offsets(40);
    memomalloc_error error{};
    int num_failures = 0;
    // Every allocation of the first hundred, then further and further apart.
    for (int64_t allowed = 0; allowed < 100'000; allowed += 1 + allowed / 50) {
      t_allocations_left = allowed;
      const memomalloc_status status = memomalloc_plan(&problem, &request, offsets.data(), nullptr, &error);
      const bool ran_out = t_allocations_left == 0;
      t_allocations_left = -1;
      if (status == MEMOMALLOC_OK) {
        EXPECT_EQ(memomalloc_check(&problem, offsets.data(), nullptr), MEMOMALLOC_OK);
        if (!ran_out) break;
      } else {
        EXPECT_EQ(status, MEMOMALLOC_OUT_OF_MEMORY) << error.message;
        EXPECT_STREQ(error.message, "out of memory");
        ++num_failures;
      }
    }
    EXPECT_GT(num_failures, 5) << planner;
  }
  t_allocations_left = 0;
  memomalloc_cancellation* cancellation = memomalloc_cancellation_create();
  t_allocations_left = -1;
  EXPECT_EQ(cancellation, nullptr);
}

TEST(Library, EveryStatusHasItsOwnText) {
  std::vector<std::string> texts;
  for (memomalloc_status status = MEMOMALLOC_OK; status <= MEMOMALLOC_INTERNAL_ERROR; ++status) {
    texts.emplace_back(memomalloc_status_text(status));
  }
  std::sort(texts.begin(), texts.end());
  EXPECT_EQ(std::adjacent_find(texts.begin(), texts.end()), texts.end());
  EXPECT_STREQ(memomalloc_status_text(1000), "unknown status");
  EXPECT_STREQ(memomalloc_status_text(-1), "unknown status");
  EXPECT_EQ(memomalloc_abi(), MEMOMALLOC_ABI);
  EXPECT_STRNE(memomalloc_version(), "");
}

TEST(Header, PlansFromVectors) {
  Problem problem;
  problem.alignment = 16;
  const size_t first = problem.add(100, 0, 3);
  problem.pin(first, 64);
  problem.add(200, 1, 6);
  problem.align(1, 256);
  problem.add(50, 4, 9);
  const Plan made = plan(problem);
  ASSERT_TRUE(made) << made.message;
  EXPECT_EQ(made.offsets[0], 64);
  EXPECT_EQ(made.offsets[1] % 256, 0);
  EXPECT_EQ(check(problem, made.offsets), "");
  EXPECT_NE(check(problem, {64, 0, 0}), "");
  EXPECT_NE(check(problem, {64, 0}), "");
  EXPECT_EQ(planner_names().size(), memomalloc_num_planners());
}

TEST(Header, SaysWhyThereIsNoPlan) {
  Problem problem;
  problem.add(100, 0, 3);
  problem.add(-1, 0, 3);
  const Plan refused = plan(problem);
  EXPECT_EQ(refused.status, Status::kInvalidArgument);
  EXPECT_EQ(refused.buffer, 1);
  EXPECT_TRUE(refused.offsets.empty());
  problem.ends.pop_back();
  EXPECT_EQ(plan(problem).status, Status::kInvalidArgument);

  Problem large;
  large.add(100, 0, 3);
  Request request;
  request.capacity = 99;
  const Plan none = plan(large, request);
  EXPECT_EQ(none.status, Status::kNoPlanExists);
  EXPECT_EQ(none.lower_bound, 100);
}

TEST(Header, ProgressMayBeAnyFunctionAndMayThrow) {
  const Columns columns = endless();
  Problem problem{columns.sizes, columns.starts, columns.ends, {}, {}, 1};
  Request request;
  request.planner = "skyline_restarts";
  request.time_limit_s = 100;
  int calls = 0;
  request.progress = [&calls](const memomalloc_progress&) { return ++calls < 2; };
  EXPECT_TRUE(plan(problem, request).cancelled);
  EXPECT_EQ(calls, 2);
  request.progress = [](const memomalloc_progress&) -> bool { throw 1; };
  EXPECT_EQ(plan(problem, request).status, Status::kCallbackFailed);
  Cancellation cancellation;
  request.progress = nullptr;
  request.cancellation = &cancellation;
  cancellation.cancel();
  EXPECT_TRUE(plan(problem, request).cancelled);
}

}  // namespace
}  // namespace memomalloc::library
