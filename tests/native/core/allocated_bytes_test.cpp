// The count of allocated bytes: the table behind it, against a reference; and the front while it counts. What
// counts does so for good, so that the tests of the front are child processes.
#include "core/allocated_bytes.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "child_process.hpp"
#include "core/recorded_block.hpp"
#include "core/recording.hpp"
#include "core_fixture.hpp"
#include "interposed_calls.hpp"
#include "random.hpp"

namespace memomalloc::testing {

namespace {

using Counts = AllocatedBytes::Counts;

// The address of no block at all; 0 is a null pointer.
const void* address_of(uint64_t number) { return reinterpret_cast<const void*>(number * 64); }

// --- The table

class AllocatedBytesTest : public ::testing::Test {
 protected:
  void add(uint64_t number, std::size_t bytes) { counted_.add(address_of(number), bytes); }
  void remove(uint64_t number) { counted_.remove(address_of(number)); }
  void expect(uint64_t live, uint64_t peak) {
    const Counts counts = counted_.counts();
    EXPECT_EQ(counts.live, live);
    EXPECT_EQ(counts.peak, peak);
  }

  AllocatedBytes& counted_ = one_more();

 private:
  // Never destroyed, as the real one; LeakSanitizer finds all of them here.
  static AllocatedBytes& one_more() {
    static auto* all = new std::deque<AllocatedBytes>;
    return all->emplace_back();
  }
};

TEST_F(AllocatedBytesTest, CountsWhatLivesAndTheMostThereWas) {
  expect(0, 0);
  add(1, 100);
  add(2, 50);
  remove(1);
  add(3, 20);
  expect(70, 150);
  remove(2);
  remove(3);
  expect(0, 150);
}

TEST_F(AllocatedBytesTest, APeakThatIsResetIsWhatLives) {
  add(1, 100);
  add(2, 50);
  remove(1);
  counted_.reset_peak();
  expect(50, 50);
  remove(2);
  expect(0, 50);
  counted_.reset_peak();
  expect(0, 0);
}

TEST_F(AllocatedBytesTest, IgnoresFreesOfWhatWasNotCounted) {
  remove(1);
  add(2, 10);
  remove(3);
  remove(2);
  remove(2);
  expect(0, 10);
}

TEST_F(AllocatedBytesTest, IgnoresNullPointers) {
  add(0, 10);
  add(1, 10);
  remove(0);
  expect(10, 10);
}

TEST_F(AllocatedBytesTest, CountsAnAddressThatComesAgainOnce) {
  add(1, 100);
  add(1, 30);
  expect(30, 100);
  remove(1);
  expect(0, 100);
}

TEST_F(AllocatedBytesTest, AgreesWithAReferenceWhateverComesAndGoes) {
  Random random(1);
  std::unordered_map<uint64_t, std::size_t> reference;
  uint64_t live = 0;
  uint64_t peak = 0;
  for (int step = 0; step < 200000; ++step) {
    // Fewer and more by turns: the table grows, is nearly emptied, and fills again.
    const uint64_t num_addresses = (step / 20000) % 2 == 0 ? 20000 : 50;
    const uint64_t number = 1 + random.below(num_addresses);
    const auto entry = reference.find(number);
    if (entry != reference.end()) {
      live -= entry->second;
      remove(number);
      reference.erase(entry);
    } else if (random.chance(0.7)) {
      const std::size_t bytes = random.between(1, 1 << 20);
      reference.emplace(number, bytes);
      live += bytes;
      peak = std::max(peak, live);
      add(number, bytes);
    } else {
      remove(number);
    }
    if (step % 1000 == 0) expect(live, peak);
    if (step % 30000 == 0) {
      counted_.reset_peak();
      peak = live;
    }
  }
  for (const auto& [number, bytes] : reference) remove(number);
  expect(0, peak);
}

TEST_F(AllocatedBytesTest, WithoutMemoryForTheTableABlockIsNotCountedAndNothingElseIsWrong) {
  if (MEMOMALLOC_TEST_IS_SANITIZED) GTEST_SKIP() << "a sanitizer has a nothrow new of its own";
  constexpr uint64_t kNumBlocks = 5000;
  {
    const FailingNew failing(0);
    add(1, 1);
  }
  expect(0, 0);
  remove(1);
  for (uint64_t number = 1; number <= 100; ++number) add(number, 1);
  {
    const FailingNew failing(0);
    for (uint64_t number = 101; number <= kNumBlocks; ++number) add(number, 1);
  }
  const uint64_t live = counted_.counts().live;
  EXPECT_GT(live, 100u);  // there was room
  EXPECT_LT(live, kNumBlocks);
  for (uint64_t number = kNumBlocks; number > 0; --number) remove(number);
  expect(0, live);
}

TEST_F(AllocatedBytesTest, IsExactOverThreadsThatFreeEachOthersBlocks) {
  constexpr uint64_t kNumThreads = 4;
  constexpr uint64_t kNumBlocks = 256;  // of each thread
  constexpr int kRounds = 50;
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) {
      const Counts counts = counted_.counts();
      EXPECT_GE(counts.peak, counts.live);
      EXPECT_LE(counts.peak, kNumThreads * kNumBlocks * 10);
      counted_.reset_peak();
    }
  });
  const auto on_all_threads = [](const auto& work) {
    std::vector<std::thread> threads;
    for (uint64_t thread = 0; thread < kNumThreads; ++thread) threads.emplace_back(work, thread);
    for (std::thread& thread : threads) thread.join();
  };
  for (int round = 0; round < kRounds; ++round) {
    on_all_threads([&](uint64_t thread) {
      for (uint64_t i = 0; i < kNumBlocks; ++i) add(1 + thread * kNumBlocks + i, 10);
    });
    EXPECT_EQ(counted_.counts().live, kNumThreads * kNumBlocks * 10);
    on_all_threads([&](uint64_t thread) {
      for (uint64_t i = 0; i < kNumBlocks; ++i) remove(1 + i * kNumThreads + thread);
    });
    EXPECT_EQ(counted_.counts().live, 0u);
  }
  stop = true;
  reader.join();
}

// --- The front while it counts

class CountingFrontTest : public CoreTest {
 protected:
  static constexpr std::size_t kLarge = std::size_t{1} << 20;

  static uint64_t live() { return g_allocated_bytes.counts().live; }
  static bool counts_are(uint64_t live, uint64_t peak) {
    const Counts counts = g_allocated_bytes.counts();
    return counts.live == live && counts.peak == peak;
  }
};

TEST_F(CountingFrontTest, CountsNothingUntilItIsToldTo) {
  void* block = allocate(100);
  release(allocate(200));
  EXPECT_TRUE(counts_are(0, 0));
  EXPECT_EQ(outcome_of_child([block] {
              reset_peak_allocated_bytes();
              void* counted = allocate(300);
              release(block);  // it lived before
              if (!counts_are(300, 300)) return 1;
              release(counted);
              return counts_are(0, 300) ? 0 : 2;
            }),
            0);
  release(block);
}

TEST_F(CountingFrontTest, CountsBlocksOfEveryKindByWhatWasAskedFor) {
  EXPECT_EQ(outcome_of_child([] {
              reset_peak_allocated_bytes();
              // A slot, an output, and what no plan foresees: small and large.
              Armed plan(make_layout({{0, 128, 64, false}, {128, 128, 64, true}}), 1);
              const BeginResult run = plan.begin();
              std::vector<void*> blocks;
              for (const std::size_t bytes : {std::size_t{100}, std::size_t{70}, std::size_t{5}, kLarge + 1})
                blocks.push_back(allocate(bytes));
              if (live() != 100 + 70 + 5 + kLarge + 1) return 1;
              const RunCounts run_counts = ArmedPlan::end(run.token);
              if (run_counts.served != 2 || run_counts.num_upstream() != 2) return 2;
              blocks.push_back(allocate(9));  // without a run
              if (!g_range.contains(blocks[3]) || g_range.contains(blocks[4])) return 3;
              const auto recording = Recording::open();
              blocks.push_back(allocate(kMinRecordedBlockBytes + 3));
              recording->close();
              const uint64_t all = 100 + 70 + 5 + kLarge + 1 + 9 + kMinRecordedBlockBytes + 3;
              if (!counts_are(all, all)) return 4;
              for (void* block : blocks) release(block);
              return counts_are(0, all) ? 0 : 5;
            }),
            0);
}

TEST_F(CountingFrontTest, CountsWhatIsTakenInARunThatBeganBefore) {
  EXPECT_EQ(outcome_of_child([] {
              Armed plan(make_layout({{0, 128, 128, false}, {128, 256, 256, false}}), 1);
              const BeginResult run = plan.begin();
              void* first = allocate(128);
              reset_peak_allocated_bytes();
              void* second = allocate(256);
              release(first);
              if (ArmedPlan::end(run.token).served != 2) return 1;
              if (!counts_are(256, 256)) return 2;
              release(second);
              return counts_are(0, 256) ? 0 : 3;
            }),
            0);
}

TEST_F(CountingFrontTest, ARecordingSeesTheSameAsWithoutACount) {
  EXPECT_EQ(outcome_of_child([] {
              reset_peak_allocated_bytes();
              if (Recording::any_open()) return 1;
              const auto recording = Recording::open();
              release(allocate(100));
              void* kept = allocate(200);
              recording->close();
              release(kept);
              const RecordedBuffers buffers = recording->buffers();
              if (buffers.sizes != std::vector<uint64_t>{100, 200}) return 2;
              if (buffers.ends != std::vector<int64_t>{1, RecordedBuffers::kAlive}) return 3;
              return counts_are(0, 200) && !Recording::any_open() ? 0 : 4;
            }),
            0);
}

TEST_F(CountingFrontTest, WhatUpstreamRefusesAndBadFreesCountNothing) {
  EXPECT_EQ(outcome_of_child([] {
              reset_peak_allocated_bytes();
              try {
                allocate(SIZE_MAX);
                return 1;
              } catch (const std::bad_alloc&) {
              }
              Armed plan(make_layout({{0, 128, 128, false}}), 1);
              const BeginResult run = plan.begin();
              auto* block = static_cast<std::byte*>(allocate(128));
              release(block + 64);
              if (live() != 128) return 2;
              release(block);
              release(block);
              ArmedPlan::end(run.token);
              return counts_are(0, 128) ? 0 : 3;
            }),
            0);
}

TEST_F(CountingFrontTest, CountsOverThreads) {
  if (MEMOMALLOC_TEST_IS_SANITIZED) GTEST_SKIP() << "ThreadSanitizer allows no threads in a forked child";
  EXPECT_EQ(outcome_of_child([] {
              reset_peak_allocated_bytes();
              void* here = allocate(100);
              void* there = nullptr;
              std::thread([&] {
                there = allocate(50);
                release(here);
              }).join();
              if (!counts_are(50, 150)) return 1;
              release(there);
              return live() == 0 ? 0 : 2;
            }),
            0);
}

TEST_F(CountingFrontTest, AForkedChildCountsOn) {
  EXPECT_EQ(outcome_of_child([] {
              reset_peak_allocated_bytes();
              void* block = allocate(100);
              const int child = outcome_of_child([block] {
                release(allocate(50));
                if (!counts_are(100, 150)) return 1;
                release(block);
                return counts_are(0, 150) ? 0 : 2;
              });
              if (child != 0) return child;
              if (!counts_are(100, 100)) return 3;
              release(block);
              return live() == 0 ? 0 : 4;
            }),
            0);
}

TEST_F(CountingFrontTest, WhileOtherThreadsAllocateAForkLeavesNoLockLocked) {
  if (MEMOMALLOC_TEST_IS_SANITIZED) GTEST_SKIP() << "ThreadSanitizer allows no threads in a forked child";
  EXPECT_EQ(outcome_of_child([] {
              reset_peak_allocated_bytes();
              std::atomic<bool> stop{false};
              std::vector<std::thread> threads;
              for (int i = 0; i < 2; ++i) {
                threads.emplace_back([&stop] {
                  while (!stop) release(allocate(64));
                });
              }
              int outcome = 0;
              for (int i = 0; i < 50 && outcome == 0; ++i) {
                outcome = outcome_of_child([] {
                  alarm(20);  // a dead lock would hang
                  for (int block = 0; block < 1000; ++block) release(allocate(64));
                  return live() <= 2 * 64 ? 0 : 1;
                });
              }
              stop = true;
              for (std::thread& thread : threads) thread.join();
              return outcome != 0 || live() == 0 ? outcome : 2;
            }),
            0);
}

}  // namespace
}  // namespace memomalloc::testing
