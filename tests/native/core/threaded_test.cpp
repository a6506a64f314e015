// Many threads on one pool and on several: blocks change hands, are written, checked and freed by others,
// during the run and after it; threads end with their run open; pools go while they are in use.
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

// Pools that any thread may replace while others run on them. A pool goes with its last user.
class SharedPools {
 public:
  explicit SharedPools(std::size_t num_pools) : pools_(num_pools), plans_(num_pools) {
    Random random(1);
    for (std::size_t i = 0; i < num_pools; ++i) replace(i, random);
  }

  void replace(std::size_t i, Random& random) {
    RandomPlan plan = random_plan(random);
    const auto layout = std::make_shared<const Layout>(plan.buffers, plan.arena_bytes, plan.num_spares);
    auto pool = std::make_shared<Pool>(layout, 3, ArenaOptions{random.chance(0.5), false, false});
    const std::lock_guard<std::mutex> guard(mutex_);
    pools_[i].swap(pool);
    plans_[i] = std::move(plan);
  }

  std::pair<std::shared_ptr<Pool>, RandomPlan> get(std::size_t i) {
    const std::lock_guard<std::mutex> guard(mutex_);
    return {pools_[i], plans_[i]};
  }

  std::size_t size() const { return pools_.size(); }

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<Pool>> pools_;
  std::vector<RandomPlan> plans_;
};

class ThreadedTest : public CoreTest {
 protected:
  // One thread's part: runs that follow their plans more or less, and a lively exchange of blocks.
  void work(uint64_t seed, SharedPools& pools, uint64_t num_runs, bool replaces_pools) {
    Random random(seed);
    RunToken left_open = 0;
    for (uint64_t i = 0; i < num_runs; ++i) {
      if (random.chance(0.5)) Pool::end(left_open);
      run_once(random, pools, left_open);
      if (replaces_pools && random.chance(0.1)) pools.replace(random.below(pools.size()), random);
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
  void run_once(Random& random, SharedPools& pools, RunToken& left_open) {
    auto [pool, plan] = pools.get(random.below(pools.size()));
    const BeginResult run = pool->begin();
    if (random.chance(0.5)) pool.reset();  // it may go while we run on it
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
    if (random.chance(0.9)) Pool::end(run.token);
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

TEST_F(ThreadedTest, ThreadsOnOnePoolHandBlocksToEachOther) {
  SharedPools pools(1);
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    threads.emplace_back([&, seed] { work(seed, pools, 20'000, false); });
  }
  for (std::thread& thread : threads) thread.join();
  release_all();
  EXPECT_EQ(pools.get(0).first->stats().num_arenas_in_use, 0u);
  EXPECT_GT(num_planned_, num_requests_ / 4) << "hardly anything was replayed";
  EXPECT_GT(num_requests_, 500'000u) << "with their frees, a million steps";
}

TEST_F(ThreadedTest, ThreadsEndAndPoolsGoWhileTheirBlocksLive) {
  SharedPools pools(3);
  for (uint64_t generation = 0; generation < 100; ++generation) {
    std::vector<std::thread> threads;
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      threads.emplace_back([&, seed, generation] { work(generation * 16 + seed, pools, 30, true); });
    }
    for (std::thread& thread : threads) thread.join();
  }
  release_all();
  EXPECT_GT(num_planned_, num_requests_ / 4) << "hardly anything was replayed";
}

TEST_F(ThreadedTest, TheLastBlockOfADeadPoolAndTheEndOfThePoolMayMeet) {
  // The race that the barrier in Arena::orphan() decides: whoever comes last unmaps the arena, and none comes
  // last twice. A mapping that is left over would be recycled by nobody and show as an ever rising number.
  const auto layout = make_layout({{0, 64, 64, false}});
  const std::size_t num_before = Arena::all().size();
  for (uint64_t i = 0; i < 5000; ++i) {
    auto pool = std::make_unique<Pool>(layout, 1);
    const BeginResult run = pool->begin();
    CheckedBlock block = CheckedBlock::allocate(64);
    ASSERT_TRUE(block.is_planned());
    Pool::end(run.token);
    std::atomic<bool> go{false};
    std::thread releasing([&] {
      while (!go.load(std::memory_order_acquire)) {
      }
      block.check_and_release();
    });
    go.store(true, std::memory_order_release);
    pool.reset();
    releasing.join();
  }
  EXPECT_LE(Arena::all().size(), num_before + 1);
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
