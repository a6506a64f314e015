// Many threads on one plan and on several: blocks change hands, are written, checked and freed by others,
// during the run and after it; threads end with their run open; plans go while they are in use.
// ThreadSanitizer, where it watches, sees every byte of every block: two live blocks on one byte are a data
// race.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "core/process_memory.hpp"
#include "core/recording.hpp"
#include "core_fixture.hpp"
#include "live_blocks.hpp"
#include "random.hpp"
#include "random_plan.hpp"

namespace memomalloc::testing {
namespace {

// A block with its content: whoever holds it checks it, and may write it anew.
class CheckedBlock {
 public:
  static CheckedBlock allocate(std::size_t bytes) {
    CheckedBlock block(memomalloc::allocate(bytes), bytes);
    block.write();
    return block;
  }

  void check_and_write() {
    check();
    write();
  }
  void check_and_release() {
    check();
    memomalloc::release(data_);
  }
  bool is_planned() const { return g_range.contains(data_); }

 private:
  CheckedBlock(void* data, std::size_t bytes) : data_(data), bytes_(bytes) {}

  void write() {
    pattern_ = next_pattern_.fetch_add(1, std::memory_order_relaxed);
    Pattern(pattern_).write(data_, bytes_);
  }
  void check() const {
    EXPECT_TRUE(Pattern(pattern_).holds(data_, bytes_)) << "someone wrote into a live block";
  }

  inline static std::atomic<uint64_t> next_pattern_{1};
  void* data_;
  std::size_t bytes_;
  uint64_t pattern_ = 0;
};

// Where threads leave blocks for each other.
class Exchange {
 public:
  void put(const CheckedBlock& block) {
    const std::lock_guard<std::mutex> guard(mutex_);
    blocks_.push_back(block);
  }

  std::optional<CheckedBlock> take(Random& random) {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (blocks_.empty()) return std::nullopt;
    std::swap(blocks_[random.below(blocks_.size())], blocks_.back());
    const CheckedBlock block = blocks_.back();
    blocks_.pop_back();
    return block;
  }

 private:
  std::mutex mutex_;
  std::vector<CheckedBlock> blocks_;
};

// Pools that any thread may replace while others run on them. A plan goes with its last user.
class SharedPlans {
 public:
  explicit SharedPlans(std::size_t num_plans) : armed_(num_plans), plans_(num_plans) {
    Random random(1);
    for (std::size_t i = 0; i < num_plans; ++i) replace(i, random);
  }

  void replace(std::size_t i, Random& random) {
    RandomPlan plan = random_plan(random);
    const auto layout = std::make_shared<const Layout>(plan.buffers, plan.arena_bytes);
    auto armed = std::make_shared<Armed>(layout, ReplayOptions{random.chance(0.5), false, false, 3});
    const std::lock_guard<std::mutex> guard(mutex_);
    armed_[i].swap(armed);
    plans_[i] = std::move(plan);
  }

  std::pair<std::shared_ptr<Armed>, RandomPlan> get(std::size_t i) {
    const std::lock_guard<std::mutex> guard(mutex_);
    return {armed_[i], plans_[i]};
  }

  std::size_t size() const { return armed_.size(); }

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<Armed>> armed_;
  std::vector<RandomPlan> plans_;
};

class ThreadedTest : public CoreTest {
 protected:
  // One thread's part: runs that follow their plans more or less, and a lively exchange of blocks.
  void work(uint64_t seed, SharedPlans& plans, uint64_t num_runs, bool replaces_plans) {
    Random random(seed);
    RunToken left_open = 0;
    for (uint64_t i = 0; i < num_runs; ++i) {
      if (random.chance(0.5)) ArmedPlan::end(left_open);
      run_once(random, plans, left_open);
      if (replaces_plans && random.chance(0.1)) plans.replace(random.below(plans.size()), random);
      release_some(random, 3);
    }
  }

  void release_all() {
    Random random(0);
    while (auto block = exchange_.take(random)) block->check_and_release();
  }

  Exchange exchange_;
  std::atomic<uint64_t> num_planned_{0};
  std::atomic<uint64_t> num_requests_{0};

 private:
  void run_once(Random& random, SharedPlans& plans, RunToken& left_open) {
    auto [armed, plan] = plans.get(random.below(plans.size()));
    const BeginResult run = armed->begin();
    if (random.chance(0.5)) armed.reset();  // it may go while we run on it
    std::vector<std::pair<CheckedBlock, uint32_t>> mine;
    for (uint32_t k = 0; k < plan.buffers.size(); ++k) {
      for (std::size_t i = mine.size(); i-- > 0;) {
        if (mine[i].second > k) continue;
        dispose(random, mine[i].first);
        mine.erase(mine.begin() + static_cast<std::ptrdiff_t>(i));
      }
      if (random.chance(0.03)) continue;
      const std::size_t bytes = random.chance(0.97) ? plan.buffers[k].size : random.between(1, 700);
      mine.emplace_back(CheckedBlock::allocate(bytes), plan.ends[k]);
      ++num_requests_;
      if (mine.back().first.is_planned()) ++num_planned_;
      release_some(random, 1);
    }
    for (auto& [block, end] : mine) dispose(random, block);
    if (run.outcome != Begin::kStarted) return;
    // Some runs are left open: the next ones are nested in them, and the thread's exit ends the last.
    left_open = run.token;
    if (random.chance(0.9)) ArmedPlan::end(run.token);
  }

  void dispose(Random& random, CheckedBlock& block) {
    if (random.chance(0.3)) {
      exchange_.put(block);
    } else {
      block.check_and_release();
    }
  }

  // Blocks of others: written and put back, or freed.
  void release_some(Random& random, int at_most) {
    for (int i = 0; i < at_most; ++i) {
      auto block = exchange_.take(random);
      if (!block) return;
      if (random.chance(0.3)) {
        block->check_and_write();
        exchange_.put(*block);
      } else {
        block->check_and_release();
      }
    }
  }
};

TEST_F(ThreadedTest, ThreadsOnOnePlanHandBlocksToEachOther) {
  SharedPlans plans(1);
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    threads.emplace_back([&, seed] { work(seed, plans, 20'000, false); });
  }
  for (std::thread& thread : threads) thread.join();
  release_all();
  for (const RegionUse& use : regions_in_use()) EXPECT_FALSE(use.is_running);
  EXPECT_GT(num_planned_, num_requests_ / 4) << "hardly anything was replayed";
  EXPECT_GT(num_requests_, 500'000u) << "with their frees, a million steps";
}

TEST_F(ThreadedTest, ThreadsEndAndPlansGoWhileTheirBlocksLive) {
  SharedPlans plans(3);
  for (uint64_t generation = 0; generation < 100; ++generation) {
    std::vector<std::thread> threads;
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      threads.emplace_back([&, seed, generation] { work(generation * 16 + seed, plans, 30, true); });
    }
    for (std::thread& thread : threads) thread.join();
  }
  release_all();
  EXPECT_GT(num_planned_, num_requests_ / 4) << "hardly anything was replayed";
}

TEST_F(ThreadedTest, ALastBlockThatGoesAndAPlanThatIsLaidMayMeet) {
  // Whoever finds the region clear lays his plan over it while the thread that gave the last block back is
  // still in the middle of that: it must have read all that it needs.
  const auto small = make_layout({{0, 64, 64, false}});
  std::vector<PlannedBuffer> many(200, {0, 128, 128, false});
  for (uint64_t k = 0; k < many.size(); ++k) many[k].offset = k % 50 * 128;
  const auto large = make_layout(many);
  Armed plan(small);
  std::atomic<const CheckedBlock*> handed{nullptr};
  std::atomic<bool> stop{false};
  std::thread releasing([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      const CheckedBlock* block = handed.load(std::memory_order_acquire);
      if (block == nullptr) continue;
      CheckedBlock mine = *block;
      handed.store(nullptr, std::memory_order_release);
      mine.check_and_release();
    }
  });
  for (uint64_t i = 0; i < 5000; ++i) {
    auto another = std::make_unique<Armed>(i % 2 == 0 ? large : small);
    const BeginResult run = plan.begin();
    CheckedBlock block = CheckedBlock::allocate(64);
    ASSERT_TRUE(block.is_planned());
    ArmedPlan::end(run.token);
    handed.store(&block, std::memory_order_release);
    const BeginResult next = another->begin();
    ASSERT_EQ(next.outcome, Begin::kStarted);
    another.reset();
    CheckedBlock::allocate(i % 2 == 0 ? 128 : 64).check_and_release();
    ArmedPlan::end(next.token);
    while (handed.load(std::memory_order_acquire) != nullptr) std::this_thread::yield();
  }
  stop = true;
  releasing.join();
}

TEST_F(ThreadedTest, MemoryIsLimitedReleasedAndToldOfWhileThreadsRun) {
  SharedPlans plans(3);
  std::atomic<bool> stop{false};
  std::thread managing([&] {
    Random random(5);
    while (!stop) {
      set_memory_limit(random.chance(0.3) ? 4096 : UINT64_MAX);
      release_pages();
      regions_in_use();
    }
    set_memory_limit(UINT64_MAX);
  });
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    threads.emplace_back([&, seed] { work(seed, plans, 1500, true); });
  }
  for (std::thread& thread : threads) thread.join();
  stop = true;
  managing.join();
  release_all();
}

TEST_F(ThreadedTest, FreesOfManyThreadsMeetOneRecording) {
  const auto recording = Recording::open();
  std::vector<std::thread> threads;
  std::atomic<bool> stop{false};
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    threads.emplace_back([&, seed] {
      Random random(seed);
      while (!stop) {
        if (auto block = exchange_.take(random)) block->check_and_release();
        CheckedBlock::allocate(64).check_and_release();  // not recorded
      }
    });
  }
  for (uint64_t i = 0; i < 5000; ++i) exchange_.put(CheckedBlock::allocate(64));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  release_all();
  recording->close();
  const RecordedBuffers seen = recording->buffers();
  EXPECT_EQ(seen.sizes.size(), 5000);
  EXPECT_EQ(seen.num_ticks, 10'000);
  for (std::size_t i = 0; i < seen.sizes.size(); ++i) EXPECT_GT(seen.ends[i], seen.starts[i]);
}

}  // namespace
}  // namespace memomalloc::testing
