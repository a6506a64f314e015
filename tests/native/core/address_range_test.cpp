#include "core/address_range.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <vector>

#include "child_process.hpp"
#include "core_fixture.hpp"
#include "interposed_calls.hpp"
#include "memory_map.hpp"

namespace memomalloc::testing {
namespace {

constexpr std::size_t kGranule = AddressRange::kGranuleBytes;
constexpr std::size_t kSmallest = AddressRange::kMinReservedBytes;

// Owners are compared and never followed.
Owner* owner(uintptr_t number) { return reinterpret_cast<Owner*>(number * 64); }

// Addresses, and memory at them.
std::byte* map(AddressRange& range, std::size_t bytes, Owner* owner) {
  std::byte* base = range.take(bytes, owner);
  return base != nullptr && AddressRange::make_accessible(base, 0, bytes) ? base : nullptr;
}

TEST(AddressRangeTest, ContainsNothingBeforeItIsReserved) {
  const AddressRange range;
  int on_stack = 0;
  EXPECT_FALSE(range.contains(&on_stack));
  EXPECT_FALSE(range.contains(nullptr));
  EXPECT_FALSE(range.contains(reinterpret_cast<void*>(UINTPTR_MAX)));
}

TEST(AddressRangeTest, ReservesOnce) {
  AddressRange range;
  EXPECT_EQ(range.reserve(kSmallest), kSmallest);
  EXPECT_EQ(range.reserve(4 * kSmallest), kSmallest);
  EXPECT_EQ(range.reserved_bytes(), kSmallest);
}

TEST(AddressRangeTest, WantsNoLessThanItsMinimum) {
  AddressRange range;
  EXPECT_EQ(range.reserve(kSmallest - 1), 0u);
  EXPECT_EQ(map(range, 1, owner(1)), nullptr);
}

TEST(AddressRangeTest, KnowsItsOwnAddressesToTheByte) {
  AddressRange range;
  range.reserve(kSmallest);
  std::byte* first = map(range, 1, owner(1));
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % kGranule, 0u);
  EXPECT_TRUE(range.contains(first));
  EXPECT_FALSE(range.contains(first - 1));
  EXPECT_TRUE(range.contains(first + kSmallest - 1));
  EXPECT_FALSE(range.contains(first + kSmallest));
}

TEST(AddressRangeTest, TellsTheOwnerOfEveryGranule) {
  AddressRange range;
  range.reserve(kSmallest);
  std::byte* first = map(range, 2 * kGranule + 1, owner(1));
  std::byte* second = map(range, kGranule, owner(2));
  ASSERT_NE(second, nullptr);
  for (std::size_t offset : {std::size_t{0}, kGranule, 2 * kGranule, 3 * kGranule - 1})
    EXPECT_EQ(range.owner(first + offset), owner(1));
  EXPECT_EQ(second, first + 3 * kGranule);
  EXPECT_EQ(range.owner(second), owner(2));
  EXPECT_EQ(range.owner(second + kGranule), nullptr);
}

TEST(AddressRangeTest, WhenItIsFullItSaysSo) {
  AddressRange range;
  range.reserve(kSmallest);
  EXPECT_EQ(map(range, kSmallest + 1, owner(1)), nullptr);
  EXPECT_EQ(map(range, 0, owner(1)), nullptr);
  for (std::size_t mapped = 0; mapped < kSmallest; mapped += kGranule)
    ASSERT_NE(map(range, kGranule, owner(1)), nullptr);
  EXPECT_EQ(map(range, 1, owner(1)), nullptr);
}

TEST(AddressRangeTest, ReusesGranulesZeroedAtTheLowestAddressThatFits) {
  AddressRange range;
  range.reserve(kSmallest);
  std::vector<std::byte*> mapped;
  for (int i = 0; i < 6; ++i) {
    mapped.push_back(map(range, kGranule, owner(1)));
    std::memset(mapped.back(), 1, kGranule);
  }
  range.give_back(mapped[1], kGranule);
  range.give_back(mapped[3], kGranule);
  range.give_back(mapped[4], kGranule);
  EXPECT_EQ(range.owner(mapped[3]), nullptr);
  std::byte* two = map(range, 2 * kGranule, owner(2));
  EXPECT_EQ(two, mapped[3]);
  EXPECT_EQ(map(range, kGranule, owner(3)), mapped[1]);
  EXPECT_EQ(map(range, 3 * kGranule, owner(4)), mapped[5] + kGranule);
  for (std::size_t i = 0; i < 2 * kGranule; i += 64) ASSERT_EQ(two[i], std::byte{0});
}

TEST(AddressRangeTest, GivesMemoryBackToTheSystem) {
  AddressRange range;
  range.reserve(kSmallest);
  std::byte* block = map(range, kGranule, owner(1));
  EXPECT_EQ(protection_of(block), "rw-p");
  range.give_back(block, kGranule);
  EXPECT_EQ(protection_of(block), "---p");
}

// In a child, as all that reserves much: what a range reserved stays so, and would count against the limits
// of later tests.
TEST(AddressRangeTest, ReservesByDefaultWhatTheMachineCouldFillAFewTimesOver) {
  EXPECT_EQ(outcome_of_child([] {
              AddressRange range;
              const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
              const std::size_t memory = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * page;
              const std::size_t reserved = range.reserve();
              if (reserved > std::min(4 * memory, AddressRange::kMaxReservedBytes)) return 1;
              return reserved >= kSmallest ? 0 : 2;
            }),
            0);
}

TEST(AddressRangeTest, BlocksTakeAnEighthOfTheRangeAtMost) {
  AddressRange range;
  range.reserve(kSmallest);
  const std::size_t eighth = kSmallest / kGranule / 8;
  EXPECT_EQ(range.map_block(eighth * kGranule + 1, owner(1)), nullptr);
  EXPECT_EQ(range.map_block(SIZE_MAX, owner(1)), nullptr);
  std::vector<std::byte*> blocks;
  for (std::size_t i = 0; i < eighth; ++i) blocks.push_back(range.map_block(1, owner(1)));
  ASSERT_NE(blocks.back(), nullptr);
  EXPECT_EQ(range.map_block(1, owner(1)), nullptr);
  EXPECT_NE(map(range, 4 * kGranule, owner(2)), nullptr) << "regions have the rest";
  ASSERT_TRUE(range.unmap_block(blocks[0]));
  ASSERT_FALSE(range.unmap_block(blocks[0]));
  EXPECT_EQ(range.map_block(kGranule + 1, owner(1)), nullptr);
  EXPECT_EQ(range.map_block(kGranule, owner(1)), blocks[0]);
}

TEST(AddressRangeTest, ThousandsOfBlocksLiveAtOnceAndNoMore) {
  EXPECT_EQ(outcome_of_child([] {
              AddressRange range;
              // An eighth of it holds more granules than there may be blocks.
              constexpr std::size_t kBytes = 16 * AddressRange::kMaxBlocks * kGranule;
              if (range.reserve(kBytes) != kBytes) return 1;
              std::vector<std::byte*> blocks;
              for (std::size_t i = 0; i < AddressRange::kMaxBlocks; ++i) {
                blocks.push_back(range.map_block(1, owner(1)));
                if (blocks.back() == nullptr) return 2;
              }
              if (range.map_block(1, owner(1)) != nullptr) return 3;
              for (std::byte* block : blocks) {
                if (!range.unmap_block(block)) return 4;
              }
              return range.map_block(1, owner(1)) == blocks[0] ? 0 : 5;
            }),
            0);
}

TEST(AddressRangeTest, KnowsTheSizeOfABlockByItsStart) {
  AddressRange range;
  range.reserve(kSmallest);
  std::byte* block = range.map_block(kGranule + 5, owner(1));
  EXPECT_EQ(range.block_bytes(block), kGranule + 5);
  EXPECT_EQ(range.block_bytes(block + 64), 0u);
  EXPECT_EQ(range.block_bytes(block + kGranule), 0u);
  range.unmap_block(block);
  EXPECT_EQ(range.block_bytes(block), 0u);
}

bool limit_address_space(std::size_t bytes) {
  const rlimit limit = {bytes, bytes};
  return setrlimit(RLIMIT_AS, &limit) == 0;
}

// What the process has mapped already, the ranges of earlier tests among it.
std::size_t address_space_in_use() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

class LimitedAddressSpaceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (MEMOMALLOC_TEST_IS_SANITIZED) GTEST_SKIP() << "a sanitizer itself needs terabytes of addresses";
  }
  static constexpr std::size_t kGiB = std::size_t{1} << 30;
};

TEST_F(LimitedAddressSpaceTest, TakesAtMostAQuarterOfTheLimit) {
  EXPECT_EQ(outcome_of_child([] {
              AddressRange range;
              if (!limit_address_space(8 * kGiB)) return 1;
              if (range.reserve() != 2 * kGiB) return 2;
              std::byte* block = map(range, kGiB, owner(1));
              if (block == nullptr) return 3;
              block[kGiB - 1] = std::byte{1};
              return 0;
            }),
            0);
}

TEST_F(LimitedAddressSpaceTest, ABlockMeetsALimitThatWasSetAfterTheReservation) {
  EXPECT_EQ(outcome_of_child([] {
              AddressRange range;
              if (range.reserve(8 * kGiB) != 8 * kGiB) return 1;
              if (!limit_address_space(address_space_in_use() + kGiB / 2)) return 2;
              if (range.map_block(kGiB, owner(1)) != nullptr) return 3;
              std::byte* block = range.map_block(kSmallest / 4, owner(1));
              return block != nullptr && range.unmap_block(block) ? 0 : 4;
            }),
            0);
}

TEST_F(LimitedAddressSpaceTest, HalvesWhereTheSystemRefuses) {
  EXPECT_EQ(outcome_of_child([] {
              if (mmap(nullptr, 2 * kGiB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) ==
                  MAP_FAILED)
                return 1;
              // Of the limit, less than a quarter is left.
              if (!limit_address_space(address_space_in_use() + kGiB / 2)) return 2;
              AddressRange range;
              const std::size_t reserved = range.reserve();
              return reserved >= kSmallest && reserved < kGiB / 2 ? 0 : 3;
            }),
            0);
}

TEST_F(LimitedAddressSpaceTest, LeavesHalfOfWhatIsLeftToTheProgram) {
  EXPECT_EQ(outcome_of_child([] {
              if (mmap(nullptr, 2 * kGiB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) ==
                  MAP_FAILED)
                return 1;
              // A quarter of the limit is most of what is left of it.
              if (!limit_address_space(address_space_in_use() + kGiB)) return 2;
              AddressRange range;
              const std::size_t reserved = range.reserve();
              return reserved >= kSmallest && reserved <= kGiB / 2 ? 0 : 3;
            }),
            0);
}

TEST_F(LimitedAddressSpaceTest, WithoutARangeEverythingGoesUpstream) {
  install_counting_upstream();
  EXPECT_EQ(outcome_of_child([] {
              g_range = AddressRange();
              if (!limit_address_space(AddressRange::kMinReservedBytes)) return 1;
              if (g_range.reserve() != 0) return 2;
              Armed plan(make_layout({{0, 64, 64, false}}), 1);
              if (plan.begin().outcome != Begin::kNoRegion) return 3;
              void* block = allocate(64);
              if (g_range.contains(block)) return 4;
              release(block);
              return 0;
            }),
            0);
}

}  // namespace
}  // namespace memomalloc::testing
