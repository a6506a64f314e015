#include "core/free_pages.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "random.hpp"

namespace memomalloc::testing {
namespace {

constexpr uint64_t kKiB = 1024;
using Pairs = std::vector<std::pair<uint64_t, uint64_t>>;

Pairs free_as_pairs(std::vector<ByteRange> live, uint64_t mapped_bytes, uint64_t page_bytes) {
  Pairs pairs;
  for (const ByteRange& range : free_pages(std::move(live), mapped_bytes, page_bytes))
    pairs.emplace_back(range.begin, range.end);
  return pairs;
}

TEST(FreePagesTest, ThePageIsTheSystems) {
  EXPECT_EQ(system_page_bytes(), static_cast<uint64_t>(sysconf(_SC_PAGESIZE)));
}

TEST(FreePagesTest, OnLargePagesALiveBlockKeepsTheWholePageItLiesOn) {
  const std::vector<ByteRange> live = {{260 * kKiB, 268 * kKiB}, {68 * kKiB, 72 * kKiB}};
  EXPECT_EQ(free_as_pairs(live, 400 * kKiB, 4 * kKiB),
            (Pairs{{0, 68 * kKiB}, {72 * kKiB, 260 * kKiB}, {268 * kKiB, 400 * kKiB}}));
  EXPECT_EQ(free_as_pairs(live, 400 * kKiB, 64 * kKiB),
            (Pairs{{0, 64 * kKiB}, {128 * kKiB, 256 * kKiB}, {320 * kKiB, 448 * kKiB}}));
}

TEST(FreePagesTest, WithoutALiveBlockAllPagesAreFreeTheLastOneWhole) {
  EXPECT_EQ(free_as_pairs({}, 1, 64 * kKiB), (Pairs{{0, 64 * kKiB}}));
  EXPECT_EQ(free_as_pairs({}, 0, 64 * kKiB), (Pairs{}));
}

TEST(FreePagesTest, PagesAreWholeAndFreeExactlyWhereNothingLivesForAllPageSizes) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    Random random(seed);
    const uint64_t page_bytes = random.one_of({4, 16, 64}) * kKiB;
    const uint64_t mapped_bytes = random.between(1, 40) * 24 * kKiB;
    std::vector<ByteRange> live;
    for (uint32_t i = random.below(8); i > 0; --i) {
      const uint64_t begin = random.below(mapped_bytes / 64) * 64;
      live.push_back({begin, std::min(mapped_bytes, begin + 64 + random.below(48 * kKiB))});
    }
    std::vector<ByteRange> free = free_pages(live, mapped_bytes, page_bytes);
    auto next = free.begin();
    for (uint64_t page = 0; page < mapped_bytes; page += page_bytes) {
      bool lives = false;
      for (const ByteRange& range : live) lives |= range.begin < page + page_bytes && page < range.end;
      while (next != free.end() && next->end <= page) ++next;
      const bool is_free = next != free.end() && next->begin <= page && page + page_bytes <= next->end;
      ASSERT_EQ(is_free, !lives) << "seed " << seed << " page " << page;
    }
    for (const ByteRange& range : free) {
      ASSERT_EQ(range.begin % page_bytes, 0u);
      ASSERT_EQ(range.end % page_bytes, 0u);
    }
  }
}

}  // namespace
}  // namespace memomalloc::testing
