// Runs and the arenas they use: what is served, what is not and why, and who may begin and end when.
#include "core/pool.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "core_fixture.hpp"
#include "live_blocks.hpp"
#include "other_thread.hpp"

namespace memomalloc::testing {
namespace {

// Access to the one member that takes 2**32 runs to get where a test wants it. Explicit instantiation may
// name private members.
struct RunStamp {
  using Member = uint32_t Arena::*;
  friend Member member(RunStamp);
};
template <typename Tag, typename Tag::Member kMember>
struct Exposed {
  friend typename Tag::Member member(Tag) { return kMember; }
};
template struct Exposed<RunStamp, &Arena::run_stamp_>;

class PoolTest : public CoreTest {
 protected:
  // A run of requests of these sizes, each freed before the next.
  static RunCounts run(Pool& pool, const std::vector<std::size_t>& sizes) {
    const BeginResult begun = pool.begin();
    EXPECT_EQ(begun.outcome, Begin::kStarted);
    for (const std::size_t bytes : sizes) release(allocate(bytes));
    return Pool::end(begun.token);
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

TEST_F(PoolTest, ARunThatFollowsThePlanIsServedWhollyAtThePlannedOffsets) {
  Pool pool(make_layout({{0, 64, 64, false}, {64, 128, 128, false}, {0, 64, 64, false}}), 1);
  for (int i = 0; i < 3; ++i) {
    const BeginResult run = pool.begin();
    auto* first = static_cast<std::byte*>(allocate(64));
    auto* second = static_cast<std::byte*>(allocate(100));
    EXPECT_EQ(second - first, 64);
    release(first);
    EXPECT_EQ(allocate(1), first);
    release(first);
    release(second);
    expect(Pool::end(run.token), 3, 0);
  }
  EXPECT_EQ(pool.stats().num_runs, 3u);
  EXPECT_EQ(pool.stats().counts.served, 9u);
  EXPECT_EQ(pool.stats().num_arenas, 1u);
}

TEST_F(PoolTest, ASlotTakesSizesDownToItsSmallest) {
  Pool pool(make_layout({{0, 256, 128, false}}), 1);
  expect(run(pool, {256}), 1, 0);
  expect(run(pool, {65}), 1, 0);  // 128 when rounded up
  expect(run(pool, {64}), 0, 1, /*size=*/1);
  expect(run(pool, {257}), 0, 1, /*size=*/1);
}

TEST_F(PoolTest, AnAbsurdSizeFitsNoSlot) {
  Pool pool(make_layout({{0, 64, 64, false}}), 1);
  const BeginResult run = pool.begin();
  EXPECT_THROW(allocate(SIZE_MAX), std::bad_alloc);
  EXPECT_THROW(allocate(SIZE_MAX - 62), std::bad_alloc);
  expect(Pool::end(run.token), 0, 1, /*size=*/2);
}

TEST_F(PoolTest, AnEmptyPlanSendsEverythingUpstream) {
  Pool pool(std::make_shared<const Layout>(std::vector<PlannedBuffer>{}, 0, 0), 1);
  expect(run(pool, {64, 64}), 0, 0, 0, /*extra=*/2);
}

// --- Every reason to deviate

TEST_F(PoolTest, CountsAWrongSize) {
  Pool pool(three_in_a_row(), 1);
  expect(run(pool, {64, 4096, 128, 192}), 3, 0, /*size=*/1);
}

TEST_F(PoolTest, CountsAnExtraRequest) {
  Pool pool(three_in_a_row(), 1);
  expect(run(pool, {64, 128, 192, 64, 64}), 3, 0, 0, /*extra=*/2);
}

TEST_F(PoolTest, CountsMissingRequests) {
  Pool pool(three_in_a_row(), 1);
  expect(run(pool, {64}), 1, 2);
  expect(run(pool, {}), 0, 3);
}

TEST_F(PoolTest, ALateFreeMakesItsSuccessorOccupiedAndTheNextBlocked) {
  Pool pool(three_in_a_row(), 1);
  const BeginResult run = pool.begin();
  void* late = allocate(64);
  void* second = allocate(128);  // occupied by the first
  release(late);
  void* third = allocate(192);  // the place is free by now, but the second was refused: nobody knows for sure
  release(second);
  release(third);
  expect(Pool::end(run.token), 1, 0, 0, 0, /*occupied=*/1, /*blocked=*/1);
  expect(PoolTest::run(pool, {64, 128, 192}), 3, 0);  // recovered
}

TEST_F(PoolTest, ATensorKeptFromAnEarlierRunBlocksWhatItLiesOn) {
  Pool pool(
      make_layout({{0, 64, 64, false}, {0, 128, 128, false}, {128, 64, 64, false}, {128, 64, 64, false}}), 1);
  const BeginResult first = pool.begin();
  void* kept = allocate(64);
  Pattern(1).write(kept, 64);
  Pool::end(first.token);
  for (int i = 0; i < 3; ++i) {
    expect(run(pool, {64, 128, 64, 64}), 2, 0, 0, 0, 0, /*blocked=*/2);
    EXPECT_TRUE(Pattern(1).holds(kept, 64));
  }
  release(kept);
  expect(run(pool, {64, 128, 64, 64}), 4, 0);
}

// --- Resynchronisation

TEST_F(PoolTest, ASkippedRequestIsPassedOver) {
  Pool pool(three_in_a_row(), 1);
  expect(run(pool, {128, 192}), 2, 1);
  expect(run(pool, {64, 192}), 2, 1);
  expect(run(pool, {192}), 1, 2);
}

TEST_F(PoolTest, AReorderedRequestFindsItsSlotAndTheOneItOvertookIsLost) {
  Pool pool(three_in_a_row(), 1);
  expect(run(pool, {128, 64, 192}), 2, 1, /*size=*/1);
}

TEST_F(PoolTest, ASkippedSlotWhoseBytesAreOccupiedStandsForTheirOccupant) {
  // The first lies under the second's upper half, which the third does not touch. Only through the skipped
  // second, evaluated as it is passed, does the fourth learn that the first is still there.
  Pool pool(make_layout({{64, 64, 64, false}, {0, 128, 128, false}, {0, 192, 192, false}}), 1);
  const BeginResult run = pool.begin();
  void* first = allocate(64);
  void* third = allocate(192);  // skips the second
  EXPECT_FALSE(g_range.contains(third));
  release(first);
  release(third);
  expect(Pool::end(run.token), 1, 1, 0, 0, 0, /*blocked=*/1);
}

TEST_F(PoolTest, LooksFurtherAheadWithEveryMissInARow) {
  std::vector<PlannedBuffer> buffers(400, {0, 64, 64, false});
  buffers[300] = {0, 128, 128, false};
  Pool pool(make_layout(buffers), 1);
  const BeginResult begun = pool.begin();
  int num_misses = 0;
  for (;; ++num_misses) {
    void* block = allocate(128);
    const bool is_served = g_range.contains(block);
    release(block);
    if (is_served) break;
  }
  EXPECT_EQ(num_misses, 7);  // 4, 8, 16 ... 256 slots ahead, then 512
  const RunCounts counts = Pool::end(begun.token);
  expect(counts, 1, 399, /*size=*/7);
}

TEST_F(PoolTest, AServedRequestMakesItLookAheadALittleOnly) {
  std::vector<PlannedBuffer> buffers(20, {0, 64, 64, false});
  buffers[10] = {0, 128, 128, false};
  Pool pool(make_layout(buffers), 1);
  // Each miss is followed by a hit: the slot 10 ahead is never in the window of 4 before it is near.
  expect(run(pool, {128, 64, 128, 64, 128, 64}), 3, 17, /*size=*/3);
}

// --- Escapes and their spare places

TEST_F(PoolTest, AnOutputThatReplacesTheLastIsServedFromTheSecondRunOn) {
  // out = model(x) in a loop: the old output goes when the new one is there.
  Pool pool(make_layout({{0, 64, 64, false}, {64, 128, 128, true}, {0, 64, 64, false}}, 1), 1);
  void* output = nullptr;
  for (uint64_t i = 0; i < 10; ++i) {
    const BeginResult run = pool.begin();
    release(allocate(64));
    void* next = allocate(128);
    Pattern(i).write(next, 128);
    release(allocate(64));
    expect(Pool::end(run.token), 3, 0);
    if (output != nullptr) {
      EXPECT_TRUE(Pattern(i - 1).holds(output, 128));
      release(output);
    }
    output = next;
  }
  release(output);
}

TEST_F(PoolTest, WithoutSparePlacesAKeptOutputSendsTheNextUpstream) {
  Pool pool(make_layout({{0, 64, 64, false}, {64, 128, 128, true}, {0, 64, 64, false}}, 0), 1);
  const BeginResult first = pool.begin();
  release(allocate(64));
  void* kept = allocate(128);
  Pool::end(first.token);
  expect(run(pool, {64, 128, 64}), 2, 0, 0, 0, /*occupied=*/1);
  release(kept);
  expect(run(pool, {64, 128, 64}), 3, 0);
}

TEST_F(PoolTest, TwoHundredOutputsThatAreAllKeptStayIntact) {
  Pool pool(make_layout({{0, 64, 64, false}, {64, 128, 128, true}, {0, 64, 64, false}}, 3), 1);
  LiveBlocks live;
  std::vector<void*> outputs;
  for (uint64_t i = 0; i < 200; ++i) {
    const BeginResult run = pool.begin();
    release(allocate(64));
    outputs.push_back(allocate(128));
    ASSERT_TRUE(live.add(reinterpret_cast<uintptr_t>(outputs.back()), 128));
    Pattern(i).write(outputs.back(), 128);
    release(allocate(64));
    const RunCounts counts = Pool::end(run.token);
    EXPECT_EQ(counts.num_upstream(), i < 4 ? 0u : 1u);  // its own place and three spare ones
    EXPECT_EQ(counts.kept, counts.num_upstream());
  }
  for (uint64_t i = 0; i < 200; ++i) {
    EXPECT_TRUE(Pattern(i).holds(outputs[i], 128));
    release(outputs[i]);
  }
  expect(run(pool, {64, 128, 64}), 3, 0);
}

// --- Stamps

TEST_F(PoolTest, StampsOfRunsMayWrapAround) {
  // Two pairs of slots, each at an address of its own. The second of a pair is refused where the first is
  // late.
  Pool pool(
      make_layout({{0, 64, 64, false}, {0, 128, 128, false}, {128, 192, 192, false}, {128, 256, 256, false}}),
      1);
  const auto run_with_late = [&pool](std::size_t late_bytes) {
    const BeginResult begun = pool.begin();
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
    return Pool::end(begun.token);
  };
  const BeginResult first = pool.begin();
  Arena* arena = t_state.running;
  Pool::end(first.token);
  expect(run_with_late(192), 3, 0, 0, 0, /*occupied=*/1);  // marks the fourth slot with stamp 2
  arena->*member(RunStamp()) = UINT32_MAX - 1;
  expect(run(pool, {64, 128, 192, 256}), 4, 0);           // 2**32 - 1
  expect(run(pool, {64, 128, 192, 256}), 4, 0);           // 1
  expect(run_with_late(64), 3, 0, 0, 0, /*occupied=*/1);  // 2 again: the fourth slot's old mark means nothing
}

// --- Beginning and ending

TEST_F(PoolTest, ARunInsideARunIsNestedAndThePlanOfTheOuterOneGoesOn) {
  Pool outer(three_in_a_row(), 1);
  Pool inner(three_in_a_row(), 1);
  const BeginResult run = outer.begin();
  release(allocate(64));
  EXPECT_EQ(inner.begin().outcome, Begin::kNested);
  EXPECT_EQ(outer.begin().outcome, Begin::kNested);
  release(allocate(128));
  release(allocate(192));
  expect(Pool::end(run.token), 3, 0);
  EXPECT_EQ(inner.stats().num_runs, 0u);
}

TEST_F(PoolTest, EachThreadRunsOnAnArenaOfItsOwn) {
  Pool pool(three_in_a_row(), 2);
  OtherThread other;
  const BeginResult here = pool.begin();
  void* mine = allocate(64);
  other.run([&] {
    const BeginResult there = pool.begin();
    void* theirs = allocate(64);
    EXPECT_NE(mine, theirs);
    EXPECT_TRUE(g_range.contains(theirs));
    EXPECT_EQ(pool.stats().num_arenas_in_use, 2u);
    std::thread([&] { EXPECT_EQ(pool.begin().outcome, Begin::kNoArena); }).join();
    release(theirs);
    Pool::end(there.token);
  });
  release(mine);
  Pool::end(here.token);
  EXPECT_EQ(pool.stats().num_arenas, 2u);
}

TEST_F(PoolTest, AThreadGetsTheArenaBackThatItUsedLast) {
  Pool pool(three_in_a_row(), 2);
  OtherThread other;
  Arena* mine = nullptr;
  Arena* theirs = nullptr;
  const BeginResult here = pool.begin();
  mine = t_state.running;
  other.run([&] {
    const BeginResult there = pool.begin();
    theirs = t_state.running;
    Pool::end(there.token);
  });
  Pool::end(here.token);
  for (int i = 0; i < 3; ++i) {
    other.run([&] {
      const BeginResult there = pool.begin();
      EXPECT_EQ(t_state.running, theirs);
      Pool::end(there.token);
    });
    const BeginResult run = pool.begin();
    EXPECT_EQ(t_state.running, mine);
    Pool::end(run.token);
  }
}

TEST_F(PoolTest, ATokenEndsItsOwnRunOnceAndNoOther) {
  Pool pool(three_in_a_row(), 1);
  const BeginResult first = pool.begin();
  release(allocate(64));
  expect(Pool::end(first.token), 1, 2);
  expect(Pool::end(first.token), 0, 0);
  const BeginResult second = pool.begin();
  EXPECT_NE(second.token, first.token);
  expect(Pool::end(first.token), 0, 0);
  expect(Pool::end(0), 0, 0);
  expect(Pool::end(UINT64_MAX), 0, 0);
  EXPECT_NE(t_state.running, nullptr);
  expect(Pool::end(second.token), 0, 3);
}

TEST_F(PoolTest, ARunEndedOnAnotherThreadEndsWhenItsOwnBeginsAnother) {
  Pool pool(three_in_a_row(), 1);
  const BeginResult first = pool.begin();
  release(allocate(64));
  std::thread([&] { expect(Pool::end(first.token), 0, 0); }).join();
  EXPECT_EQ(pool.stats().num_arenas_in_use, 1u);
  release(allocate(128));  // still served: its own thread has not looked yet
  const BeginResult second = pool.begin();
  EXPECT_EQ(second.outcome, Begin::kStarted);
  EXPECT_EQ(pool.stats().num_runs, 1u);
  EXPECT_EQ(pool.stats().counts.served, 2u);
  expect(Pool::end(second.token), 0, 3);
}

TEST_F(PoolTest, AThreadThatEndsGivesItsArenaBack) {
  Pool pool(three_in_a_row(), 1);
  void* kept = nullptr;
  std::thread([&] {
    EXPECT_EQ(pool.begin().outcome, Begin::kStarted);
    kept = allocate(64);
    Pattern(7).write(kept, 64);
  }).join();
  EXPECT_EQ(pool.stats().num_arenas_in_use, 0u);
  EXPECT_EQ(pool.stats().counts.served, 1u);
  expect(run(pool, {64, 128, 192}), 0, 0, 0, 0, 0, /*blocked=*/3);
  EXPECT_TRUE(Pattern(7).holds(kept, 64));
  release(kept);
  expect(run(pool, {64, 128, 192}), 3, 0);
}

TEST_F(PoolTest, AThreadThatHasNoArenaYetGetsOneInWhichNobodyKeepsAnOutput) {
  Pool pool(make_layout({{0, 128, 128, true}}, 1), 2);
  OtherThread other;
  const BeginResult here = pool.begin();
  Arena* mine = t_state.running;
  void* kept = allocate(128);
  other.run([&] {
    const BeginResult there = pool.begin();
    release(allocate(128));
    Pool::end(there.token);
  });
  Pool::end(here.token);
  std::thread([&] {
    const BeginResult run = pool.begin();
    EXPECT_NE(t_state.running, mine);
    Pool::end(run.token);
  }).join();
  release(kept);
  EXPECT_EQ(pool.stats().num_arenas, 2u);
}

// --- The end of a pool

TEST_F(PoolTest, ARunOutlivesItsPool) {
  auto pool = std::make_unique<Pool>(three_in_a_row(), 1);
  const BeginResult begun = pool->begin();
  void* first = allocate(64);
  pool.reset();
  release(first);
  void* second = allocate(128);
  EXPECT_EQ(second, first);
  release(second);
  expect(Pool::end(begun.token), 2, 1);
}

TEST_F(PoolTest, ArenasOfPoolsThatAreGoneAreRecycled) {
  const std::size_t num_before = Arena::all().size();
  std::set<RunToken> tokens;
  for (int i = 0; i < 50; ++i) {
    Pool pool(three_in_a_row(), 1);
    const BeginResult begun = pool.begin();
    EXPECT_TRUE(tokens.insert(begun.token).second) << "a token names one run for ever";
    release(allocate(64));
    Pool::end(begun.token);
  }
  EXPECT_LE(Arena::all().size(), num_before + 1);
}

}  // namespace
}  // namespace memomalloc::testing
