// fork() during a run, a recording, a wait, and after: parent and child both go on.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "child_process.hpp"
#include "core/process_memory.hpp"
#include "core/recording.hpp"
#include "core_fixture.hpp"
#include "interposed_calls.hpp"
#include "live_blocks.hpp"
#include "other_thread.hpp"

namespace memomalloc::testing {
namespace {

class ForkTest : public CoreTest {
 protected:
  static constexpr std::size_t kBytes = 128;

  static std::shared_ptr<const Layout> chain() {
    return make_layout(std::vector<PlannedBuffer>(8, {0, kBytes, kBytes, false}));
  }

  // How many requests of a whole run are served.
  static uint64_t num_served(Armed& plan) {
    const BeginResult run = plan.begin();
    for (int i = 0; i < 8; ++i) release(allocate(kBytes));
    return ArmedPlan::end(run.token).served;
  }
};

TEST_F(ForkTest, TheChildContinuesTheRunOfTheThreadThatForked) {
  Armed plan(chain(), 1);
  const BeginResult run = plan.begin();
  void* block = allocate(kBytes);
  Pattern(1).write(block, kBytes);
  EXPECT_EQ(outcome_of_child([&] {
              if (!Pattern(1).holds(block, kBytes)) return 1;
              Pattern(2).write(block, kBytes);
              release(block);
              for (int i = 1; i < 8; ++i) release(allocate(kBytes));
              if (ArmedPlan::end(run.token).served != 8) return 2;
              return num_served(plan) == 8 ? 0 : 3;
            }),
            0);
  EXPECT_TRUE(Pattern(1).holds(block, kBytes));
  release(block);
  for (int i = 1; i < 8; ++i) release(allocate(kBytes));
  EXPECT_EQ(ArmedPlan::end(run.token).served, 8u);
}

TEST_F(ForkTest, TheChildAfterARunBeginsItsOwn) {
  Armed plan(chain(), 1);
  EXPECT_EQ(num_served(plan), 8u);
  EXPECT_EQ(outcome_of_child([&] { return num_served(plan) == 8 ? 0 : 1; }), 0);
  EXPECT_EQ(num_served(plan), 8u);
}

TEST_F(ForkTest, TheChildKeepsClearOfTheRunsOfThreadsThatItDoesNotHave) {
  Armed plan(chain(), 1);
  OtherThread other;
  void* theirs = nullptr;
  RunToken token = 0;
  other.run([&] {
    token = plan.begin().token;
    theirs = allocate(kBytes);
    Pattern(1).write(theirs, kBytes);
  });
  EXPECT_EQ(outcome_of_child([&] {
              if (num_served(plan) != 8) return 1;
              if (!Pattern(1).holds(theirs, kBytes)) return 2;
              release(theirs);
              return num_served(plan) == 8 ? 0 : 3;
            }),
            0);
  EXPECT_EQ(plan.begin().outcome, Begin::kNoRegion);
  other.run([&] {
    release(theirs);
    EXPECT_EQ(ArmedPlan::end(token).served, 1u);
  });
}

TEST_F(ForkTest, TheChildHasAThreadThatGivesIdleMemoryBackOnceItRuns) {
  if (MEMOMALLOC_TEST_IS_SANITIZED) GTEST_SKIP() << "ThreadSanitizer allows no threads in a forked child";
  Armed plan(chain());
  num_served(plan);
  set_release_after(std::chrono::milliseconds(20));
  EXPECT_EQ(outcome_of_child([&] {
              alarm(20);
              std::thread([&] { num_served(plan); }).join();
              while (memory_use().used_bytes != 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
              return 0;
            }),
            0);
  set_release_after(std::chrono::nanoseconds(0));
}

TEST_F(ForkTest, TheChildForgetsTheRecordingsOfThreadsThatItDoesNotHave) {
  OtherThread other;
  const auto mine = Recording::open();
  std::shared_ptr<Recording> theirs;
  other.run([&] { theirs = Recording::open(); });
  EXPECT_EQ(outcome_of_child([&] {
              if (mine->is_closed() || !theirs->is_closed()) return 1;
              mine->close();
              return Recording::any_open() ? 2 : 0;
            }),
            0);
  EXPECT_FALSE(theirs->is_closed());
  other.run([&] { theirs->close(); });
  mine->close();
}

TEST_F(ForkTest, WhileOtherThreadsBeginAndEndRunsTheLockIsNeverLeftLocked) {
  Armed plan(chain(), 4);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (!stop) num_served(plan);
    });
  }
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(outcome_of_child([&] {
                // A block that was alive in one of the others may stand in the way; a dead lock would hang.
                alarm(20);
                num_served(plan);
                return 0;
              }),
              0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ForkTest, TheChildDoesNotWaitForThreadsThatWaited) {
  if (MEMOMALLOC_TEST_IS_SANITIZED) GTEST_SKIP() << "ThreadSanitizer allows no threads in a forked child";
  Armed plan(chain(), 1);
  const auto start_waiting = [&plan] {
    std::thread thread([&plan] {
      const BeginResult late = plan->begin(std::chrono::seconds(20));
      EXPECT_EQ(late.outcome, Begin::kStarted);
      ArmedPlan::end(late.token);
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // until it waits; too short is harmless
    return thread;
  };
  RunToken token = plan.begin().token;
  std::thread waiting = start_waiting();
  EXPECT_EQ(outcome_of_child([&] {
              alarm(10);
              for (int i = 0; i < 3; ++i) {
                std::thread waiting_in_child = start_waiting();
                ArmedPlan::end(token);
                waiting_in_child.join();
                token = plan.begin().token;
              }
              return 0;
            }),
            0);
  ArmedPlan::end(token);
  waiting.join();
}

}  // namespace
}  // namespace memomalloc::testing
