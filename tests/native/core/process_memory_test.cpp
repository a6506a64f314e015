// What the process may use: limits of its own and of plans, waiting, what makes room for what, and what is
// told of it.
#include "core/process_memory.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "core_fixture.hpp"
#include "live_blocks.hpp"
#include "memory_map.hpp"
#include "other_thread.hpp"
#include "residency.hpp"

namespace memomalloc::testing {
namespace {

constexpr std::size_t kBytes = 64 << 10;

class ProcessMemoryTest : public CoreTest {
 protected:
  void SetUp() override {
    CoreTest::SetUp();
    release_pages();  // of threads of earlier tests
  }
  void TearDown() override {
    set_memory_limit(UINT64_MAX);
    CoreTest::TearDown();
  }

  static std::unique_ptr<Armed> arm(std::size_t bytes = kBytes, bool escapes = false) {
    return std::make_unique<Armed>(make_layout({{0, bytes, bytes, escapes}}));
  }

  // Begins a run, takes its one block, ends the run.
  static void* block_of_a_run(Armed& plan, std::size_t bytes = kBytes) {
    const BeginResult run = plan.begin();
    EXPECT_EQ(run.outcome, Begin::kStarted);
    void* block = allocate(bytes);
    EXPECT_TRUE(g_range.contains(block));
    ArmedPlan::end(run.token);
    return block;
  }

  // The number of the region on which a thread of its own runs, and keeps its block.
  static void run_elsewhere(OtherThread& thread, Armed& plan, void** kept) {
    thread.run([&] {
      void* block = block_of_a_run(plan);
      if (kept != nullptr) {
        *kept = block;
      } else {
        release(block);
      }
    });
  }
};

TEST_F(ProcessMemoryTest, IdleRegionsMakeRoomForOthers) {
  set_memory_limit(3 * kBytes);
  const auto plan = arm();
  const auto large = arm(3 * kBytes);
  OtherThread others[2];
  // Two regions at a time.
  const BeginResult here = plan->begin();
  run_elsewhere(others[0], *plan, nullptr);
  ArmedPlan::end(here.token);
  EXPECT_EQ(memory_use().used_bytes, 2 * kBytes);
  release(block_of_a_run(*large, 3 * kBytes));
  EXPECT_EQ(memory_use().used_bytes, 3 * kBytes);
  EXPECT_EQ(memory_use().num_over_limit, 0u);
  run_elsewhere(others[0], *plan, nullptr);
}

TEST_F(ProcessMemoryTest, WhatLivesOrRunsIsNeverTaken) {
  set_memory_limit(2 * kBytes);
  const auto kept_plan = arm();
  const auto running = arm();
  const auto late = arm();
  void* kept = block_of_a_run(*kept_plan);
  Pattern(1).write(kept, kBytes);
  const BeginResult run = running->begin();
  std::thread([&] { EXPECT_EQ(late->begin().outcome, Begin::kNoRegion); }).join();
  EXPECT_GT(memory_use().num_over_limit, 0u);
  EXPECT_TRUE(Pattern(1).holds(kept, kBytes));
  ArmedPlan::end(run.token);
  release(kept);
  std::thread([&] { release(block_of_a_run(*late)); }).join();
}

TEST_F(ProcessMemoryTest, APlanLargerThanTheLimitNeverRuns) {
  set_memory_limit(kBytes - 1);
  const auto plan = arm();
  EXPECT_EQ(plan->begin().outcome, Begin::kNoRegion);
  EXPECT_EQ(memory_use().used_bytes, 0u);
}

TEST_F(ProcessMemoryTest, OutputsForWhichThereIsNoMemoryComeFromUpstream) {
  set_memory_limit(2 * kBytes);
  const auto plan = arm(kBytes, /*escapes=*/true);
  std::vector<void*> outputs;
  for (int i = 0; i < 4; ++i) {
    const BeginResult run = plan->begin();
    outputs.push_back(allocate(kBytes));
    const RunCounts counts = ArmedPlan::end(run.token);
    EXPECT_EQ(counts.served, i < 2 ? 1u : 0u);
    EXPECT_EQ(counts.kept, i < 2 ? 0u : 1u);
  }
  for (void* output : outputs) release(output);
  release(block_of_a_run(*plan));
}

TEST_F(ProcessMemoryTest, ALowerLimitGivesIdleMemoryBackAtOnce) {
  const auto plan = arm();
  void* block = block_of_a_run(*plan);
  std::memset(block, 1, kBytes);
  release(block);
  set_memory_limit(kBytes / 2);
  EXPECT_EQ(memory_use().used_bytes, 0u);
  EXPECT_EQ(protection_of(block), "---p");
}

TEST_F(ProcessMemoryTest, BytesOfAPlanThatIsGoneCountUntilTheyAreIdle) {
  auto gone = arm();
  void* block = block_of_a_run(*gone);
  Pattern(2).write(block, kBytes);
  gone.reset();
  EXPECT_EQ(memory_use().used_bytes, kBytes);
  EXPECT_TRUE(Pattern(2).holds(block, kBytes));
  release(block);
  release_pages();
  EXPECT_EQ(memory_use().used_bytes, 0u);
  EXPECT_FALSE(is_resident(block));
}

TEST_F(ProcessMemoryTest, WithTheLastPlanGoesWhatNothingLivesIn) {
  auto plan = arm();
  void* block = block_of_a_run(*plan);
  release(block);
  EXPECT_EQ(protection_of(block), "rw-p");
  plan.reset();
  EXPECT_EQ(protection_of(block), "---p");
}

TEST_F(ProcessMemoryTest, SeveralPlansMayShareABudgetForTheirRuns) {
  const auto budget = std::make_shared<RunBudget>(2 * kBytes);
  const auto layout = make_layout({{0, kBytes, kBytes, false}});
  Armed first(layout, ReplayOptions{}, budget);
  Armed second(layout, ReplayOptions{}, budget);
  OtherThread other;
  const BeginResult here = first.begin();
  RunToken there = 0;
  other.run([&] { there = second.begin().token; });
  std::thread([&] { EXPECT_EQ(first.begin().outcome, Begin::kNoRegion); }).join();
  other.run([&] { ArmedPlan::end(there); });
  std::thread([&] { release(block_of_a_run(first)); }).join();
  ArmedPlan::end(here.token);
  EXPECT_EQ(budget->used_bytes(), 0u);
}

TEST_F(ProcessMemoryTest, WhatOtherPlansOfABudgetLeftIsIdleAndMakesRoom) {
  const auto budget = std::make_shared<RunBudget>(4 * kBytes);
  const auto with_output = [](uint64_t bytes, uint64_t output_bytes) {
    return make_layout({{0, bytes, bytes, false}, {bytes, output_bytes, output_bytes, true}});
  };
  Armed large_inside(with_output(3 * kBytes, kBytes), ReplayOptions{}, budget);
  Armed large_output(with_output(kBytes, 3 * kBytes), ReplayOptions{}, budget);
  for (int i = 0; i < 4; ++i) {
    Armed& plan = i % 2 == 0 ? large_inside : large_output;
    const BeginResult run = plan.begin();
    ASSERT_EQ(run.outcome, Begin::kStarted);
    release(allocate(plan->layout().region_bytes()));
    release(allocate(plan->layout().output_bytes()));
    EXPECT_EQ(ArmedPlan::end(run.token).served, 2u);
    EXPECT_EQ(memory_use().used_bytes, 4 * kBytes);
  }
}

TEST_F(ProcessMemoryTest, AThreadMayWaitForItsTurn) {
  Armed plan(make_layout({{0, kBytes, kBytes, false}}), 1);
  const BeginResult run = plan.begin();
  std::thread waiting([&] {
    const BeginResult late = plan->begin(std::chrono::nanoseconds::max());
    EXPECT_EQ(late.outcome, Begin::kStarted);
    ArmedPlan::end(late.token);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ArmedPlan::end(run.token);
  waiting.join();
  EXPECT_EQ(plan.counts().num_runs, 2u);
}

TEST_F(ProcessMemoryTest, AThreadThatWaitsInVainGoesOnUnplanned) {
  Armed plan(make_layout({{0, kBytes, kBytes, false}}), 1);
  const BeginResult run = plan.begin();
  std::thread([&] {
    EXPECT_EQ(plan->begin(std::chrono::milliseconds(10)).outcome, Begin::kNoRegion);
    EXPECT_EQ(plan->begin(std::chrono::nanoseconds(-1)).outcome, Begin::kNoRegion);
  }).join();
  EXPECT_EQ(plan->begin(std::chrono::milliseconds(10)).outcome, Begin::kNested);
  ArmedPlan::end(run.token);
}

TEST_F(ProcessMemoryTest, PagesThatWentBackAreZeroWhenTheyReturn) {
  const auto plan = arm();
  void* block = block_of_a_run(*plan);
  std::memset(block, 1, kBytes);
  EXPECT_EQ(release_pages(), 0u) << "a block in it lives";
  EXPECT_TRUE(is_resident(block));
  release(block);
  EXPECT_EQ(release_pages(), kBytes);
  EXPECT_FALSE(is_resident(block));
  const BeginResult run = plan->begin();
  EXPECT_EQ(release_pages(), 0u) << "a run goes on";
  auto* again = static_cast<unsigned char*>(allocate(kBytes));
  EXPECT_EQ(again, block);
  EXPECT_EQ(again[kBytes - 1], 0);
  release(again);
  ArmedPlan::end(run.token);
}

TEST_F(ProcessMemoryTest, OutputsOfMixedSizesAreRecycled) {
  std::vector<std::unique_ptr<Armed>> plans;
  for (std::size_t i = 1; i <= 25; ++i) plans.push_back(arm(i * kBytes, /*escapes=*/true));
  for (int round = 0; round < 4; ++round) {
    for (std::size_t i = 0; i < plans.size(); ++i) {
      const std::size_t at = (i * 7) % plans.size();
      release(block_of_a_run(*plans[at], (at + 1) * kBytes));
    }
  }
  EXPECT_EQ(memory_use().used_bytes, 25 * kBytes) << "twenty-five plans have one set of outputs";
}

TEST_F(ProcessMemoryTest, TellsWhatEachRegionIsUsedFor) {
  Armed plan(make_layout({{0, kBytes, 64, false}, {kBytes, 128, 64, true}}));
  BeginResult run = plan.begin();
  void* kept = allocate(kBytes);
  void* output = allocate(100);
  EXPECT_TRUE(regions_in_use().at(0).is_running);
  ArmedPlan::end(run.token);
  const RegionUse use = regions_in_use().at(0);
  EXPECT_FALSE(use.is_running);
  EXPECT_EQ(use.charged_bytes, kBytes);
  EXPECT_EQ(use.num_kept, 1u);
  EXPECT_EQ(use.kept_bytes, kBytes);
  EXPECT_EQ(use.num_outputs, 1u);
  EXPECT_EQ(use.output_bytes, 128u);
  EXPECT_EQ(use.plan, plan->number());
  release(kept);
  release(output);
}

TEST_F(ProcessMemoryTest, APlanNamesTheFirstRequestsThatDeviated) {
  const auto plan = arm();
  const BeginResult run = plan->begin();
  release(allocate(64));
  release(allocate(kBytes));
  for (int i = 0; i < 30; ++i) release(allocate(128));
  ArmedPlan::end(run.token);
  release(block_of_a_run(*plan));  // without a deviation: the ones before stay
  const DeviatingRequests deviating = (*plan)->last_deviating_requests();
  EXPECT_EQ(deviating.count, deviating.first.size());
  EXPECT_EQ(deviating.first[0].slot, 0u);
  EXPECT_EQ(deviating.first[0].why, Deviation::kSize);
  EXPECT_EQ(deviating.first[0].bytes, 64u);
  EXPECT_EQ(deviating.first[1].slot, 1u);
  EXPECT_EQ(deviating.first[1].why, Deviation::kExtra);
  EXPECT_EQ(deviating.first[1].bytes, 128u);
}

}  // namespace
}  // namespace memomalloc::testing
