#include "core/layout.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/alignment.hpp"
#include "core_fixture.hpp"
#include "guard_model.hpp"
#include "live_blocks.hpp"
#include "random.hpp"
#include "random_plan.hpp"

namespace memomalloc::testing {
namespace {

constexpr uint64_t kSeeds = 4000;

std::vector<uint32_t> predecessors_of(const Layout& layout, uint32_t k) {
  std::vector<uint32_t> slots;
  const Slot& slot = layout.slots()[k];
  for (const Predecessor* p = slot.first_predecessor; p != slot.end_of_predecessors; ++p)
    slots.push_back(p->occupant - 1);
  return slots;
}

TEST(LayoutTest, PredecessorsAreTheLastSlotsOnEachByteForThousandsOfPlans) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    const RandomPlan plan = random_plan(random, 40);
    const Layout layout(plan.buffers, plan.arena_bytes);
    for (uint32_t k = 0; k < layout.num_slots(); ++k) {
      std::vector<uint32_t> expected = direct_predecessors(plan.buffers, k);
      std::vector<uint32_t> found = predecessors_of(layout, k);
      std::sort(expected.begin(), expected.end());
      std::sort(found.begin(), found.end());
      ASSERT_EQ(found, expected) << "seed " << seed << " slot " << k;
    }
  }
}

TEST(LayoutTest, PredecessorsAtTheSamePlaceComeLast) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    const RandomPlan plan = random_plan(random, 40);
    const Layout layout(plan.buffers, plan.arena_bytes);
    for (uint32_t k = 0; k < layout.num_slots(); ++k) {
      const Slot& slot = layout.slots()[k];
      for (const Predecessor* p = slot.first_predecessor; p != slot.end_of_predecessors; ++p) {
        ASSERT_EQ(p->place == slot.place, p >= slot.first_at_same_place) << "seed " << seed;
        ASSERT_EQ(p->place, layout.slots()[p->occupant - 1].place);
      }
    }
  }
}

TEST(LayoutTest, PlacesAreStartAddressesAndThoseOfExclusiveSlotsComeLast) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    const RandomPlan plan = random_plan(random, 40);
    const Layout layout(plan.buffers, plan.arena_bytes);
    for (uint32_t k = 0; k < layout.num_slots(); ++k) {
      const Slot& slot = layout.slots()[k];
      if (slot.output != 0) continue;
      ASSERT_EQ(layout.place_offset(slot.place), slot.offset);
      ASSERT_EQ(slot.place >= layout.num_shared_places(), is_exclusive(plan.buffers, k)) << "seed " << seed;
    }
    std::set<uint64_t> offsets;
    for (uint32_t place = 0; place < layout.num_places(); ++place)
      ASSERT_TRUE(offsets.insert(layout.place_offset(place)).second) << "two places start at one address";
  }
}

TEST(LayoutTest, BytesThatNoSlotUsesAreCutOutAndOutputsHaveNone) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    const RandomPlan plan = random_plan(random, 40);
    const Layout layout(plan.buffers, plan.arena_bytes);
    const std::vector<PlannedBuffer> expected = without_unused_bytes(plan.buffers);
    uint64_t region_bytes = 0;
    uint32_t num_outputs = 0;
    for (uint32_t k = 0; k < layout.num_slots(); ++k) {
      const Slot& slot = layout.slots()[k];
      ASSERT_EQ(slot.output != 0, plan.buffers[k].escapes);
      if (slot.output != 0) {
        ASSERT_EQ(slot.output, ++num_outputs);
        ASSERT_EQ(layout.outputs()[slot.output - 1], slot.size);
        ASSERT_EQ(slot.place, layout.num_places()) << "never vacant";
        continue;
      }
      ASSERT_EQ(slot.offset, expected[k].offset) << "seed " << seed << " slot " << k;
      region_bytes = std::max(region_bytes, slot.offset + slot.size);
    }
    ASSERT_EQ(layout.region_bytes(), region_bytes);
    ASSERT_EQ(layout.outputs().size(), num_outputs);
  }
}

TEST(LayoutTest, ThePlaceTableFindsEveryPlaceAndNothingElse) {
  std::vector<PlannedBuffer> buffers;
  for (uint64_t i = 0; i < 5000; ++i) buffers.push_back({i * 3 * 64, 128, 128, i % 7 == 0});
  const auto layout = make_layout(buffers);
  std::set<uint64_t> offsets;
  for (uint32_t place = 0; place < layout->num_places(); ++place) {
    offsets.insert(layout->place_offset(place));
    ASSERT_EQ(layout->place_table().find(layout->place_offset(place)), place);
  }
  for (uint64_t offset = 0; offset < layout->region_bytes() + 4096; offset += 32) {
    const bool is_place = offsets.count(offset) != 0;
    ASSERT_EQ(layout->place_table().find(offset) == PlaceTable::kNoPlace, !is_place) << offset;
  }
}

TEST(LayoutTest, AnEmptyPlanIsALayoutToo) {
  const Layout layout({}, 0);
  EXPECT_EQ(layout.num_slots(), 0u);
  EXPECT_EQ(layout.region_bytes(), 0u);
  EXPECT_EQ(layout.place_table().find(0), PlaceTable::kNoPlace);
}

TEST(LayoutTest, TheSlotBehindTheLastTakesNoRequest) {
  const auto layout = make_layout({{0, 64, 64, false}});
  const Slot& behind = layout->slots()[1];
  EXPECT_EQ(behind.size, 0u);
  EXPECT_EQ(behind.smallest_size, UINT64_MAX);
}

struct BadPlan {
  const char* name;
  std::vector<PlannedBuffer> buffers;
  uint64_t arena_bytes;
  const char* message;
};

class BadPlanTest : public ::testing::TestWithParam<BadPlan> {};

TEST_P(BadPlanTest, IsRefused) {
  const BadPlan& plan = GetParam();
  try {
    const Layout layout(plan.buffers, plan.arena_bytes);
    FAIL() << "was accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(plan.message), std::string::npos) << error.what();
  }
}

constexpr uint64_t kNegative = UINT64_MAX - 63;  // -64, as it comes out of a signed number

INSTANTIATE_TEST_SUITE_P(
    LayoutTest, BadPlanTest,
    ::testing::Values(
        BadPlan{"SizeZero", {{0, 0, 0, false}}, 64, "size is not a positive multiple of 64"},
        BadPlan{"SizeUnaligned", {{0, 65, 65, false}}, 128, "size is not a positive multiple of 64"},
        BadPlan{"OffsetUnaligned", {{32, 64, 64, false}}, 128, "offset is not a multiple of 64"},
        BadPlan{"OffsetNegative", {{kNegative, 64, 64, false}}, 128, "ends behind the arena"},
        BadPlan{"SizeNegative", {{0, kNegative, 64, false}}, 128, "ends behind the arena"},
        BadPlan{"SumOverflows", {{kNegative, 128, 64, false}}, 128, "ends behind the arena"},
        BadPlan{"BehindTheArena", {{64, 128, 128, false}}, 128, "ends behind the arena"},
        BadPlan{"SecondBufferBad", {{0, 64, 64, false}, {0, 1, 1, false}}, 64, "buffer 1: size"},
        BadPlan{"SmallestSizeZero", {{0, 64, 0, false}}, 64, "smallest size"},
        BadPlan{"SmallestSizeAboveSize", {{0, 64, 128, false}}, 64, "smallest size"},
        BadPlan{"ArenaHuge", {}, (uint64_t{1} << 46) + 64, "larger than 64 TiB"},
        BadPlan{"ArenaNegative", {}, UINT64_MAX, "larger than 64 TiB"},
        BadPlan{"OutputsHuge", std::vector<PlannedBuffer>(4, {0, uint64_t{1} << 45, uint64_t{1} << 45, true}),
                uint64_t{1} << 45, "outputs are larger"}),
    [](const ::testing::TestParamInfo<BadPlan>& info) { return info.param.name; });

}  // namespace
}  // namespace memomalloc::testing
