// Requests matched by who asks: a slot serves its own asker only, and the guard holds whatever the tags say.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "core_fixture.hpp"
#include "interposed_calls.hpp"
#include "live_blocks.hpp"
#include "random.hpp"
#include "random_plan.hpp"

namespace memomalloc::testing {
namespace {

constexpr uint64_t kNumPrograms = 20'000;

class AskerTest : public CoreTest {
 protected:
  void TearDown() override {
    t_state.asker = 0;
    CoreTest::TearDown();
  }

  static void* ask(uint32_t asker, std::size_t bytes) {
    t_state.asker = asker;
    return allocate(bytes);
  }

  // Three buffers of one size, alive together, each of an asker of its own.
  static std::shared_ptr<const Layout> three_askers(bool match_askers) {
    return std::make_shared<const Layout>(
        std::vector<PlannedBuffer>{{0, 64, 64, false, 1}, {64, 64, 64, false, 2}, {128, 64, 64, false, 3}},
        192, match_askers);
  }
};

TEST_F(AskerTest, ABranchThatIsNotTakenLeavesThePlacesOfOthersToThem) {
  for (const bool match_askers : {false, true}) {
    Armed plan(three_askers(match_askers), 1);
    const RunToken first = plan.begin().token;
    std::vector<void*> blocks = {ask(1, 64), ask(2, 64), ask(3, 64)};
    const auto* base = static_cast<std::byte*>(blocks[0]);
    for (void* block : blocks) release(block);
    EXPECT_EQ(ArmedPlan::end(first).served, 3u);

    const RunToken second = plan.begin().token;
    void* third = ask(3, 64);
    EXPECT_EQ(static_cast<std::byte*>(third) - base, match_askers ? 128 : 0);
    release(third);
    const RunCounts counts = ArmedPlan::end(second);
    EXPECT_EQ(counts.served, 1u);
    EXPECT_EQ(counts.missing, 2u);
  }
}

TEST_F(AskerTest, AStrangerIsServedByNoSlot) {
  Armed plan(three_askers(true), 1);
  const RunToken token = plan.begin().token;
  release(ask(4, 64));
  release(ask(0, 64));
  std::vector<void*> blocks = {ask(1, 64), ask(2, 64), ask(3, 64)};
  for (void* block : blocks) release(block);
  const RunCounts counts = ArmedPlan::end(token);
  EXPECT_EQ(counts.served, 3u);
  EXPECT_EQ(upstream_because(counts, Deviation::kSize), 2u);
  for (uint32_t i = 0; i < 2; ++i) EXPECT_FALSE(plan->last_deviating_requests().first[i].by_its_asker);
}

TEST_F(AskerTest, AnotherSizeThanPlannedIsReportedWithTheSlotOfItsAsker) {
  Armed plan(three_askers(true), 1);
  const RunToken token = plan.begin().token;
  release(ask(2, 128));
  ArmedPlan::end(token);
  const DeviatingRequests deviating = plan->last_deviating_requests();
  ASSERT_EQ(deviating.count, 1u);
  EXPECT_EQ(deviating.first[0].slot, 1u);
  EXPECT_EQ(deviating.first[0].bytes, 128u);
  EXPECT_TRUE(deviating.first[0].by_its_asker);
}

TEST_F(AskerTest, RandomProgramsWithRandomAskersOverlapNothing) {
  uint64_t num_served = 0;
  for (uint64_t seed = 0; seed < kNumPrograms / (MEMOMALLOC_TEST_IS_SANITIZED ? 10 : 1); ++seed) {
    Random random(seed);
    RandomPlan plan = random_plan(random);
    for (PlannedBuffer& buffer : plan.buffers) buffer.asker = random.below(4);
    Armed armed(std::make_shared<const Layout>(plan.buffers, plan.arena_bytes, true), 1);
    LiveBlocks live;
    struct Held {
      void* block;
      std::size_t bytes;
      uint64_t pattern;
    };
    std::vector<Held> held;
    uint64_t num_blocks = 0;
    const auto release_one = [&](std::size_t i) {
      EXPECT_TRUE(Pattern(held[i].pattern).holds(held[i].block, held[i].bytes));
      live.remove(reinterpret_cast<uintptr_t>(held[i].block));
      release(held[i].block);
      held[i] = held.back();
      held.pop_back();
    };
    for (uint32_t run = 0; run < 4; ++run) {
      const RunToken token = armed.begin().token;
      const double deviates = random.one_of({0.0, 0.1, 0.5});
      for (const PlannedBuffer& planned : plan.buffers) {
        if (random.chance(deviates / 2)) continue;
        const PlannedBuffer& buffer =
            random.chance(deviates) ? plan.buffers[random.below(plan.buffers.size())] : planned;
        const std::size_t bytes = random.between(buffer.smallest_size, buffer.size);
        void* block = ask(random.chance(deviates) ? random.below(4) : buffer.asker, bytes);
        ASSERT_TRUE(live.add(reinterpret_cast<uintptr_t>(block), bytes)) << "seed " << seed;
        Pattern(++num_blocks).write(block, bytes);
        held.push_back({block, bytes, num_blocks});
        while (!held.empty() && random.chance(0.5)) release_one(random.below(held.size()));
      }
      num_served += ArmedPlan::end(token).served;
      while (!held.empty() && random.chance(0.8)) release_one(random.below(held.size()));
    }
    while (!held.empty()) release_one(held.size() - 1);
  }
  EXPECT_GT(num_served, kNumPrograms / 10);
}

}  // namespace
}  // namespace memomalloc::testing
