// Pages go back to the system: which, when, and what stays.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "core/armed_plan.hpp"
#include "core/free_pages.hpp"
#include "core/process_memory.hpp"
#include "core_fixture.hpp"
#include "interposed_calls.hpp"
#include "live_blocks.hpp"
#include "residency.hpp"

namespace memomalloc::testing {
namespace {

const uint64_t kPage = system_page_bytes();
constexpr std::chrono::hours kHour{1};

class PageReleaseTest : public CoreTest {
 protected:
  // The blocks of a run that asks for these sizes, all still live, and written to.
  static std::vector<std::byte*> blocks_of_a_run(Armed& plan, const std::vector<uint64_t>& sizes) {
    const BeginResult run = plan.begin();
    EXPECT_EQ(run.outcome, Begin::kStarted);
    std::vector<std::byte*> blocks;
    for (const uint64_t size : sizes) {
      blocks.push_back(static_cast<std::byte*>(allocate(size)));
      std::memset(blocks.back(), 1, size);
    }
    EXPECT_EQ(ArmedPlan::end(run.token).num_upstream(), 0u);
    return blocks;
  }
};

TEST_F(PageReleaseTest, ALiveBlockKeepsItsOwnPagesOnly) {
  // The second block begins and ends in the middle of a page.
  Armed plan(make_layout({{0, 4 * kPage + 64, 64, false},
                          {4 * kPage + 64, 2 * kPage, 64, false},
                          {6 * kPage + 64, 3 * kPage, 64, false}}),
             1);
  const auto blocks = blocks_of_a_run(plan, {4 * kPage + 64, 2 * kPage, 3 * kPage});
  const std::byte* base = blocks[0];
  Pattern(3).write(blocks[1], 2 * kPage);
  release(blocks[0]);
  release(blocks[2]);
  EXPECT_EQ(release_pages(), 7 * kPage);
  for (uint64_t page = 0; page < 10; ++page) {
    EXPECT_EQ(is_resident(base + page * kPage), page >= 4 && page < 7) << page;
  }
  EXPECT_TRUE(Pattern(3).holds(blocks[1], 2 * kPage));
  release(blocks[1]);
  EXPECT_EQ(release_pages(), 7 * kPage) << "what lay behind is gone already";
  EXPECT_FALSE(is_resident(base + 5 * kPage));
}

TEST_F(PageReleaseTest, AnOutputKeepsItsPages) {
  Armed plan(make_layout({{0, kPage, 64, true}}), 1);
  std::byte* first = blocks_of_a_run(plan, {kPage})[0];
  std::byte* second = blocks_of_a_run(plan, {kPage})[0];
  ASSERT_EQ(second - first, static_cast<std::ptrdiff_t>(kPage));
  Pattern(5).write(second, kPage);
  release(first);
  EXPECT_EQ(release_pages(), kPage);
  EXPECT_FALSE(is_resident(first));
  EXPECT_TRUE(Pattern(5).holds(second, kPage));
  release(second);
}

TEST_F(PageReleaseTest, AThreadGivesBackWhatLiesIdleAndEndsWhenNothingIsLeft) {
  if (MEMOMALLOC_TEST_IS_SANITIZED) GTEST_SKIP() << "it waits by the clock";
  Armed plan(make_layout({{0, kPage, 64, false}, {kPage, kPage, 64, true}}), 1);
  std::vector<std::byte*> blocks = blocks_of_a_run(plan, {kPage, kPage});
  set_release_after(std::chrono::milliseconds(40));
  release(blocks[0]);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (is_resident(blocks[0]) && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_FALSE(is_resident(blocks[0]));
  EXPECT_TRUE(is_resident(blocks[1])) << "an output that lives";
  EXPECT_EQ(memory_use().used_bytes, kPage);
  release(blocks[1]);
  while (memory_use().used_bytes != 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(memory_use().used_bytes, 0u);
  set_release_after(std::chrono::nanoseconds(0));
}

TEST_F(PageReleaseTest, NothingIsGivenBackTwice) {
  Armed plan(make_layout({{0, kPage, 64, false}}), 1);
  EXPECT_EQ(release_pages(), 0u) << "there is no region yet";
  release(blocks_of_a_run(plan, {kPage})[0]);
  EXPECT_EQ(release_pages(), kPage);
  EXPECT_EQ(release_pages(), 0u);
  release(blocks_of_a_run(plan, {kPage})[0]);
  EXPECT_EQ(release_pages(), kPage);
}

TEST_F(PageReleaseTest, ARegionThatWasUsedLatelyKeepsItsPages) {
  Armed plan(make_layout({{0, kPage, 64, false}}), 1);
  std::byte* block = blocks_of_a_run(plan, {kPage})[0];
  release(block);
  EXPECT_EQ(release_pages(kHour), 0u);
  EXPECT_TRUE(is_resident(block));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(release_pages(std::chrono::milliseconds(5)), kPage);
  EXPECT_FALSE(is_resident(block));
}

TEST_F(PageReleaseTest, RunsGoOnWhilePagesAreReleased) {
  Armed plan(make_layout({{0, 8 * kPage, 64, false}, {8 * kPage, kPage, 64, true}}), 4);
  std::atomic<bool> stop{false};
  std::thread releasing([&] {
    while (!stop) release_pages();
  });
  std::vector<std::thread> running;
  for (uint64_t id = 0; id < 2; ++id) {
    running.emplace_back([&plan, id] {
      std::byte* output = nullptr;
      for (uint64_t i = 0; i < 500; ++i) {
        const BeginResult run = plan.begin();
        auto* scratch = static_cast<std::byte*>(allocate(8 * kPage));
        auto* next = static_cast<std::byte*>(allocate(kPage));
        Pattern(id * 1000 + i).write(scratch, 8 * kPage);
        Pattern(id * 1000 + i).write(next, kPage);
        EXPECT_TRUE(Pattern(id * 1000 + i).holds(scratch, 8 * kPage));
        release(scratch);
        EXPECT_EQ(ArmedPlan::end(run.token).num_upstream(), 0u);
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
  release_pages();
  EXPECT_EQ(memory_use().used_bytes, 0u);
}

}  // namespace
}  // namespace memomalloc::testing
