// Pages go back to the system: which, when, and what stays.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "core/free_pages.hpp"
#include "core/pool.hpp"
#include "core_fixture.hpp"
#include "live_blocks.hpp"
#include "residency.hpp"

namespace memomalloc::testing {
namespace {

const uint64_t kPage = system_page_bytes();
constexpr std::chrono::hours kHour{1};

class PageReleaseTest : public CoreTest {
 protected:
  // The blocks of a run that asks for these sizes, all still live, and written to.
  static std::vector<std::byte*> blocks_of_a_run(Pool& pool, const std::vector<uint64_t>& sizes) {
    const BeginResult run = pool.begin();
    EXPECT_EQ(run.outcome, Begin::kStarted);
    std::vector<std::byte*> blocks;
    for (const uint64_t size : sizes) {
      blocks.push_back(static_cast<std::byte*>(allocate(size)));
      std::memset(blocks.back(), 1, size);
    }
    EXPECT_EQ(Pool::end(run.token).num_upstream(), 0u);
    return blocks;
  }
};

TEST_F(PageReleaseTest, ALiveBlockKeepsItsOwnPagesOnly) {
  // The second block begins and ends in the middle of a page.
  Pool pool(make_layout({{0, 4 * kPage, 64, false},
                         {4 * kPage + 64, 2 * kPage, 64, false},
                         {7 * kPage, 3 * kPage, 64, false}}),
            1);
  const auto blocks = blocks_of_a_run(pool, {4 * kPage, 2 * kPage, 3 * kPage});
  const std::byte* base = blocks[0];
  Pattern(3).write(blocks[1], 2 * kPage);
  release(blocks[0]);
  release(blocks[2]);
  EXPECT_EQ(pool.release_pages(), 7 * kPage);
  for (uint64_t page = 0; page < 10; ++page) {
    EXPECT_EQ(is_resident(base + page * kPage), page >= 4 && page < 7) << page;
  }
  EXPECT_TRUE(Pattern(3).holds(blocks[1], 2 * kPage));
  release(blocks[1]);
  EXPECT_EQ(pool.release_pages(), 10 * kPage);
  EXPECT_FALSE(is_resident(base + 5 * kPage));
}

TEST_F(PageReleaseTest, ABlockInASparePlaceKeepsItsPages) {
  Pool pool(make_layout({{0, kPage, 64, true}}, /*spare_places=*/1), 1);
  std::byte* first = blocks_of_a_run(pool, {kPage})[0];
  std::byte* second = blocks_of_a_run(pool, {kPage})[0];
  ASSERT_EQ(second - first, static_cast<std::ptrdiff_t>(kPage));
  Pattern(5).write(second, kPage);
  release(first);
  EXPECT_EQ(pool.release_pages(), kPage);
  EXPECT_FALSE(is_resident(first));
  EXPECT_TRUE(Pattern(5).holds(second, kPage));
  release(second);
}

TEST_F(PageReleaseTest, NothingIsGivenBackTwice) {
  Pool pool(make_layout({{0, kPage, 64, false}}), 1);
  EXPECT_EQ(pool.release_pages(), 0u) << "there is no arena yet";
  release(blocks_of_a_run(pool, {kPage})[0]);
  EXPECT_EQ(pool.release_pages(), kPage);
  EXPECT_EQ(pool.release_pages(), 0u);
  release(blocks_of_a_run(pool, {kPage})[0]);
  EXPECT_EQ(pool.release_pages(), kPage);
}

TEST_F(PageReleaseTest, AnArenaThatWasUsedLatelyKeepsItsPages) {
  Pool pool(make_layout({{0, kPage, 64, false}}), 1);
  std::byte* block = blocks_of_a_run(pool, {kPage})[0];
  release(block);
  EXPECT_EQ(pool.release_pages(kHour), 0u);
  EXPECT_TRUE(is_resident(block));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(pool.release_pages(std::chrono::milliseconds(5)), kPage);
  EXPECT_FALSE(is_resident(block));
}

TEST_F(PageReleaseTest, RunsGoOnWhilePagesAreReleased) {
  Pool pool(make_layout({{0, 8 * kPage, 64, false}, {8 * kPage, kPage, 64, true}}, 1), 4);
  std::atomic<bool> stop{false};
  std::thread releasing([&] {
    while (!stop) pool.release_pages();
  });
  std::vector<std::thread> running;
  for (uint64_t id = 0; id < 2; ++id) {
    running.emplace_back([&pool, id] {
      std::byte* output = nullptr;
      for (uint64_t i = 0; i < 500; ++i) {
        const BeginResult run = pool.begin();
        auto* scratch = static_cast<std::byte*>(allocate(8 * kPage));
        auto* next = static_cast<std::byte*>(allocate(kPage));
        Pattern(id * 1000 + i).write(scratch, 8 * kPage);
        Pattern(id * 1000 + i).write(next, kPage);
        EXPECT_TRUE(Pattern(id * 1000 + i).holds(scratch, 8 * kPage));
        release(scratch);
        // The threads may meet on one arena, where one finds the places of its output taken by the other's.
        const RunCounts counts = Pool::end(run.token);
        EXPECT_EQ(counts.num_upstream(), upstream_because(counts, Deviation::kOccupied));
        EXPECT_GE(counts.served, 1u);
        if (output != nullptr) {
          EXPECT_TRUE(Pattern(id * 1000 + i - 1).holds(output, kPage));
          release(output);
        }
        output = next;
      }
      release(output);
    });
  }
  for (std::thread& thread : running) thread.join();
  stop = true;
  releasing.join();
}

}  // namespace
}  // namespace memomalloc::testing
