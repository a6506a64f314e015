// Requests that no plan foresees: the large ones come from memory of the process that is free.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "core/process_memory.hpp"
#include "core/recording.hpp"
#include "core_fixture.hpp"
#include "live_blocks.hpp"
#include "other_thread.hpp"
#include "random.hpp"
#include "residency.hpp"

namespace memomalloc::testing {
namespace {

constexpr std::size_t kLarge = std::size_t{256} << 10;
constexpr std::size_t kSmall = std::size_t{64} << 10;

// Runs without a plan.
class Unplanned : public Armed {
 public:
  explicit Unplanned(bool poison = false)
      : Armed(make_layout({}), ReplayOptions{poison, false, false, UINT32_MAX, true}) {}
};

class SpareMemoryTest : public CoreTest {
 protected:
  void SetUp() override {
    CoreTest::SetUp();
    release_pages();  // of threads of earlier tests
    used_before_ = memory_use().used_bytes;
  }
  void TearDown() override {
    set_memory_limit(UINT64_MAX);
    CoreTest::TearDown();
  }
  uint64_t used_bytes() const { return memory_use().used_bytes - used_before_; }

  static std::shared_ptr<const Layout> a_block(std::size_t bytes) {
    return make_layout({{0, bytes, bytes, false}});
  }
  static void run(Armed& plan, std::size_t bytes) {
    const BeginResult run = plan.begin();
    release(allocate(bytes));
    ArmedPlan::end(run.token);
  }

 private:
  uint64_t used_before_ = 0;
};

TEST_F(SpareMemoryTest, ServesLargeRequestsOfRunsWithoutAPlanAgainAndAgain) {
  Unplanned unplanned;
  const BeginResult run = unplanned.begin();
  ASSERT_EQ(run.outcome, Begin::kStarted);
  void* first = allocate(kLarge);
  void* second = allocate(kLarge);
  EXPECT_TRUE(g_range.contains(first));
  EXPECT_NE(first, second);
  release(first);
  EXPECT_EQ(allocate(kLarge - 64), first);
  release(first);
  release(second);
  EXPECT_EQ(used_bytes(), 2 * kLarge);
  void* small = allocate(kSmall);
  EXPECT_FALSE(g_range.contains(small));
  release(small);
  EXPECT_EQ(ArmedPlan::end(run.token).num_upstream(), 4u) << "no plan served them";
}

TEST_F(SpareMemoryTest, ServesWhatAPlanDoesNotForesee) {
  Armed plan(a_block(128), 1);
  const BeginResult run = plan.begin();
  release(allocate(128));
  void* extra = allocate(kLarge);
  EXPECT_TRUE(g_range.contains(extra));
  const RunCounts counts = ArmedPlan::end(run.token);
  EXPECT_EQ(counts.served, 1u);
  EXPECT_EQ(upstream_because(counts, Deviation::kExtra), 1u);
  Pattern(1).write(extra, kLarge);
  this->run(plan, 128);
  EXPECT_TRUE(Pattern(1).holds(extra, kLarge));
  release(extra);
}

TEST_F(SpareMemoryTest, ARunWithoutAPlanGivesWay) {
  Unplanned unplanned;
  Armed plan(a_block(128), 1);
  const BeginResult outer = unplanned.begin();
  EXPECT_FALSE(is_running_on_this_thread());
  void* kept = allocate(kLarge);
  Pattern(2).write(kept, kLarge);
  const BeginResult inner = plan.begin();
  ASSERT_EQ(inner.outcome, Begin::kStarted);
  EXPECT_TRUE(is_running_on_this_thread());
  EXPECT_EQ(unplanned.begin().outcome, Begin::kNested);
  release(allocate(128));
  EXPECT_EQ(ArmedPlan::end(outer.token).num_upstream(), 0u) << "it is over";
  EXPECT_EQ(ArmedPlan::end(inner.token).served, 1u);
  EXPECT_TRUE(Pattern(2).holds(kept, kLarge));
  std::thread([kept] { release(kept); }).join();
}

TEST_F(SpareMemoryTest, LiesInPlaceOfTheArenaNotBesideIt) {
  Unplanned unplanned;
  Armed plan(a_block(4 * kLarge), 1);
  for (int i = 0; i < 3; ++i) {
    run(plan, 4 * kLarge);
    EXPECT_EQ(used_bytes(), 4 * kLarge);
    run(unplanned, 2 * kLarge);
    EXPECT_EQ(used_bytes(), 2 * kLarge);
  }
}

TEST_F(SpareMemoryTest, LeavesAnArenaAloneThatIsMuchLarger) {
  Unplanned unplanned;
  Armed plan(a_block(64 * kLarge), 1);
  run(plan, 64 * kLarge);
  run(unplanned, kLarge);
  EXPECT_EQ(used_bytes(), 65 * kLarge);
}

TEST_F(SpareMemoryTest, ABlockThatLivesKeepsItsBytesWhateverIsGivenUp) {
  Unplanned unplanned;
  Armed plan(a_block(4 * kLarge), 1);
  const BeginResult first = unplanned.begin();
  void* kept = allocate(kLarge);
  Pattern(3).write(kept, kLarge);
  ArmedPlan::end(first.token);
  for (int i = 0; i < 3; ++i) {
    run(plan, 4 * kLarge);
    run(unplanned, 2 * kLarge);
    release_home();
    EXPECT_TRUE(Pattern(3).holds(kept, kLarge));
  }
  release(kept);
  release_home();
  EXPECT_EQ(used_bytes(), 0u);
}

TEST_F(SpareMemoryTest, CostsNobodyTheirs) {
  Armed plan(a_block(4 * kLarge), 1);
  OtherThread other;
  other.run([&] { run(plan, 4 * kLarge); });
  set_memory_limit(memory_use().used_bytes + kLarge);
  const uint64_t num_evicted = memory_use().num_evicted;
  std::thread([&] {
    Armed small(a_block(128), 1);
    const BeginResult run = small.begin();
    void* block = allocate(2 * kLarge);
    EXPECT_FALSE(g_range.contains(block));
    release(block);
    ArmedPlan::end(run.token);
  }).join();
  EXPECT_GE(used_bytes(), 4 * kLarge);
  EXPECT_EQ(memory_use().num_evicted, num_evicted);
}

TEST_F(SpareMemoryTest, IsNotForPlansWithABudget) {
  Armed plan(a_block(128), ReplayOptions{}, std::make_shared<RunBudget>(1 << 20));
  const BeginResult run = plan.begin();
  void* block = allocate(kLarge);
  EXPECT_FALSE(g_range.contains(block));
  release(block);
  ArmedPlan::end(run.token);
}

TEST_F(SpareMemoryTest, IsPoisonedAsAllMemory) {
  Unplanned unplanned(true);
  const BeginResult run = unplanned.begin();
  auto* block = static_cast<unsigned char*>(allocate(kLarge));
  std::memset(block, 1, kLarge);
  release(block);
  EXPECT_EQ(block[0], 0xEF);
  EXPECT_EQ(block[kLarge - 1], 0xEF);
  ArmedPlan::end(run.token);
}

TEST_F(SpareMemoryTest, IsReportedToTheProfilerAsAllBlocks) {
  std::vector<int64_t> reported;
  CountingUpstream::is_profiling = true;
  CountingUpstream::reported_bytes = &reported;
  Unplanned unplanned;
  const BeginResult run = unplanned.begin();
  release(allocate(kLarge));
  ArmedPlan::end(run.token);
  CountingUpstream::is_profiling = false;
  CountingUpstream::reported_bytes = nullptr;
  EXPECT_EQ(reported, (std::vector<int64_t>{kLarge, -static_cast<int64_t>(kLarge)}));
}

TEST_F(SpareMemoryTest, ARunWithoutAPlanGivesWayToARecording) {
  Unplanned unplanned;
  const BeginResult run = unplanned.begin();
  const std::shared_ptr<Recording> recording = Recording::open();
  EXPECT_EQ(ArmedPlan::end(run.token).num_upstream(), 0u) << "it is over";
  void* block = allocate(kLarge);
  EXPECT_EQ(g_range.owner(block)->kind(), Owner::Kind::kRecordedBlocks);
  release(block);
  recording->close();
  EXPECT_EQ(recording->buffers().sizes, (std::vector<uint64_t>{kLarge}));
  EXPECT_EQ(recording->buffers().ends, (std::vector<int64_t>{1}));
}

// Threads that run with and without plans, hold blocks and give each other's back, while idle pages go.
TEST_F(SpareMemoryTest, NoTwoLiveBlocksShareAByteWhateverRuns) {
  struct Held {
    void* block;
    std::size_t bytes;
    uint64_t id;
  };
  Unplanned unplanned;
  Armed plan(make_layout({{0, 2 * kLarge, 64, false}, {2 * kLarge, kLarge, 64, true}}), ReplayOptions{});
  std::mutex mutex;
  std::vector<Held> held;
  std::atomic<uint64_t> num_blocks{0};
  std::atomic<bool> stop{false};
  const auto let_go_of_one = [&](Random& random) {
    Held one{};
    {
      const std::lock_guard<std::mutex> guard(mutex);
      if (held.empty()) return;
      std::swap(held[random.below(held.size())], held.back());
      one = held.back();
      held.pop_back();
    }
    EXPECT_TRUE(Pattern(one.id).holds(one.block, one.bytes));
    release(one.block);
  };
  const auto work = [&](uint64_t seed) {
    Random random(seed);
    for (int i = 0; i < 120; ++i) {
      const BeginResult run = (random.chance(0.5) ? static_cast<Armed&>(unplanned) : plan).begin();
      for (uint32_t j = random.between(1, 5); j != 0; --j) {
        const std::size_t bytes = kSmall * random.between(1, 12);
        const Held one{allocate(bytes), bytes, ++num_blocks};
        Pattern(one.id).write(one.block, bytes);
        const std::lock_guard<std::mutex> guard(mutex);
        held.push_back(one);
      }
      for (uint32_t j = random.between(1, 5); j != 0; --j) let_go_of_one(random);
      ArmedPlan::end(run.token);
    }
  };
  std::thread releasing([&] {
    while (!stop) release_pages();
  });
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 3; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();
  stop = true;
  releasing.join();
  Random random(0);
  while (!held.empty()) let_go_of_one(random);
  release_pages();
  EXPECT_EQ(used_bytes(), 0u);
}

}  // namespace
}  // namespace memomalloc::testing
