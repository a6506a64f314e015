// The front that every request and every free goes through: bad frees, poison, the profiler, threads that
// end, memory that goes back to the system.
#include "core/front.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "core_fixture.hpp"
#include "live_blocks.hpp"
#include "memory_map.hpp"

namespace memomalloc::testing {
namespace {

class FrontTest : public CoreTest {
 protected:
  static std::shared_ptr<const Layout> two_side_by_side() {
    return make_layout({{0, 128, 128, false}, {128, 256, 256, false}});
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
  Pool pool(two_side_by_side(), 1);
  const BeginResult run = pool.begin();
  void* first = allocate(128);
  void* second = allocate(256);
  release(first);
  release(first);
  release(second);
  EXPECT_EQ(Pool::end(run.token).served, 2u);
  expected_bad_frees_ = 1;
}

TEST_F(FrontTest, APointerIntoABlockIsCountedAndTheBlockStaysAlive) {
  Pool pool(two_side_by_side(), 1);
  const BeginResult run = pool.begin();
  auto* block = static_cast<std::byte*>(allocate(128));
  for (int offset : {1, 8, 64, 127}) release(block + offset);
  release(block);
  Pool::end(run.token);
  expected_bad_frees_ = 4;
}

TEST_F(FrontTest, AnAddressThatIsNoPlaceOrInNoArenaIsCounted) {
  Pool pool(two_side_by_side(), 1);
  const BeginResult run = pool.begin();
  auto* block = static_cast<std::byte*>(allocate(128));
  release(block + AddressRange::kGranuleBytes - 64);            // in the arena's granule, behind the arena
  release(block + 128);                                         // a place where nothing lives
  release(block + g_range.reserved_bytes() / 2 / 4096 * 4096);  // a granule of no arena
  release(block);
  Pool::end(run.token);
  expected_bad_frees_ = 3;
}

TEST_F(FrontTest, ABadFreeOfAnArenaThatIsGoneIsCounted) {
  void* block = nullptr;
  {
    Pool pool(two_side_by_side(), 1);
    const BeginResult run = pool.begin();
    block = allocate(128);
    release(block);
    Pool::end(run.token);
  }
  release(block);
  expected_bad_frees_ = 1;
}

TEST_F(FrontTest, BadFreesAreCountedUnderPoisonAndProfilerToo) {
  Pool pool(two_side_by_side(), 1, ArenaOptions{true, false, false});
  std::vector<int64_t> reported;
  CountingUpstream::reported_bytes = &reported;
  CountingUpstream::is_profiling = true;
  const BeginResult run = pool.begin();
  auto* block = static_cast<std::byte*>(allocate(128));
  release(block + 64);
  release(block);
  release(block);
  Pool::end(run.token);
  CountingUpstream::is_profiling = false;
  CountingUpstream::reported_bytes = nullptr;
  EXPECT_EQ(reported, (std::vector<int64_t>{128, -128}));
  expected_bad_frees_ = 2;
}

// --- Poison

TEST_F(FrontTest, PoisonOverwritesABlockAsItIsGivenBackAndNothingElse) {
  Pool pool(two_side_by_side(), 1, ArenaOptions{true, false, false});
  const BeginResult run = pool.begin();
  auto* first = static_cast<unsigned char*>(allocate(128));
  auto* second = static_cast<unsigned char*>(allocate(256));
  std::memset(first, 1, 128);
  Pattern(2).write(second, 256);
  release(first);
  for (int i = 0; i < 128; ++i) EXPECT_EQ(first[i], 0xEF);
  EXPECT_TRUE(Pattern(2).holds(second, 256));
  Pool::end(run.token);
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
  Pool pool(two_side_by_side(), 1);
  const BeginResult run = pool.begin();
  void* first = allocate(100);
  void* second = allocate(256);
  release(first);
  Pool::end(run.token);
  release(second);  // after the run
  // What was asked for, not what the slots hold.
  EXPECT_EQ(reported_, (std::vector<int64_t>{100, 256, -100, -256}));
}

TEST_F(ProfilerTest, HearsNothingOfBlocksThatUpstreamReports) {
  CountingUpstream::is_profiling = true;
  Pool pool(two_side_by_side(), 1);
  const BeginResult run = pool.begin();
  release(allocate(4096));
  Pool::end(run.token);
  EXPECT_EQ(reported_, (std::vector<int64_t>{}));
}

TEST_F(ProfilerTest, HearsNothingOfTheEndOfABlockWhoseBeginningItMissed) {
  Pool pool(two_side_by_side(), 1);
  void* missed = nullptr;
  for (const bool listens : {true, false, true}) {
    CountingUpstream::is_profiling = listens;
    const BeginResult run = pool.begin();
    void* block = allocate(128);
    if (!listens) missed = block;
    if (listens) release(block);
    Pool::end(run.token);
  }
  release(missed);
  EXPECT_EQ(reported_, (std::vector<int64_t>{128, -128}));
}

TEST_F(ProfilerTest, OneThatListensNoMoreHearsNothing) {
  Pool pool(two_side_by_side(), 1);
  for (const bool listens : {true, false}) {
    CountingUpstream::is_profiling = listens;
    const BeginResult run = pool.begin();
    release(allocate(128));
    Pool::end(run.token);
  }
  EXPECT_EQ(reported_, (std::vector<int64_t>{128, -128}));
}

// --- Threads

TEST_F(FrontTest, ABlockMayBeGivenBackOnAnyThreadDuringAndAfterTheRun) {
  Pool pool(two_side_by_side(), 1);
  for (int i = 0; i < 3; ++i) {
    const BeginResult run = pool.begin();
    void* first = allocate(128);
    void* second = allocate(256);
    std::thread([first] { release(first); }).join();
    const RunCounts counts = Pool::end(run.token);
    EXPECT_EQ(counts.served, 2u);
    std::thread([second] { release(second); }).join();
  }
}

TEST_F(FrontTest, OtherThreadsPassThroughDuringARun) {
  Pool pool(two_side_by_side(), 1);
  const BeginResult run = pool.begin();
  std::thread([] {
    void* block = allocate(128);
    EXPECT_FALSE(g_range.contains(block));
    release(block);
  }).join();
  release(allocate(128));
  release(allocate(256));
  EXPECT_EQ(Pool::end(run.token).served, 2u);
}

// --- Memory goes back to the system

TEST_F(FrontTest, AnArenaIsUnmappedWithItsPoolIfNothingUsesIt) {
  auto pool = std::make_unique<Pool>(two_side_by_side(), 1);
  const BeginResult run = pool->begin();
  void* block = allocate(128);
  release(block);
  Pool::end(run.token);
  EXPECT_EQ(protection_of(block), "rw-p");
  pool.reset();
  EXPECT_EQ(protection_of(block), "---p");
}

TEST_F(FrontTest, AnArenaStaysMappedUntilTheLastBlockOfADeadPoolGoes) {
  auto pool = std::make_unique<Pool>(two_side_by_side(), 1);
  const BeginResult run = pool->begin();
  void* first = allocate(128);
  void* second = allocate(256);
  Pattern(1).write(first, 128);
  Pattern(2).write(second, 256);
  Pool::end(run.token);
  pool.reset();
  release(second);
  EXPECT_EQ(protection_of(first), "rw-p");
  EXPECT_TRUE(Pattern(1).holds(first, 128));
  std::thread([first] { release(first); }).join();
  EXPECT_EQ(protection_of(first), "---p");
}

TEST_F(FrontTest, AnArenaStaysMappedUntilTheRunOfADeadPoolEnds) {
  void* block = nullptr;
  std::thread([&block] {
    Pool pool(two_side_by_side(), 1);
    EXPECT_EQ(pool.begin().outcome, Begin::kStarted);
    block = allocate(128);
    release(block);
    EXPECT_EQ(protection_of(block), "rw-p");
    // The pool goes here, the run with the thread.
  }).join();
  EXPECT_EQ(protection_of(block), "---p");
}

}  // namespace
}  // namespace memomalloc::testing
