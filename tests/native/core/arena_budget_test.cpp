// Pools that share a budget of bytes, wait for an arena, and give pages back.
#include "core/arena_budget.hpp"

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

class ArenaBudgetTest : public CoreTest {
 protected:
  static std::unique_ptr<Pool> make_pool(const std::shared_ptr<ArenaBudget>& budget,
                                         uint32_t max_arenas = 4) {
    return std::make_unique<Pool>(make_layout({{0, kBytes, kBytes, false}}), max_arenas, ArenaOptions{},
                                  budget);
  }

  // Begins a run, takes its one block, ends the run.
  static void* block_of_a_run(Pool& pool) {
    const BeginResult run = pool.begin();
    EXPECT_EQ(run.outcome, Begin::kStarted);
    void* block = allocate(kBytes);
    EXPECT_TRUE(g_range.contains(block));
    Pool::end(run.token);
    return block;
  }
};

TEST_F(ArenaBudgetTest, TheLongestUnusedIdleArenaMakesRoom) {
  const auto budget = std::make_shared<ArenaBudget>(2 * kBytes);
  const auto first = make_pool(budget);
  const auto second = make_pool(budget);
  const auto third = make_pool(budget);
  release(block_of_a_run(*first));
  release(block_of_a_run(*second));
  release(block_of_a_run(*first));
  release(block_of_a_run(*third));  // instead of the second
  EXPECT_EQ(first->stats().num_arenas, 1u);
  EXPECT_EQ(second->stats().num_arenas, 0u);
  EXPECT_EQ(second->stats().num_evicted, 1u);
  EXPECT_EQ(first->stats().num_evicted, 0u);
  EXPECT_EQ(budget->used_bytes(), 2 * kBytes);
  release(block_of_a_run(*second));  // comes back, instead of the first
  EXPECT_EQ(first->stats().num_arenas, 0u);
}

TEST_F(ArenaBudgetTest, AnArenaWithALiveBlockOrARunIsNeverTaken) {
  const auto budget = std::make_shared<ArenaBudget>(2 * kBytes);
  const auto kept = make_pool(budget);
  const auto running = make_pool(budget);
  const auto late = make_pool(budget);
  void* block = block_of_a_run(*kept);
  Pattern(1).write(block, kBytes);
  const BeginResult run = running->begin();
  std::thread([&] { EXPECT_EQ(late->begin().outcome, Begin::kNoArena); }).join();
  EXPECT_TRUE(Pattern(1).holds(block, kBytes));
  Pool::end(run.token);
  release(block);
  release(block_of_a_run(*late));
}

TEST_F(ArenaBudgetTest, ALayoutLargerThanTheBudgetNeverRuns) {
  const auto budget = std::make_shared<ArenaBudget>(kBytes - 1);
  const auto pool = make_pool(budget);
  EXPECT_EQ(pool->begin().outcome, Begin::kNoArena);
  EXPECT_EQ(budget->used_bytes(), 0u);
}

TEST_F(ArenaBudgetTest, BytesOfADeadPoolCountUntilItsLastBlockGoes) {
  const auto budget = std::make_shared<ArenaBudget>(kBytes);
  auto dead = make_pool(budget);
  const auto next = make_pool(budget);
  void* block = block_of_a_run(*dead);
  dead.reset();
  EXPECT_EQ(budget->used_bytes(), kBytes);
  EXPECT_EQ(next->begin().outcome, Begin::kNoArena);
  release(block);
  EXPECT_EQ(budget->used_bytes(), 0u);
  release(block_of_a_run(*next));
}

TEST_F(ArenaBudgetTest, ThePoolsAndTheirBudgetMayGoInAnyOrder) {
  auto budget = std::make_shared<ArenaBudget>(kBytes);
  auto pool = make_pool(budget);
  void* block = block_of_a_run(*pool);
  budget.reset();
  pool.reset();
  release(block);
  EXPECT_EQ(protection_of(block), "---p");
}

TEST_F(ArenaBudgetTest, AThreadMayWaitForAnArena) {
  const auto pool = make_pool(nullptr, 1);
  const BeginResult run = pool->begin();
  std::thread waiting([&] {
    const BeginResult late = pool->begin(std::chrono::nanoseconds::max());
    EXPECT_EQ(late.outcome, Begin::kStarted);
    Pool::end(late.token);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  Pool::end(run.token);
  waiting.join();
  EXPECT_EQ(pool->stats().num_runs, 2u);
}

TEST_F(ArenaBudgetTest, AThreadThatWaitsInVainGoesOnWithoutAnArena) {
  const auto pool = make_pool(nullptr, 1);
  const BeginResult run = pool->begin();
  std::thread([&] {
    EXPECT_EQ(pool->begin(std::chrono::milliseconds(10)).outcome, Begin::kNoArena);
    EXPECT_EQ(pool->begin(std::chrono::nanoseconds(-1)).outcome, Begin::kNoArena);
  }).join();
  EXPECT_EQ(pool->begin(std::chrono::milliseconds(10)).outcome, Begin::kNested);
  Pool::end(run.token);
}

TEST_F(ArenaBudgetTest, PagesOfIdleArenasGoBackAndAreZeroWhenTheyReturn) {
  const auto pool = make_pool(nullptr);
  void* block = block_of_a_run(*pool);
  std::memset(block, 1, kBytes);
  EXPECT_EQ(pool->release_pages(), 0u) << "a block in it lives";
  EXPECT_TRUE(is_resident(block));
  release(block);
  EXPECT_EQ(pool->release_pages(), kBytes);
  EXPECT_FALSE(is_resident(block));
  const BeginResult run = pool->begin();
  EXPECT_EQ(pool->release_pages(), 0u) << "a run goes on";
  auto* again = static_cast<unsigned char*>(allocate(kBytes));
  EXPECT_EQ(again, block);
  EXPECT_EQ(again[kBytes - 1], 0);
  release(again);
  Pool::end(run.token);
}

TEST_F(ArenaBudgetTest, AnArenaMayBeResidentFromTheStart) {
  Pool pool(make_layout({{0, kBytes, kBytes, false}}), 1, ArenaOptions{false, true, true});
  const BeginResult run = pool.begin();
  void* block = allocate(kBytes);
  EXPECT_TRUE(is_resident(block));
  release(block);
  Pool::end(run.token);
}

TEST_F(ArenaBudgetTest, APoolNamesTheFirstRequestsThatDeviated) {
  const auto pool = make_pool(nullptr);
  const BeginResult run = pool->begin();
  release(allocate(64));
  release(allocate(kBytes));
  for (int i = 0; i < 30; ++i) release(allocate(128));
  Pool::end(run.token);
  release(block_of_a_run(*pool));  // without a deviation: the ones before stay
  const DeviatingRequests deviating = pool->last_deviating_requests();
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
