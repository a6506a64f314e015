// Runs and the regions they are on: what is served, what is not and why, and who may begin and end when.
#include "core/armed_plan.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "core/process_memory.hpp"
#include "core_fixture.hpp"
#include "interposed_calls.hpp"
#include "live_blocks.hpp"
#include "other_thread.hpp"

namespace memomalloc::testing {
namespace {

// Access to the one member that takes 2**32 runs to get where a test wants it. Explicit instantiation may
// name private members.
struct RunStamp {
  using Member = uint32_t Region::*;
  friend Member member(RunStamp);
};
template <typename Tag, typename Tag::Member kMember>
struct Exposed {
  friend typename Tag::Member member(Tag) { return kMember; }
};
template struct Exposed<RunStamp, &Region::run_stamp_>;

class ArmedPlanTest : public CoreTest {
 protected:
  // A run of requests of these sizes, each freed before the next.
  static RunCounts run(Armed& plan, const std::vector<std::size_t>& sizes) {
    const BeginResult begun = plan.begin();
    EXPECT_EQ(begun.outcome, Begin::kStarted);
    for (const std::size_t bytes : sizes) release(allocate(bytes));
    return ArmedPlan::end(begun.token);
  }

  static void expect(const RunCounts& counts, uint64_t served, uint64_t missing, uint64_t size = 0,
                     uint64_t extra = 0, uint64_t occupied = 0, uint64_t blocked = 0) {
    EXPECT_EQ(counts.served, served);
    EXPECT_EQ(counts.missing, missing);
    EXPECT_EQ(upstream_because(counts, Deviation::kSize), size);
    EXPECT_EQ(upstream_because(counts, Deviation::kExtra), extra);
    EXPECT_EQ(upstream_because(counts, Deviation::kOccupied), occupied);
    EXPECT_EQ(upstream_because(counts, Deviation::kBlocked), blocked);
  }

  // Three buffers of distinct sizes at one address, one after the other.
  static std::shared_ptr<const Layout> three_in_a_row() {
    return make_layout({{0, 64, 64, false}, {0, 128, 128, false}, {0, 192, 192, false}});
  }
};

// --- What is served

TEST_F(ArmedPlanTest, ARunThatFollowsThePlanIsServedWhollyAtThePlannedOffsets) {
  Armed plan(make_layout({{0, 64, 64, false}, {64, 128, 128, false}, {0, 64, 64, false}}), 1);
  for (int i = 0; i < 3; ++i) {
    const BeginResult run = plan.begin();
    auto* first = static_cast<std::byte*>(allocate(64));
    auto* second = static_cast<std::byte*>(allocate(100));
    EXPECT_EQ(second - first, 64);
    release(first);
    EXPECT_EQ(allocate(1), first);
    release(first);
    release(second);
    expect(ArmedPlan::end(run.token), 3, 0);
  }
  EXPECT_EQ(plan.counts().num_runs, 3u);
  EXPECT_EQ(plan.counts().counts.served, 9u);
}

TEST_F(ArmedPlanTest, ASlotTakesSizesDownToItsSmallest) {
  Armed plan(make_layout({{0, 256, 128, false}}), 1);
  expect(run(plan, {256}), 1, 0);
  expect(run(plan, {65}), 1, 0);  // 128 when rounded up
  expect(run(plan, {64}), 0, 1, /*size=*/1);
  expect(run(plan, {257}), 0, 1, /*size=*/1);
}

TEST_F(ArmedPlanTest, AnAbsurdSizeFitsNoSlot) {
  Armed plan(make_layout({{0, 64, 64, false}}), 1);
  const BeginResult run = plan.begin();
  EXPECT_THROW(allocate(SIZE_MAX), std::bad_alloc);
  EXPECT_THROW(allocate(SIZE_MAX - 62), std::bad_alloc);
  expect(ArmedPlan::end(run.token), 0, 1, /*size=*/2);
}

TEST_F(ArmedPlanTest, AnEmptyPlanSendsEverythingUpstream) {
  Armed plan(std::make_shared<const Layout>(std::vector<PlannedBuffer>{}, 0), 1);
  expect(run(plan, {64, 64}), 0, 0, 0, /*extra=*/2);
}

// --- Every reason to deviate

TEST_F(ArmedPlanTest, CountsAWrongSize) {
  Armed plan(three_in_a_row(), 1);
  expect(run(plan, {64, 4096, 128, 192}), 3, 0, /*size=*/1);
}

TEST_F(ArmedPlanTest, CountsAnExtraRequest) {
  Armed plan(three_in_a_row(), 1);
  expect(run(plan, {64, 128, 192, 64, 64}), 3, 0, 0, /*extra=*/2);
}

TEST_F(ArmedPlanTest, CountsMissingRequests) {
  Armed plan(three_in_a_row(), 1);
  expect(run(plan, {64}), 1, 2);
  expect(run(plan, {}), 0, 3);
}

TEST_F(ArmedPlanTest, ALateFreeMakesItsSuccessorOccupiedAndTheNextBlocked) {
  Armed plan(three_in_a_row(), 1);
  const BeginResult run = plan.begin();
  void* late = allocate(64);
  void* second = allocate(128);  // occupied by the first
  release(late);
  void* third = allocate(192);  // the place is free by now, but the second was refused: nobody knows for sure
  release(second);
  release(third);
  expect(ArmedPlan::end(run.token), 1, 0, 0, 0, /*occupied=*/1, /*blocked=*/1);
  expect(ArmedPlanTest::run(plan, {64, 128, 192}), 3, 0);  // recovered
}

TEST_F(ArmedPlanTest, ATensorKeptFromAnEarlierRunBlocksWhatItLiesOn) {
  Armed plan(
      make_layout({{0, 64, 64, false}, {0, 128, 128, false}, {128, 64, 64, false}, {128, 64, 64, false}}), 1);
  const BeginResult first = plan.begin();
  void* kept = allocate(64);
  Pattern(1).write(kept, 64);
  ArmedPlan::end(first.token);
  for (int i = 0; i < 3; ++i) {
    expect(run(plan, {64, 128, 64, 64}), 2, 0, 0, 0, 0, /*blocked=*/2);
    EXPECT_TRUE(Pattern(1).holds(kept, 64));
  }
  release(kept);
  expect(run(plan, {64, 128, 64, 64}), 4, 0);
}

// --- Resynchronisation

TEST_F(ArmedPlanTest, ASkippedRequestIsPassedOver) {
  Armed plan(three_in_a_row(), 1);
  expect(run(plan, {128, 192}), 2, 1);
  expect(run(plan, {64, 192}), 2, 1);
  expect(run(plan, {192}), 1, 2);
}

TEST_F(ArmedPlanTest, AReorderedRequestFindsItsSlotAndTheOneItOvertookIsLost) {
  Armed plan(three_in_a_row(), 1);
  expect(run(plan, {128, 64, 192}), 2, 1, /*size=*/1);
}

TEST_F(ArmedPlanTest, ASkippedSlotWhoseBytesAreOccupiedStandsForTheirOccupant) {
  // The first lies under the second's upper half, which the third does not touch. Only through the skipped
  // second, evaluated as it is passed, does the fourth learn that the first is still there.
  Armed plan(make_layout({{64, 64, 64, false}, {0, 128, 128, false}, {0, 192, 192, false}}), 1);
  const BeginResult run = plan.begin();
  void* first = allocate(64);
  void* third = allocate(192);  // skips the second
  EXPECT_FALSE(g_range.contains(third));
  release(first);
  release(third);
  expect(ArmedPlan::end(run.token), 1, 1, 0, 0, 0, /*blocked=*/1);
}

TEST_F(ArmedPlanTest, LooksFurtherAheadWithEveryMissInARow) {
  std::vector<PlannedBuffer> buffers(400, {0, 64, 64, false});
  buffers[300] = {0, 128, 128, false};
  Armed plan(make_layout(buffers), 1);
  const BeginResult begun = plan.begin();
  int num_misses = 0;
  for (;; ++num_misses) {
    void* block = allocate(128);
    const bool is_served = g_range.contains(block);
    release(block);
    if (is_served) break;
  }
  EXPECT_EQ(num_misses, 7);  // 4, 8, 16 ... 256 slots ahead, then 512
  const RunCounts counts = ArmedPlan::end(begun.token);
  expect(counts, 1, 399, /*size=*/7);
}

TEST_F(ArmedPlanTest, AServedRequestMakesItLookAheadALittleOnly) {
  std::vector<PlannedBuffer> buffers(20, {0, 64, 64, false});
  buffers[10] = {0, 128, 128, false};
  Armed plan(make_layout(buffers), 1);
  // Each miss is followed by a hit: the slot 10 ahead is never in the window of 4 before it is near.
  expect(run(plan, {128, 64, 128, 64, 128, 64}), 3, 17, /*size=*/3);
}

// --- Outputs

TEST_F(ArmedPlanTest, AnOutputThatReplacesTheLastIsServedFromTheSecondRunOn) {
  // out = model(x) in a loop: the old output goes when the new one is there.
  Armed plan(make_layout({{0, 64, 64, false}, {64, 128, 128, true}, {0, 64, 64, false}}), 1);
  void* output = nullptr;
  for (uint64_t i = 0; i < 10; ++i) {
    const BeginResult run = plan.begin();
    release(allocate(64));
    void* next = allocate(128);
    Pattern(i).write(next, 128);
    release(allocate(64));
    expect(ArmedPlan::end(run.token), 3, 0);
    if (output != nullptr) {
      EXPECT_TRUE(Pattern(i - 1).holds(output, 128));
      release(output);
    }
    output = next;
  }
  release(output);
}

TEST_F(ArmedPlanTest, TwoThousandOutputsThatAreAllKeptAreServedAndStayIntact) {
  Armed plan(make_layout({{0, 64, 64, false}, {64, 128, 128, true}, {0, 64, 64, false}}), 1);
  LiveBlocks live;
  std::vector<void*> outputs;
  for (uint64_t i = 0; i < 2000; ++i) {
    const BeginResult run = plan.begin();
    release(allocate(64));
    outputs.push_back(allocate(128));
    ASSERT_TRUE(live.add(reinterpret_cast<uintptr_t>(outputs.back()), 128));
    Pattern(i).write(outputs.back(), 128);
    release(allocate(64));
    EXPECT_EQ(ArmedPlan::end(run.token).num_upstream(), 0u);
  }
  for (uint64_t i = 0; i < 2000; ++i) {
    EXPECT_TRUE(Pattern(i).holds(outputs[i], 128));
    release(outputs[i]);
  }
  expect(run(plan, {64, 128, 64}), 3, 0);
}

TEST_F(ArmedPlanTest, AnOutputThatIsHeldKeepsNoRegion) {
  Armed first(make_layout({{0, 64, 64, false}, {64, 128, 128, true}}), 1);
  Armed second(make_layout({{0, 256, 256, false}}), 1);
  BeginResult begun = first.begin();
  Region* region = t_state.running;
  release(allocate(64));
  void* held = allocate(100);
  Pattern(1).write(held, 100);
  ArmedPlan::end(begun.token);
  begun = second.begin();
  EXPECT_EQ(t_state.running, region);
  void* block = allocate(256);
  std::memset(block, 7, 256);
  release(block);
  ArmedPlan::end(begun.token);
  EXPECT_TRUE(Pattern(1).holds(held, 100));
  release(held);
}

TEST_F(ArmedPlanTest, AnOutputOfAnotherSizeIsADeviationAndOneThatIsSkippedIsMissing) {
  Armed plan(make_layout({{0, 64, 64, true}, {64, 256, 128, true}, {320, 64, 64, false}}), 1);
  expect(run(plan, {64, 100, 64}), 3, 0);
  expect(run(plan, {4096, 64, 256, 64}), 3, 0, /*size=*/1);
  expect(run(plan, {256, 64}), 2, 1);
}

// --- Regions

TEST_F(ArmedPlanTest, PlansTakeTurnsOnOneRegion) {
  Armed small(make_layout({{0, 64, 64, false}, {0, 128, 128, false}}), 1);
  Armed large(make_layout({{0, 1 << 20, 64, false}, {1 << 20, 128, 128, false}, {0, 4096, 64, false}}), 1);
  expect(run(large, {1 << 20, 128, 4096}), 3, 0);
  Region* region = t_state.home;
  for (int i = 0; i < 10; ++i) {
    expect(run(small, {64, 128}), 2, 0);
    EXPECT_EQ(t_state.home, region);
    expect(run(large, {1 << 20, 128, 4096}), 3, 0);
    EXPECT_EQ(t_state.home, region);
  }
}

TEST_F(ArmedPlanTest, ATensorThatIsKeptKeepsTheRegionToItsPlanUntilItGoes) {
  Armed first(make_layout({{0, 64, 64, false}, {0, 128, 128, false}, {128, 64, 64, false}}), 1);
  Armed second(make_layout({{0, 256, 256, false}}), 1);
  const BeginResult begun = first.begin();
  Region* region = t_state.running;
  void* kept = allocate(64);
  Pattern(3).write(kept, 64);
  ArmedPlan::end(begun.token);
  expect(run(second, {256}), 1, 0);
  EXPECT_NE(t_state.home, region);
  EXPECT_EQ(first.counts().num_kept_regions, 1u);
  EXPECT_TRUE(Pattern(3).holds(kept, 64));
  expect(run(second, {256}), 1, 0);  // from now on at home there: nothing is in its way
  EXPECT_EQ(first.counts().num_kept_regions, 1u);
  release(kept);
  expect(run(first, {64, 128, 64}), 3, 0);
}

TEST_F(ArmedPlanTest, ARegionGrowsWithTheLargestPlanAndThereIsOne) {
  std::vector<std::unique_ptr<Armed>> plans;
  for (uint64_t i = 1; i <= 20; ++i) {
    plans.push_back(std::make_unique<Armed>(make_layout({{0, i << 19, 64, false}}), 1));
  }
  for (int round = 0; round < 3; ++round) {
    for (std::size_t i = 0; i < plans.size(); ++i) {
      const std::size_t at = (i * 7) % plans.size();
      expect(run(*plans[at], {(at + 1) << 19}), 1, 0);
    }
  }
  EXPECT_EQ(memory_use().used_bytes, uint64_t{20} << 19);
  EXPECT_EQ(regions_in_use().size(), 1u);
}

TEST_F(ArmedPlanTest, ThreadsThatComeAndGoUseTheRegionsThereAre) {
  Armed plan(make_layout({{0, 1 << 20, 64, false}}));
  for (int i = 0; i < 50; ++i) std::thread([&] { run(plan, {1 << 20}); }).join();
  EXPECT_EQ(memory_use().used_bytes, uint64_t{1} << 20);
}

TEST_F(ArmedPlanTest, AThreadThatComesBackTakesNoLock) {
  if (MEMOMALLOC_TEST_IS_SANITIZED) GTEST_SKIP() << "a sanitizer adds calls and code of its own";
  Armed plan(make_layout({{0, 128, 64, false}, {128, 128, 64, true}, {0, 64, 64, false}}));
  Armed other(make_layout({{0, 512, 64, false}, {512, 64, 64, true}}));
  const auto run_one = [](Armed& armed, std::initializer_list<std::size_t> sizes) {
    const BeginResult begun = armed.begin();
    for (const std::size_t bytes : sizes) release(allocate(bytes));
    return ArmedPlan::end(begun.token).served;
  };
  const auto run_both = [&] { return run_one(plan, {128, 128, 64}) + run_one(other, {512, 64}); };
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run_both(), 5u);
  uint64_t num_served = 0;
  const CallCounts before = calls_of_this_thread();
  for (int i = 0; i < 100; ++i) num_served += run_one(plan, {128, 128, 64});
  const CallCounts between = calls_of_this_thread();
  for (int i = 0; i < 100; ++i) num_served += run_both();
  const CallCounts after = calls_of_this_thread();
  EXPECT_EQ(between.num_mutex_locks, before.num_mutex_locks);
  EXPECT_EQ(between.num_heap_calls, before.num_heap_calls);
  EXPECT_EQ(after.num_mutex_locks, between.num_mutex_locks);
  EXPECT_EQ(num_served, 800u);
}

// --- Stamps

TEST_F(ArmedPlanTest, StampsOfRunsMayWrapAround) {
  // Two pairs of slots, each at an address of its own. The second of a pair is refused where the first is
  // late.
  Armed plan(
      make_layout({{0, 64, 64, false}, {0, 128, 128, false}, {128, 192, 192, false}, {128, 256, 256, false}}),
      1);
  const auto run_with_late = [&plan](std::size_t late_bytes) {
    const BeginResult begun = plan.begin();
    void* late = nullptr;
    for (const std::size_t bytes : {64, 128, 192, 256}) {
      void* block = allocate(bytes);
      if (bytes == late_bytes) {
        late = block;
      } else {
        release(block);
      }
    }
    release(late);
    return ArmedPlan::end(begun.token);
  };
  const BeginResult first = plan.begin();
  Region* region = t_state.running;
  ArmedPlan::end(first.token);
  expect(run_with_late(192), 3, 0, 0, 0, /*occupied=*/1);  // marks the fourth slot with stamp 2
  region->*member(RunStamp()) = UINT32_MAX - 1;
  expect(run(plan, {64, 128, 192, 256}), 4, 0);           // 2**32 - 1
  expect(run(plan, {64, 128, 192, 256}), 4, 0);           // 1
  expect(run_with_late(64), 3, 0, 0, 0, /*occupied=*/1);  // 2 again: the fourth slot's old mark means nothing
}

// --- Beginning and ending

TEST_F(ArmedPlanTest, ARunInsideARunIsNestedAndThePlanOfTheOuterOneGoesOn) {
  Armed outer(three_in_a_row(), 1);
  Armed inner(three_in_a_row(), 1);
  const BeginResult run = outer.begin();
  release(allocate(64));
  EXPECT_EQ(inner.begin().outcome, Begin::kNested);
  EXPECT_EQ(outer.begin().outcome, Begin::kNested);
  release(allocate(128));
  release(allocate(192));
  expect(ArmedPlan::end(run.token), 3, 0);
  EXPECT_EQ(inner.counts().num_runs, 0u);
}

TEST_F(ArmedPlanTest, EachThreadRunsOnARegionOfItsOwn) {
  Armed plan(three_in_a_row(), 2);
  OtherThread other;
  const BeginResult here = plan.begin();
  void* mine = allocate(64);
  other.run([&] {
    const BeginResult there = plan.begin();
    void* theirs = allocate(64);
    EXPECT_NE(mine, theirs);
    EXPECT_TRUE(g_range.contains(theirs));
    std::thread([&] { EXPECT_EQ(plan.begin().outcome, Begin::kNoRegion); }).join();
    release(theirs);
    ArmedPlan::end(there.token);
  });
  release(mine);
  ArmedPlan::end(here.token);
}

TEST_F(ArmedPlanTest, AThreadGetsTheRegionBackThatItUsedLast) {
  Armed plan(three_in_a_row(), 2);
  OtherThread other;
  Region* mine = nullptr;
  Region* theirs = nullptr;
  const BeginResult here = plan.begin();
  mine = t_state.running;
  other.run([&] {
    const BeginResult there = plan.begin();
    theirs = t_state.running;
    ArmedPlan::end(there.token);
  });
  ArmedPlan::end(here.token);
  for (int i = 0; i < 3; ++i) {
    other.run([&] {
      const BeginResult there = plan.begin();
      EXPECT_EQ(t_state.running, theirs);
      ArmedPlan::end(there.token);
    });
    const BeginResult run = plan.begin();
    EXPECT_EQ(t_state.running, mine);
    ArmedPlan::end(run.token);
  }
}

TEST_F(ArmedPlanTest, ATokenEndsItsOwnRunOnceAndNoOther) {
  Armed plan(three_in_a_row(), 1);
  const BeginResult first = plan.begin();
  release(allocate(64));
  expect(ArmedPlan::end(first.token), 1, 2);
  expect(ArmedPlan::end(first.token), 0, 0);
  const BeginResult second = plan.begin();
  EXPECT_NE(second.token, first.token);
  expect(ArmedPlan::end(first.token), 0, 0);
  expect(ArmedPlan::end(0), 0, 0);
  expect(ArmedPlan::end(UINT64_MAX), 0, 0);
  EXPECT_NE(t_state.running, nullptr);
  expect(ArmedPlan::end(second.token), 0, 3);
}

TEST_F(ArmedPlanTest, ARunEndedOnAnotherThreadEndsWhenItsOwnBeginsAnother) {
  Armed plan(three_in_a_row(), 1);
  const BeginResult first = plan.begin();
  release(allocate(64));
  std::thread([&] { expect(ArmedPlan::end(first.token), 0, 0); }).join();
  release(allocate(128));  // still served: its own thread has not looked yet
  const BeginResult second = plan.begin();
  EXPECT_EQ(second.outcome, Begin::kStarted);
  EXPECT_EQ(plan.counts().num_runs, 1u);
  EXPECT_EQ(plan.counts().counts.served, 2u);
  expect(ArmedPlan::end(second.token), 0, 3);
}

TEST_F(ArmedPlanTest, AThreadThatEndsGivesItsRegionBack) {
  Armed plan(three_in_a_row(), 1);
  void* kept = nullptr;
  std::thread([&] {
    EXPECT_EQ(plan.begin().outcome, Begin::kStarted);
    kept = allocate(64);
    Pattern(7).write(kept, 64);
  }).join();
  EXPECT_EQ(plan.counts().counts.served, 1u);
  expect(run(plan, {64, 128, 192}), 0, 0, 0, 0, 0, /*blocked=*/3);
  EXPECT_TRUE(Pattern(7).holds(kept, 64));
  release(kept);
  expect(run(plan, {64, 128, 192}), 3, 0);
}

// --- The end of a plan

TEST_F(ArmedPlanTest, ARunOutlivesItsPlan) {
  auto plan = std::make_unique<Armed>(three_in_a_row(), 1);
  const BeginResult begun = plan->begin();
  void* first = allocate(64);
  plan.reset();
  release(first);
  void* second = allocate(128);
  EXPECT_EQ(second, first);
  release(second);
  expect(ArmedPlan::end(begun.token), 2, 1);
}

TEST_F(ArmedPlanTest, RegionsOfPlansThatAreGoneAreUsedAgain) {
  const std::size_t num_before = Region::all().size();
  std::set<RunToken> tokens;
  for (int i = 0; i < 50; ++i) {
    Armed plan(three_in_a_row(), 1);
    const BeginResult begun = plan.begin();
    EXPECT_TRUE(tokens.insert(begun.token).second) << "a token names one run for ever";
    release(allocate(64));
    ArmedPlan::end(begun.token);
  }
  EXPECT_LE(Region::all().size(), num_before + 1);
}

}  // namespace
}  // namespace memomalloc::testing
