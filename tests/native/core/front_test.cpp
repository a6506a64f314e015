// The front that every request and every free goes through: bad frees, poison, the profiler, threads that
// end, memory that goes back to the system.
#include "core/front.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "core/process_memory.hpp"
#include "core_fixture.hpp"
#include "interposed_calls.hpp"
#include "live_blocks.hpp"
#include "memory_map.hpp"

namespace memomalloc::testing {
namespace {

class FrontTest : public CoreTest {
 protected:
  static std::shared_ptr<const Layout> two_side_by_side() {
    return make_layout({{0, 128, 128, false}, {128, 256, 256, false}});
  }

  // A block of a plan that is gone; it was given back.
  static void* block_of_a_plan_that_is_gone() {
    Armed plan(two_side_by_side(), 1);
    const BeginResult run = plan.begin();
    void* block = allocate(128);
    release(block);
    ArmedPlan::end(run.token);
    return block;
  }
};

// --- Off

TEST_F(FrontTest, WithoutARunEverythingPassesThrough) {
  void* block = allocate(64);
  EXPECT_FALSE(g_range.contains(block));
  release(block);
}

TEST_F(FrontTest, WhatUpstreamThrowsComesThrough) { EXPECT_THROW(allocate(SIZE_MAX), std::bad_alloc); }

// --- Bad frees

TEST_F(FrontTest, ADoubleFreeIsCountedAndHarmless) {
  Armed plan(two_side_by_side(), 1);
  const BeginResult run = plan.begin();
  void* first = allocate(128);
  void* second = allocate(256);
  release(first);
  release(first);
  release(second);
  EXPECT_EQ(ArmedPlan::end(run.token).served, 2u);
  expected_bad_frees_ = 1;
}

TEST_F(FrontTest, APointerIntoABlockIsCountedAndTheBlockStaysAlive) {
  Armed plan(two_side_by_side(), 1);
  const BeginResult run = plan.begin();
  auto* block = static_cast<std::byte*>(allocate(128));
  for (int offset : {1, 8, 64, 127}) release(block + offset);
  release(block);
  ArmedPlan::end(run.token);
  expected_bad_frees_ = 4;
}

TEST_F(FrontTest, AnAddressThatIsNoPlaceOrNobodysIsCounted) {
  Armed plan(two_side_by_side(), 1);
  const BeginResult run = plan.begin();
  auto* block = static_cast<std::byte*>(allocate(128));
  release(block + AddressRange::kGranuleBytes - 64);            // in the region's granule, behind the plan
  release(block + 128);                                         // a place where nothing lives
  release(block + g_range.reserved_bytes() / 2 / 4096 * 4096);  // a granule of nobody
  release(block);
  ArmedPlan::end(run.token);
  expected_bad_frees_ = 3;
}

TEST_F(FrontTest, ABadFreeOfMemoryThatIsGoneIsCounted) {
  release(block_of_a_plan_that_is_gone());
  expected_bad_frees_ = 1;
}

TEST_F(FrontTest, ABadFreeOfAPlanThatIsGoneIsCounted) {
  const Armed other(two_side_by_side(), 1);  // so that the region stays
  release(block_of_a_plan_that_is_gone());
  expected_bad_frees_ = 1;
}

TEST_F(FrontTest, APlanIsLaidAfterOneWithoutMemoryForItsTables) {
  const auto in_a_row = [](uint64_t num_buffers) {
    std::vector<PlannedBuffer> buffers;
    for (uint64_t i = 0; i < num_buffers; ++i) buffers.push_back({64 * i, 64, 64, false});
    return make_layout(std::move(buffers));
  };
  Armed small(in_a_row(2), 1);
  Armed next(in_a_row(3), 1);
  Armed middle(in_a_row(10), 1);  // whose tables the others share
  Armed large(in_a_row(1000), 1);
  ArmedPlan::end(middle.begin().token);
  for (uint64_t num_good_calls = 0;; ++num_good_calls) {
    ArmedPlan::end(small.begin().token);
    BeginResult run{};
    {
      const FailingNew failing(num_good_calls);
      run = large.begin();
    }
    const bool is_laid = run.outcome == Begin::kStarted;
    if (is_laid) ArmedPlan::end(run.token);
    const BeginResult after = next.begin();
    ASSERT_EQ(after.outcome, Begin::kStarted);
    for (int i = 0; i < 3; ++i) release(allocate(64));
    EXPECT_EQ(ArmedPlan::end(after.token).served, 3u);
    if (is_laid) break;
  }
}

TEST_F(FrontTest, BadFreesAreCountedUnderPoisonAndProfilerToo) {
  Armed plan(two_side_by_side(), ReplayOptions{true});
  std::vector<int64_t> reported;
  CountingUpstream::reported_bytes = &reported;
  CountingUpstream::is_profiling = true;
  const BeginResult run = plan.begin();
  auto* block = static_cast<std::byte*>(allocate(128));
  release(block + 64);
  release(block);
  release(block);
  ArmedPlan::end(run.token);
  CountingUpstream::is_profiling = false;
  CountingUpstream::reported_bytes = nullptr;
  EXPECT_EQ(reported, (std::vector<int64_t>{128, -128}));
  expected_bad_frees_ = 2;
}

// --- Poison

TEST_F(FrontTest, PoisonOverwritesABlockAsItIsGivenBackAndNothingElse) {
  Armed plan(two_side_by_side(), ReplayOptions{true});
  const BeginResult run = plan.begin();
  auto* first = static_cast<unsigned char*>(allocate(128));
  auto* second = static_cast<unsigned char*>(allocate(256));
  std::memset(first, 1, 128);
  Pattern(2).write(second, 256);
  release(first);
  for (int i = 0; i < 128; ++i) EXPECT_EQ(first[i], 0xEF);
  EXPECT_TRUE(Pattern(2).holds(second, 256));
  ArmedPlan::end(run.token);
  std::thread([second] { release(second); }).join();  // after the run, elsewhere
  for (int i = 0; i < 256; ++i) EXPECT_EQ(second[i], 0xEF);
}

// --- The profiler

class ProfilerTest : public FrontTest {
 protected:
  void SetUp() override {
    FrontTest::SetUp();
    CountingUpstream::reported_bytes = &reported_;
  }
  void TearDown() override {
    CountingUpstream::reported_bytes = nullptr;
    CountingUpstream::is_profiling = false;
    FrontTest::TearDown();
  }
  std::vector<int64_t> reported_;
};

TEST_F(ProfilerTest, HearsOfEveryPlannedBlock) {
  CountingUpstream::is_profiling = true;
  Armed plan(two_side_by_side(), 1);
  const BeginResult run = plan.begin();
  void* first = allocate(100);
  void* second = allocate(256);
  release(first);
  ArmedPlan::end(run.token);
  release(second);  // after the run
  // What was asked for, not what the slots hold.
  EXPECT_EQ(reported_, (std::vector<int64_t>{100, 256, -100, -256}));
}

TEST_F(ProfilerTest, HearsNothingOfBlocksThatUpstreamReports) {
  CountingUpstream::is_profiling = true;
  Armed plan(two_side_by_side(), 1);
  const BeginResult run = plan.begin();
  release(allocate(4096));
  ArmedPlan::end(run.token);
  EXPECT_EQ(reported_, (std::vector<int64_t>{}));
}

TEST_F(ProfilerTest, HearsNothingOfTheEndOfABlockWhoseBeginningItMissed) {
  Armed plan(two_side_by_side(), 1);
  void* missed = nullptr;
  for (const bool listens : {true, false, true}) {
    CountingUpstream::is_profiling = listens;
    const BeginResult run = plan.begin();
    void* block = allocate(128);
    if (!listens) missed = block;
    if (listens) release(block);
    ArmedPlan::end(run.token);
  }
  release(missed);
  EXPECT_EQ(reported_, (std::vector<int64_t>{128, -128}));
}

TEST_F(ProfilerTest, OneThatListensNoMoreHearsNothing) {
  Armed plan(two_side_by_side(), 1);
  for (const bool listens : {true, false}) {
    CountingUpstream::is_profiling = listens;
    const BeginResult run = plan.begin();
    release(allocate(128));
    ArmedPlan::end(run.token);
  }
  EXPECT_EQ(reported_, (std::vector<int64_t>{128, -128}));
}

// --- Threads

TEST_F(FrontTest, ABlockMayBeGivenBackOnAnyThreadDuringAndAfterTheRun) {
  Armed plan(two_side_by_side(), 1);
  for (int i = 0; i < 3; ++i) {
    const BeginResult run = plan.begin();
    void* first = allocate(128);
    void* second = allocate(256);
    std::thread([first] { release(first); }).join();
    const RunCounts counts = ArmedPlan::end(run.token);
    EXPECT_EQ(counts.served, 2u);
    std::thread([second] { release(second); }).join();
  }
}

TEST_F(FrontTest, OtherThreadsPassThroughDuringARun) {
  Armed plan(two_side_by_side(), 1);
  const BeginResult run = plan.begin();
  std::thread([] {
    void* block = allocate(128);
    EXPECT_FALSE(g_range.contains(block));
    release(block);
  }).join();
  release(allocate(128));
  release(allocate(256));
  EXPECT_EQ(ArmedPlan::end(run.token).served, 2u);
}

// --- Memory goes back to the system

TEST_F(FrontTest, MemoryStaysMappedUntilTheLastBlockOfAPlanThatIsGoneGoes) {
  auto plan = std::make_unique<Armed>(two_side_by_side(), 1);
  const BeginResult run = plan->begin();
  void* first = allocate(128);
  void* second = allocate(256);
  Pattern(1).write(first, 128);
  Pattern(2).write(second, 256);
  ArmedPlan::end(run.token);
  plan.reset();
  release(second);
  release_pages();
  EXPECT_EQ(protection_of(first), "rw-p");
  EXPECT_TRUE(Pattern(1).holds(first, 128));
  std::thread([first] { release(first); }).join();
  Armed(two_side_by_side(), 1);  // with the last plan goes what nothing lives in
  EXPECT_EQ(protection_of(first), "---p");
}

TEST_F(FrontTest, MemoryStaysMappedUntilTheRunOfAPlanThatIsGoneEnds) {
  std::thread([] {
    Armed plan(two_side_by_side(), 1);
    EXPECT_EQ(plan.begin().outcome, Begin::kStarted);
    void* block = allocate(128);
    Pattern(1).write(block, 128);
    {
      Armed another(two_side_by_side(), 1);
    }
    EXPECT_TRUE(Pattern(1).holds(block, 128));
    release(block);
    // The plan goes here, the run with the thread.
  }).join();
  EXPECT_EQ(release_pages(), system_page_bytes());
}

// --- Outputs

class OutputTest : public FrontTest {
 protected:
  static std::shared_ptr<const Layout> an_output() { return make_layout({{0, 128, 128, true}}); }
};

TEST_F(OutputTest, BadFreesOfOutputsAreCountedAndHarmless) {
  Armed plan(an_output(), 1);
  const BeginResult run = plan.begin();
  auto* output = static_cast<std::byte*>(allocate(128));
  Pattern(4).write(output, 128);
  for (int offset : {1, 8, 64, 128, 4096}) release(output + offset);
  EXPECT_TRUE(Pattern(4).holds(output, 128));
  release(output);
  release(output);
  ArmedPlan::end(run.token);
  expected_bad_frees_ = 6;
}

TEST_F(OutputTest, PoisonOverwritesAnOutputAsItIsGivenBack) {
  Armed plan(an_output(), ReplayOptions{true});
  const BeginResult run = plan.begin();
  auto* output = static_cast<unsigned char*>(allocate(100));
  ArmedPlan::end(run.token);
  std::memset(output, 1, 100);
  std::thread([output] { release(output); }).join();
  for (int i = 0; i < 128; ++i) EXPECT_EQ(output[i], 0xEF);
}

TEST_F(OutputTest, OutputsOutliveTheirPlanAndItsThread) {
  void* output = nullptr;
  std::thread([&output] {
    Armed plan(an_output(), 1);
    const BeginResult run = plan.begin();
    output = allocate(128);
    Pattern(9).write(output, 128);
    ArmedPlan::end(run.token);
  }).join();
  for (int i = 0; i < 10; ++i) {
    Armed plan(an_output(), 1);
    const BeginResult run = plan.begin();
    void* block = allocate(128);
    std::memset(block, 7, 128);
    release(block);
    ArmedPlan::end(run.token);
    release_pages();
  }
  EXPECT_TRUE(Pattern(9).holds(output, 128));
  release(output);
}

TEST_F(ProfilerTest, HearsOfOutputsAsOfAllBlocks) {
  CountingUpstream::is_profiling = true;
  Armed plan(make_layout({{0, 128, 64, true}, {128, 64, 64, false}}), 1);
  const BeginResult run = plan.begin();
  void* output = allocate(100);
  release(allocate(64));
  ArmedPlan::end(run.token);
  release(output);
  EXPECT_EQ(reported_, (std::vector<int64_t>{100, 64, -64, -100}));
}

}  // namespace
}  // namespace memomalloc::testing
