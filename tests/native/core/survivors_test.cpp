#include "core/survivors.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <vector>

#include "core_fixture.hpp"
#include "random.hpp"
#include "random_plan.hpp"

namespace memomalloc::testing {
namespace {

constexpr uint64_t kSeeds = 4000;

// Who lives at each shared place, if some of the slots stay. Garbage plans make survivors overlap, which no
// program can: the sweep must not rely on it.
std::vector<uint32_t> random_occupants(Random& random, const Layout& layout) {
  std::vector<uint32_t> occupants(layout.num_places(), 0);
  const double share = random.one_of({0.02, 0.2, 0.8});
  for (uint32_t k = 0; k < layout.num_slots(); ++k) {
    if (layout.slots()[k].output == 0 && random.chance(share)) occupants[layout.slots()[k].place] = k + 1;
  }
  return occupants;
}

// The definition: each slot beside each survivor.
std::set<uint32_t> slots_that_share_bytes(const Layout& layout, const std::vector<uint32_t>& occupants) {
  std::set<uint32_t> found;
  for (uint32_t place = 0; place < layout.num_shared_places(); ++place) {
    if (occupants[place] == 0) continue;
    const Slot& survivor = layout.slots()[occupants[place] - 1];
    for (uint32_t k = 0; k < layout.num_slots(); ++k) {
      const Slot& slot = layout.slots()[k];
      if (slot.output == 0 && slot.offset < survivor.offset + survivor.size &&
          survivor.offset < slot.offset + slot.size)
        found.insert(k);
    }
  }
  return found;
}

TEST(SurvivorsTest, TheSweepFindsWhatTheDefinitionSaysForThousandsOfPlans) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    const RandomPlan plan = random_plan(random, 60);
    const Layout layout(plan.buffers, plan.arena_bytes);
    const std::vector<uint32_t> occupants = random_occupants(random, layout);
    std::set<uint32_t> found;
    for_each_slot_under_survivors(
        layout, [&](uint32_t place) { return occupants[place]; },
        [&](uint32_t k) { EXPECT_TRUE(found.insert(k).second) << "found twice"; });
    ASSERT_EQ(found, slots_that_share_bytes(layout, occupants)) << "seed " << seed;
  }
}

TEST(SurvivorsTest, EverySlotIsLookedAtOnceHoweverManySurvive) {
  // Two generations that share their places, shifted by half a slot.
  std::vector<PlannedBuffer> buffers;
  constexpr uint32_t kEach = 20000;
  for (uint64_t i = 0; i < kEach; ++i) buffers.push_back({i * 128, 128, 128, false});
  for (uint64_t i = 0; i < kEach; ++i) buffers.push_back({i * 128 + 64, 128, 128, false});
  const auto layout = make_layout(buffers);
  uint32_t num_asked = 0;
  uint32_t num_found = 0;
  for_each_slot_under_survivors(
      *layout,
      [&](uint32_t place) {
        ++num_asked;
        return layout->place_offset(place) % 128 == 0 ? place + 1 : 0;
      },
      [&](uint32_t) { ++num_found; });
  EXPECT_EQ(num_found, 2 * kEach);
  EXPECT_LE(num_asked, 2 * kEach);
}

class SurvivingBlocksTest : public CoreTest {};

TEST_F(SurvivingBlocksTest, WhatLiesUnderAManyHeadedSurvivorGoesUpstreamAndTheRestIsServed) {
  std::vector<PlannedBuffer> buffers;
  constexpr uint32_t kEach = 100;
  for (uint64_t i = 0; i < kEach; ++i) buffers.push_back({i * 64, 64, 64, false});
  for (uint64_t i = 0; i < kEach; ++i) buffers.push_back({i * 64, 64, 64, false});
  Armed plan(make_layout(buffers), 1);
  const BeginResult first = plan.begin();
  std::vector<void*> kept;
  for (uint32_t i = 0; i < kEach; ++i) {
    void* block = allocate(64);
    if (i % 2 == 0) {
      kept.push_back(block);
    } else {
      release(block);
    }
  }
  ArmedPlan::end(first.token);
  const BeginResult second = plan.begin();
  for (uint32_t i = 0; i < 2 * kEach; ++i) {
    void* block = allocate(64);
    EXPECT_EQ(g_range.contains(block), i % 2 == 1) << i;
    release(block);
  }
  EXPECT_EQ(upstream_because(ArmedPlan::end(second.token), Deviation::kBlocked), kEach);
  for (void* block : kept) release(block);
}

}  // namespace
}  // namespace memomalloc::testing
