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
    const Layout layout(plan.buffers, plan.arena_bytes, plan.num_spares);
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
    const Layout layout(plan.buffers, plan.arena_bytes, plan.num_spares);
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
    const Layout layout(plan.buffers, plan.arena_bytes, plan.num_spares);
    for (uint32_t k = 0; k < layout.num_slots(); ++k) {
      const Slot& slot = layout.slots()[k];
      ASSERT_EQ(layout.place_offset(slot.place), plan.buffers[k].offset);
      ASSERT_EQ(slot.place >= layout.num_shared_places(), is_exclusive(plan.buffers, k)) << "seed " << seed;
    }
    std::set<uint64_t> offsets;
    for (uint32_t place = 0; place < layout.num_places(); ++place)
      ASSERT_TRUE(offsets.insert(layout.place_offset(place)).second) << "two places start at one address";
  }
}

TEST(LayoutTest, SparePlacesLieBehindTheArenaAndTouchNothing) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    const RandomPlan plan = random_plan(random, 40);
    const Layout layout(plan.buffers, plan.arena_bytes, plan.num_spares);
    LiveBlocks taken;
    if (plan.arena_bytes != 0) taken.add(0, plan.arena_bytes);
    for (uint32_t k = 0; k < layout.num_slots(); ++k) {
      const Slot& slot = layout.slots()[k];
      const bool deserves = plan.buffers[k].escapes && is_exclusive(plan.buffers, k);
      ASSERT_EQ(slot.num_spare_places, deserves ? plan.num_spares : 0) << "seed " << seed;
      for (uint32_t spare = 0; spare < slot.num_spare_places; ++spare) {
        const uint64_t offset = layout.place_offset(slot.first_spare_place + spare);
        ASSERT_EQ(offset % kAlignmentBytes, 0u);
        ASSERT_LE(offset + slot.size, layout.mapped_bytes());
        ASSERT_TRUE(taken.add(offset, slot.size)) << "seed " << seed;
      }
    }
  }
}

TEST(LayoutTest, ThePlaceTableFindsEveryPlaceAndNothingElse) {
  std::vector<PlannedBuffer> buffers;
  for (uint64_t i = 0; i < 5000; ++i) buffers.push_back({i * 3 * 64, 128, 128, i % 7 == 0});
  const auto layout = make_layout(buffers, 2);
  std::set<uint64_t> offsets;
  for (uint32_t place = 0; place < layout->num_places(); ++place) {
    offsets.insert(layout->place_offset(place));
    ASSERT_EQ(layout->place_table().find(layout->place_offset(place)), place);
  }
  for (uint64_t offset = 0; offset < layout->mapped_bytes() + 4096; offset += 32) {
    const bool is_place = offsets.count(offset) != 0;
    ASSERT_EQ(layout->place_table().find(offset) == PlaceTable::kNoPlace, !is_place) << offset;
  }
}

TEST(LayoutTest, AnEmptyPlanIsALayoutToo) {
  const Layout layout({}, 0, 4);
  EXPECT_EQ(layout.num_slots(), 0u);
  EXPECT_EQ(layout.mapped_bytes(), 0u);
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
  uint32_t spare_places;
  const char* message;
};

class BadPlanTest : public ::testing::TestWithParam<BadPlan> {};

TEST_P(BadPlanTest, IsRefused) {
  const BadPlan& plan = GetParam();
  try {
    const Layout layout(plan.buffers, plan.arena_bytes, plan.spare_places);
    FAIL() << "was accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(plan.message), std::string::npos) << error.what();
  }
}

constexpr uint64_t kNegative = UINT64_MAX - 63;  // -64, as it comes out of a signed number

INSTANTIATE_TEST_SUITE_P(
    LayoutTest, BadPlanTest,
    ::testing::Values(
        BadPlan{"SizeZero", {{0, 0, 0, false}}, 64, 0, "size is not a positive multiple of 64"},
        BadPlan{"SizeUnaligned", {{0, 65, 65, false}}, 128, 0, "size is not a positive multiple of 64"},
        BadPlan{"OffsetUnaligned", {{32, 64, 64, false}}, 128, 0, "offset is not a multiple of 64"},
        BadPlan{"OffsetNegative", {{kNegative, 64, 64, false}}, 128, 0, "ends behind the arena"},
        BadPlan{"SizeNegative", {{0, kNegative, 64, false}}, 128, 0, "ends behind the arena"},
        BadPlan{"SumOverflows", {{kNegative, 128, 64, false}}, 128, 0, "ends behind the arena"},
        BadPlan{"BehindTheArena", {{64, 128, 128, false}}, 128, 0, "ends behind the arena"},
        BadPlan{"SecondBufferBad", {{0, 64, 64, false}, {0, 1, 1, false}}, 64, 0, "buffer 1: size"},
        BadPlan{"SmallestSizeZero", {{0, 64, 0, false}}, 64, 0, "smallest size"},
        BadPlan{"SmallestSizeAboveSize", {{0, 64, 128, false}}, 64, 0, "smallest size"},
        BadPlan{"ArenaHuge", {}, (uint64_t{1} << 46) + 64, 0, "larger than 64 TiB"},
        BadPlan{"ArenaNegative", {}, UINT64_MAX, 0, "larger than 64 TiB"},
        BadPlan{"SparesHuge",
                {{0, uint64_t{1} << 45, uint64_t{1} << 45, true}},
                uint64_t{1} << 45,
                4,
                "spare places are larger"},
        BadPlan{"TooManySpares", {}, 64, 65, "more than 64 spare places"}),
    [](const ::testing::TestParamInfo<BadPlan>& info) { return info.param.name; });

}  // namespace
}  // namespace memomalloc::testing
