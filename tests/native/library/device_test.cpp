// The C interface for the memories of a device: what it answers, what it refuses and how.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "failing_allocations.hpp"
#include "memomalloc/planner.h"
#include "memomalloc/planner.hpp"

namespace memomalloc::library {
namespace {

// Three buffers in two memories, to be changed before it is asked for.
struct Device {
  std::vector<int64_t> capacities{100, -1};
  std::vector<int64_t> banks{0, 0};
  std::vector<int64_t> chunks{0, 0};
  std::vector<int64_t> sizes{60, 50, 50};
  std::vector<int64_t> alignments{1, 1, 1};
  std::vector<int64_t> costs{0, 60, 0, 50, 0, 50};
  std::vector<int64_t> groups{-1, -1, -1};
  std::vector<int64_t> sub_offsets{0, 0, 0};
  std::vector<int64_t> pin_memories{-1, -1, -1};
  std::vector<int64_t> pin_chunks{0, 0, 0};
  std::vector<int64_t> pin_offsets{0, 0, 0};
  std::vector<int64_t> buffers{0, 1, 2};
  std::vector<int64_t> starts{0, 1, 2};
  std::vector<int64_t> ends{3, 4, 5};
  std::vector<int64_t> lowers{0, 0, 0};
  std::vector<int64_t> uppers{60, 50, 50};
  std::vector<int64_t> disjoint;
  std::vector<int64_t> different_banks;

  memomalloc_device_problem problem() const {
    memomalloc_device_problem problem = MEMOMALLOC_DEVICE_PROBLEM_INIT;
    problem.num_memories = capacities.size();
    problem.capacities = capacities.data();
    problem.banks = banks.data();
    problem.chunks = chunks.data();
    problem.num_buffers = sizes.size();
    problem.sizes = sizes.data();
    problem.alignments = alignments.data();
    problem.costs = costs.data();
    problem.groups = groups.data();
    problem.sub_offsets = sub_offsets.data();
    problem.pin_memories = pin_memories.data();
    problem.pin_chunks = pin_chunks.data();
    problem.pin_offsets = pin_offsets.data();
    problem.num_lifetimes = buffers.size();
    problem.lifetime_buffers = buffers.data();
    problem.lifetime_starts = starts.data();
    problem.lifetime_ends = ends.data();
    problem.lifetime_lowers = lowers.data();
    problem.lifetime_uppers = uppers.data();
    problem.num_disjoint = disjoint.size() / 2;
    problem.disjoint = disjoint.data();
    problem.num_different_banks = different_banks.size() / 2;
    problem.different_banks = different_banks.data();
    return problem;
  }
};

struct Answer {
  memomalloc_status status = 0;
  std::vector<int64_t> memories;
  std::vector<int64_t> chunks;
  std::vector<int64_t> offsets;
  memomalloc_device_result result = MEMOMALLOC_DEVICE_RESULT_INIT;
  memomalloc_error error{-5, -5, "untouched"};

  memomalloc_places places() { return {memories.data(), chunks.data(), offsets.data()}; }
};

Answer ask(const memomalloc_device_problem& problem, const memomalloc_request* request = nullptr,
           const memomalloc_places* warm_start = nullptr) {
  Answer answer;
  const size_t n = std::min<size_t>(problem.num_buffers, 100);
  answer.memories.assign(n, -77);
  answer.chunks.assign(n, -77);
  answer.offsets.assign(n, -77);
  const memomalloc_places places = answer.places();
  answer.status =
      memomalloc_plan_device(&problem, request, warm_start, &places, &answer.result, &answer.error);
  return answer;
}

TEST(LibraryDevice, SpillsAtTheLeastCost) {
  const Device device;
  const memomalloc_device_problem problem = device.problem();
  Answer answer = ask(problem);
  ASSERT_EQ(answer.status, MEMOMALLOC_OK) << answer.error.message;
  EXPECT_EQ(answer.memories, (std::vector<int64_t>{1, 0, 0}));
  EXPECT_EQ(answer.result.cost, 60);
  EXPECT_EQ(answer.result.lower_bound, 60);
  EXPECT_EQ(answer.result.proven_cheapest, 1);
  memomalloc_places places = answer.places();
  EXPECT_EQ(memomalloc_check_device(&problem, &places, &answer.error), MEMOMALLOC_OK);
  places.chunks = nullptr;
  EXPECT_EQ(memomalloc_check_device(&problem, &places, &answer.error), MEMOMALLOC_OK);
  const Answer again = ask(problem, nullptr, &places);
  EXPECT_EQ(again.result.cost, 60);

  answer.memories = {0, 0, 0};
  answer.offsets = {0, 10, 50};
  places = answer.places();
  EXPECT_EQ(memomalloc_check_device(&problem, &places, &answer.error), MEMOMALLOC_INVALID_PLAN);
  EXPECT_EQ(answer.error.buffer, 0);
  EXPECT_EQ(answer.error.other_buffer, 1);
}

TEST(LibraryDevice, ColumnsThatAreMissingHaveTheirDefaults) {
  const Device device;
  memomalloc_device_problem problem = MEMOMALLOC_DEVICE_PROBLEM_INIT;
  problem.num_memories = 1;
  problem.num_buffers = 3;
  problem.sizes = device.sizes.data();
  problem.num_lifetimes = 3;
  problem.lifetime_buffers = device.buffers.data();
  problem.lifetime_starts = device.starts.data();
  problem.lifetime_ends = device.ends.data();
  const Answer answer = ask(problem);
  ASSERT_EQ(answer.status, MEMOMALLOC_OK) << answer.error.message;
  EXPECT_EQ(answer.result.proven_optimal, 1);
  EXPECT_EQ(std::max({answer.offsets[0] + 60, answer.offsets[1] + 50, answer.offsets[2] + 50}), 160);
}

TEST(LibraryDevice, SaysThatNoPlanExists) {
  Device device;
  device.capacities = {100, 40};
  const Answer answer = ask(device.problem());
  EXPECT_EQ(answer.status, MEMOMALLOC_NO_PLAN_EXISTS);
  EXPECT_EQ(answer.memories, std::vector<int64_t>(3, -77));
  EXPECT_EQ(answer.result.cost, -1);
}

TEST(LibraryDevice, RefusesWhatIsNoProblem) {
  const auto refused = [](auto change) {
    Device device;
    change(device);
    const Answer answer = ask(device.problem());
    EXPECT_EQ(answer.memories, std::vector<int64_t>(3, -77));
    return answer.status == MEMOMALLOC_INVALID_ARGUMENT ? std::string(answer.error.message) : "not refused";
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  constexpr int64_t kHuge = int64_t{1} << 61;
  EXPECT_TRUE(has(refused([](Device& d) { d.capacities[0] = -2; }), "memory 0: capacity"));
  EXPECT_TRUE(has(refused([](Device& d) { d.banks[1] = -1; }), "memory 1: bank"));
  EXPECT_TRUE(has(refused([](Device& d) { d.chunks[1] = INT64_MAX; }), "memory 1: chunk"));
  EXPECT_TRUE(has(refused([](Device& d) { d.sizes[1] = -1; }), "buffer 1: size"));
  EXPECT_TRUE(has(refused([](Device& d) { d.sizes[0] = d.sizes[1] = kHuge; }), "sum to more"));
  EXPECT_TRUE(has(refused([](Device& d) { d.alignments[2] = 0; }), "buffer 2: alignment"));
  EXPECT_TRUE(has(refused([](Device& d) { d.costs[2] = d.costs[3] = -1; }), "buffer 1: its costs forbid"));
  EXPECT_TRUE(has(refused([](Device& d) { d.costs[2] = -2; }), "buffer 1: cost"));
  EXPECT_TRUE(has(refused([](Device& d) { d.costs[0] = d.costs[2] = kHuge; }), "sum to more"));
  EXPECT_TRUE(has(refused([](Device& d) { d.pin_memories[0] = 2; }), "buffer 0: it is pinned"));
  EXPECT_TRUE(has(refused([](Device& d) { d.pin_memories[0] = 0, d.pin_chunks[0] = 1; }), "chunk"));
  EXPECT_TRUE(
      has(refused([](Device& d) { d.pin_memories[0] = 0, d.pin_offsets[0] = 3, d.alignments[0] = 2; }),
          "multiple"));
  EXPECT_TRUE(has(refused([](Device& d) { d.buffers[2] = 3; }), "there is no buffer 3"));
  EXPECT_TRUE(has(refused([](Device& d) { d.buffers[2] = 1; }), "overlap"));
  EXPECT_TRUE(
      has(refused([](Device& d) { d.buffers[2] = 1, d.starts[2] = 7, d.ends[2] = 9; }), "no lifetime"));
  EXPECT_TRUE(has(refused([](Device& d) { d.ends[1] = 1; }), "lifetime [1, 1)"));
  EXPECT_TRUE(has(refused([](Device& d) { d.uppers[1] = 51; }), "bytes in use"));
  EXPECT_TRUE(has(refused([](Device& d) { d.groups[0] = 1, d.sub_offsets[0] = 4; }), "begin at 0"));
  EXPECT_TRUE(has(refused([](Device& d) { d.groups[0] = 1, d.sub_offsets[0] = 1, d.alignments[0] = 2; }),
                  "multiple"));
  EXPECT_TRUE(has(refused([](Device& d) {
                    d.groups[0] = d.groups[1] = 1;
                    d.disjoint = {0, 1};
                  }),
                  "aliases"));
  EXPECT_TRUE(has(refused([](Device& d) { d.disjoint = {0, 0}; }), "needs two buffers"));
  EXPECT_TRUE(has(refused([](Device& d) { d.different_banks = {0, 3}; }), "needs two buffers"));
  EXPECT_TRUE(has(refused([](Device& d) { d.capacities.clear(); }), "1 to 64 memories"));
}

TEST(LibraryDevice, RefusesWhatARequestForADeviceHasNot) {
  const Device device;
  memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
  request.planner = "skyline";
  EXPECT_EQ(ask(device.problem(), &request).status, MEMOMALLOC_UNSUPPORTED);
  request.planner = "auto";
  EXPECT_EQ(ask(device.problem(), &request).status, MEMOMALLOC_OK);
  request.capacity = 3;
  EXPECT_EQ(ask(device.problem(), &request).status, MEMOMALLOC_INVALID_ARGUMENT);
}

TEST(LibraryDevice, NoExceptionGetsOutWhereverMemoryRunsOut) {
  const Device device;
  const memomalloc_device_problem problem = device.problem();
  std::vector<int64_t> memories(3);
  std::vector<int64_t> offsets(3);
  const memomalloc_places places{memories.data(), nullptr, offsets.data()};
  memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
  request.time_limit_s = 600;  // a machine may stand still for longer than it takes
  memomalloc_status status = MEMOMALLOC_OUT_OF_MEMORY;
  int64_t num_failures = 0;
  // Every allocation of the beginning, and of thousands later on a part.
  for (int64_t left = 0; left < 20'000; left += 1 + left / 500) {
    memomalloc_error error{-5, -5, "untouched"};
    t_allocations_left = left;
    status = memomalloc_plan_device(&problem, &request, nullptr, &places, nullptr, &error);
    const bool failed = t_allocations_left == 0;
    t_allocations_left = -1;
    if (status == MEMOMALLOC_OK && !failed) break;
    ++num_failures;
    ASSERT_TRUE(status == MEMOMALLOC_OUT_OF_MEMORY || status == MEMOMALLOC_OK) << error.message;
  }
  EXPECT_EQ(status, MEMOMALLOC_OK);
  EXPECT_GT(num_failures, 50);
}

// A program that was built when the request had no warm start.
TEST(Library, AnOlderRequestIsUnderstood) {
  const int64_t sizes[] = {8};
  const int64_t starts[] = {0};
  const int64_t ends[] = {1};
  memomalloc_problem problem = MEMOMALLOC_PROBLEM_INIT;
  problem.num_buffers = 1;
  problem.sizes = sizes, problem.starts = starts, problem.ends = ends;
  memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
  request.struct_size = offsetof(memomalloc_request, warm_start);
  // What lies behind it in that program is something else.
  request.warm_start = reinterpret_cast<const int64_t*>(16);
  int64_t offset = -1;
  memomalloc_error error;
  ASSERT_EQ(memomalloc_plan(&problem, &request, &offset, nullptr, &error), MEMOMALLOC_OK) << error.message;
  request.struct_size -= 1;
  EXPECT_EQ(memomalloc_plan(&problem, &request, &offset, nullptr, &error), MEMOMALLOC_INVALID_ARGUMENT);
}

TEST(Library, AWarmStartIsNoWorse) {
  memomalloc::Problem problem;
  for (int64_t i = 0; i < 60; ++i) problem.add(1 + i * 37 % 100, i, i + 1 + i * 11 % 9);
  memomalloc::Request request;
  request.time_limit_s = 2;
  const memomalloc::Plan earlier = memomalloc::plan(problem, request);
  ASSERT_TRUE(earlier) << earlier.message;
  request.planner = "bump";
  request.warm_start = earlier.offsets;
  const memomalloc::Plan again = memomalloc::plan(problem, request);
  ASSERT_TRUE(again) << again.message;
  EXPECT_LE(again.arena, earlier.arena);
  request.warm_start.pop_back();
  EXPECT_FALSE(memomalloc::plan(problem, request));
}

}  // namespace
}  // namespace memomalloc::library
