#include "core/recorded_block.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "core/recording.hpp"
#include "core/registry.hpp"
#include "core_fixture.hpp"
#include "memory_map.hpp"

namespace memomalloc::testing {
namespace {

class RecordedBlockTest : public CoreTest {};

TEST_F(RecordedBlockTest, LargeBlocksOfARecordedRunAreMappedApartAndGoneWhenTheyAreFreed) {
  const auto recording = Recording::open();
  void* large = allocate(kMinRecordedBlockBytes);
  void* small = allocate(kMinRecordedBlockBytes - 1);
  EXPECT_TRUE(g_range.contains(large));
  EXPECT_FALSE(g_range.contains(small));
  std::memset(large, 1, kMinRecordedBlockBytes);
  EXPECT_TRUE(is_mapped(large));
  release(large);
  release(small);
  recording->close();
  EXPECT_FALSE(is_mapped(large));
  EXPECT_EQ(recording->buffers().ends, (std::vector<int64_t>{2, 3}));
}

TEST_F(RecordedBlockTest, ABlockOutlivesItsRecordingAndMayBeFreedOnAnyThread) {
  const auto recording = Recording::open();
  auto* block = static_cast<unsigned char*>(allocate(5 * kMinRecordedBlockBytes));
  recording->close();
  std::memset(block, 7, 5 * kMinRecordedBlockBytes);
  EXPECT_EQ(block[5 * kMinRecordedBlockBytes - 1], 7);
  std::thread([block] { release(block); }).join();
  EXPECT_FALSE(is_mapped(block));
}

TEST_F(RecordedBlockTest, NeighboursKeepTheirSizes) {
  const auto recording = Recording::open();
  std::vector<void*> blocks;
  for (std::size_t i = 1; i <= 8; ++i) blocks.push_back(allocate(i * AddressRange::kGranuleBytes));
  recording->close();
  for (std::size_t i = 0; i < blocks.size(); i += 2) release(blocks[i]);
  for (std::size_t i = 0; i < blocks.size(); ++i) EXPECT_EQ(is_mapped(blocks[i]), i % 2 == 1) << i;
  for (std::size_t i = 1; i < blocks.size(); i += 2) {
    std::memset(blocks[i], 1, (i + 1) * AddressRange::kGranuleBytes);
    release(blocks[i]);
  }
}

TEST_F(RecordedBlockTest, ADoubleFreeAndAPointerIntoABlockAreCountedAndHarmless) {
  const auto recording = Recording::open();
  auto* block = static_cast<std::byte*>(allocate(3 * AddressRange::kGranuleBytes));
  recording->close();
  release(block + 64);
  release(block + AddressRange::kGranuleBytes);
  EXPECT_TRUE(is_mapped(block));
  release(block);
  release(block);
  expected_bad_frees_ = 3;
}

TEST_F(RecordedBlockTest, TooManyThatStayGoUpstreamAndLeaveRoomForRegions) {
  const auto recording = Recording::open();
  std::vector<void*> blocks;
  for (std::size_t i = 0; i <= AddressRange::kMaxBlocks; ++i)
    blocks.push_back(allocate(kMinRecordedBlockBytes));
  recording->close();
  EXPECT_TRUE(g_range.contains(blocks.front()));
  EXPECT_FALSE(g_range.contains(blocks.back()));
  Armed plan(make_layout({{0, 64, 64, false}}), 1);
  const BeginResult run = plan.begin();
  EXPECT_EQ(run.outcome, Begin::kStarted);
  ArmedPlan::end(run.token);
  for (void* block : blocks) release(block);
}

TEST_F(RecordedBlockTest, TheProfilerHearsOfTheFreeAsOfTheAllocation) {
  std::vector<int64_t> reported;
  CountingUpstream::reported_bytes = &reported;
  CountingUpstream::is_profiling = true;
  const auto recording = Recording::open();
  void* freed_within = allocate(kMinRecordedBlockBytes + 1);
  void* freed_later = allocate(2 * kMinRecordedBlockBytes);
  release(freed_within);
  recording->close();
  release(freed_later);
  release(freed_later);  // nobody is told of a bad free
  CountingUpstream::is_profiling = false;
  CountingUpstream::reported_bytes = nullptr;
  const int64_t bytes = kMinRecordedBlockBytes;
  EXPECT_EQ(reported, (std::vector<int64_t>{bytes + 1, 2 * bytes, -bytes - 1, -2 * bytes}));
  expected_bad_frees_ = 1;
}

TEST_F(RecordedBlockTest, AReplayThatIsRecordedIsServedFromItsPlan) {
  Armed plan(make_layout({{0, uint64_t{1} << 20, uint64_t{1} << 20, false}}), 1);
  const BeginResult run = plan.begin();
  const auto recording = Recording::open();
  void* planned = allocate(std::size_t{1} << 20);
  void* extra = allocate(std::size_t{1} << 20);
  recording->close();
  const RunCounts counts = ArmedPlan::end(run.token);
  EXPECT_EQ(counts.served, 1u);
  EXPECT_EQ(g_range.owner(planned)->kind(), Owner::Kind::kRegion);
  EXPECT_EQ(g_range.owner(extra)->kind(), Owner::Kind::kOutputs);
  release(planned);
  release(extra);
}

}  // namespace
}  // namespace memomalloc::testing
