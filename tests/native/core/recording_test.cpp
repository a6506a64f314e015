#include "core/recording.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "core_fixture.hpp"
#include "interposed_calls.hpp"
#include "other_thread.hpp"

namespace memomalloc::testing {
namespace {

class RecordingTest : public CoreTest {};

TEST_F(RecordingTest, WritesDownSizesAndLifetimesInTicks) {
  const auto recording = Recording::open();
  void* first = allocate(100);
  void* second = allocate(200);
  release(first);
  void* third = allocate(300);
  release(third);
  release(second);
  recording->close();

  const RecordedBuffers seen = recording->buffers();
  EXPECT_EQ(seen.sizes, (std::vector<uint64_t>{100, 200, 300}));
  EXPECT_EQ(seen.starts, (std::vector<int64_t>{0, 1, 3}));
  EXPECT_EQ(seen.ends, (std::vector<int64_t>{2, 5, 4}));
  EXPECT_EQ(seen.contexts, (std::vector<uint32_t>{0, 0, 0}));
  EXPECT_EQ(seen.freed_in_call, (std::vector<uint8_t>{0, 0, 0}));
  EXPECT_EQ(seen.num_ticks, 6);
}

TEST_F(RecordingTest, ABlockThatIsAliveAtTheEndEscapes) {
  const auto recording = Recording::open();
  void* output = allocate(64);
  recording->close();
  release(output);
  EXPECT_EQ(recording->buffers().ends, (std::vector<int64_t>{RecordedBuffers::kAlive}));
  EXPECT_EQ(recording->buffers().num_ticks, 1);
}

TEST_F(RecordingTest, ABlockFromBeforeTheRecordingIsNoneOfItsBusiness) {
  void* early = allocate(64);
  const auto recording = Recording::open();
  release(early);
  recording->close();
  EXPECT_EQ(recording->buffers().num_ticks, 0);
}

TEST_F(RecordingTest, AnAddressThatIsReusedIsAnotherBuffer) {
  const auto recording = Recording::open();
  for (int i = 0; i < 100; ++i) release(allocate(64));
  recording->close();
  const RecordedBuffers seen = recording->buffers();
  ASSERT_EQ(seen.sizes.size(), 100u);
  for (int64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(seen.starts[static_cast<std::size_t>(i)], 2 * i);
    EXPECT_EQ(seen.ends[static_cast<std::size_t>(i)], 2 * i + 1);
  }
}

TEST_F(RecordingTest, ABlockFreedBehindOurBackEndsWhenItsAddressReturns) {
  const auto recording = Recording::open();
  void* block = allocate(64);
  Recording::log_allocation(block, 128);  // as if upstream had handed out the address again
  release(block);
  recording->close();
  EXPECT_EQ(recording->buffers().sizes, (std::vector<uint64_t>{64, 128}));
  EXPECT_EQ(recording->buffers().starts, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(recording->buffers().ends, (std::vector<int64_t>{1, 3}));
}

TEST_F(RecordingTest, AFreeOnAnotherThreadIsSeenAnAllocationThereIsNot) {
  const auto recording = Recording::open();
  void* block = allocate(64);
  std::thread([block] {
    release(allocate(32));
    release(block);
  }).join();
  recording->close();
  EXPECT_EQ(recording->buffers().sizes, (std::vector<uint64_t>{64}));
  EXPECT_EQ(recording->buffers().ends, (std::vector<int64_t>{1}));
}

TEST_F(RecordingTest, NestedRecordingsEachSeeEveryEvent) {
  const auto outer = Recording::open();
  void* first = allocate(64);
  const auto inner = Recording::open();
  void* second = allocate(128);
  release(first);
  inner->close();
  release(second);
  outer->close();
  EXPECT_EQ(outer->buffers().sizes, (std::vector<uint64_t>{64, 128}));
  EXPECT_EQ(outer->buffers().ends, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(inner->buffers().sizes, (std::vector<uint64_t>{128}));
  EXPECT_EQ(inner->buffers().ends, (std::vector<int64_t>{RecordedBuffers::kAlive}));
}

TEST_F(RecordingTest, RecordingsOfAClockShareItsTicksAndOutliveTheirThreads) {
  const auto clock = std::make_shared<Clock>();
  const auto mine = Recording::open(nullptr, clock);
  std::shared_ptr<Recording> theirs;
  void* first = allocate(64);
  void* second = nullptr;
  std::thread([&] {
    theirs = Recording::open(nullptr, clock);
    EXPECT_TRUE(theirs->has_thread());
    second = allocate(128);
    release(allocate(32));
  }).join();
  EXPECT_FALSE(theirs->has_thread());
  EXPECT_FALSE(theirs->is_closed());
  release(first);
  release(second);  // of a thread that is gone
  mine->close();
  theirs->close();
  EXPECT_EQ(mine->buffers().starts, (std::vector<int64_t>{0}));
  EXPECT_EQ(mine->buffers().ends, (std::vector<int64_t>{4}));
  EXPECT_EQ(theirs->buffers().starts, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(theirs->buffers().ends, (std::vector<int64_t>{5, 3}));
  EXPECT_EQ(mine->buffers().num_ticks, 6);
  EXPECT_EQ(mine->buffers().num_elsewhere, 0u);
  EXPECT_FALSE(Recording::any_open());
}

TEST_F(RecordingTest, ThreadsThatComeAndGoWhileTheirRecordingsAreClosed) {
  const auto clock = std::make_shared<Clock>();
  const auto mine = Recording::open(nullptr, clock);
  std::vector<std::thread> threads;
  std::vector<std::shared_ptr<Recording>> theirs(8);
  std::vector<void*> blocks(8);
  std::atomic<int> num_open{0};
  for (std::size_t i = 0; i < theirs.size(); ++i) {
    threads.emplace_back([&, i] {
      theirs[i] = Recording::open(nullptr, clock);
      blocks[i] = allocate(64);
      num_open.fetch_add(1);
      for (int n = 0; n < 200; ++n) release(allocate(32));
    });
  }
  while (num_open.load() < static_cast<int>(theirs.size())) std::this_thread::yield();
  for (const auto& recording : theirs) recording->close();  // while their threads allocate, or exit
  for (auto& thread : threads) thread.join();
  for (void* block : blocks) release(block);
  mine->close();
  for (const auto& recording : theirs) {
    EXPECT_TRUE(recording->is_closed());
    EXPECT_EQ(recording->buffers().sizes.front(), 64u);
  }
  EXPECT_FALSE(Recording::any_open());
}

TEST_F(RecordingTest, TheOuterOneMayBeClosedFirst) {
  auto outer = Recording::open();
  const auto inner = Recording::open();
  outer->close();
  outer.reset();
  release(allocate(64));
  inner->close();
  EXPECT_EQ(inner->buffers().sizes, (std::vector<uint64_t>{64}));
  EXPECT_EQ(t_state.recording, nullptr);
}

TEST_F(RecordingTest, ClosingTwiceIsClosingOnce) {
  const auto recording = Recording::open();
  recording->close();
  recording->close();
  EXPECT_TRUE(recording->is_closed());
  EXPECT_FALSE(Recording::any_open());
}

TEST_F(RecordingTest, ClosedAndDroppedOnAnotherThreadItIsForgottenWhenTheNextOpens) {
  auto recording = Recording::open();
  void* block = allocate(64);
  std::thread([&recording] {
    recording->close();
    recording.reset();
  }).join();
  EXPECT_FALSE(Recording::any_open());
  release(allocate(64));
  const auto next = Recording::open();
  EXPECT_EQ(t_state.recording, next.get());
  release(block);
  next->close();
  EXPECT_EQ(next->buffers().num_ticks, 0);
}

TEST_F(RecordingTest, AThreadThatEndsClosesItsRecordings) {
  std::shared_ptr<Recording> outer;
  std::shared_ptr<Recording> inner;
  std::thread([&] {
    outer = Recording::open();
    inner = Recording::open();
    release(allocate(64));
  }).join();
  EXPECT_TRUE(outer->is_closed());
  EXPECT_TRUE(inner->is_closed());
  EXPECT_FALSE(Recording::any_open());
  EXPECT_EQ(outer->buffers().ends, (std::vector<int64_t>{1}));
}

// A context source that does what a test tells it to, and counts how often it is asked.
class ScriptedSource : public ContextSource {
 public:
  explicit ScriptedSource(std::function<void()> at_allocation = nullptr,
                          std::function<void()> at_end = nullptr)
      : at_allocation_(std::move(at_allocation)), at_end_(std::move(at_end)) {}
  ~ScriptedSource() override {
    if (at_end_ != nullptr) at_end_();
  }
  Context current() override {
    if (at_allocation_ != nullptr) at_allocation_();
    ++num_asked_;
    return {num_asked_ + 100, num_asked_};
  }
  bool is_running(uint32_t call) const noexcept override { return call == running_call; }
  void recording_closed() noexcept override { ++num_closed; }

  uint32_t running_call = 0;
  std::atomic<uint32_t> num_closed{0};

 private:
  const std::function<void()> at_allocation_;
  const std::function<void()> at_end_;
  uint32_t num_asked_ = 0;
};

TEST_F(RecordingTest, TheSourceIsAskedOnceAnAllocationAndAtItsFree) {
  const auto source = std::make_shared<ScriptedSource>();
  const auto recording = Recording::open(source);
  void* scratch = allocate(64);
  void* output = allocate(64);
  source->running_call = 1;
  release(scratch);
  release(output);
  recording->close();
  EXPECT_EQ(source->num_closed, 1u);
  recording->close();
  EXPECT_EQ(source->num_closed, 1u) << "once a recording";
  EXPECT_EQ(recording->buffers().contexts, (std::vector<uint32_t>{101, 102}));
  EXPECT_EQ(recording->buffers().freed_in_call, (std::vector<uint8_t>{1, 0}));
}

Argument argument(const void* block, uint64_t bytes, bool is_parameter = false) {
  return {block, bytes, is_parameter, is_parameter};
}

TEST_F(RecordingTest, ACallKnowsWhatItReadAndMade) {
  void* weight = allocate(32);
  const auto recording = Recording::open();
  void* input = allocate(64);
  Recording::begin_call(false);
  Recording::log_arguments(
      {argument(input, 64), argument(weight, 32), argument(input, 64), argument(weight, 32)}, true);
  EXPECT_TRUE(Recording::has_call_to_log());
  void* scratch = allocate(16);
  // What an operator inside reads counts, but for what the call made itself, and what is not recorded.
  Recording::log_arguments({argument(input, 64), argument(scratch, 16), argument(weight, 32)}, false);
  release(scratch);
  void* output = allocate(128);
  Recording::end_call({7, 1, 3});
  Recording::begin_call(false);
  EXPECT_FALSE(Recording::has_call_to_log()) << "a view of something else, say";
  Recording::end_call({8, 2, 3});
  release(input);
  recording->close();
  release(output);
  release(weight);

  const RecordedCalls calls = recording->calls();
  EXPECT_EQ(calls.begins, (std::vector<int64_t>{1}));
  EXPECT_EQ(calls.ends, (std::vector<int64_t>{4}));
  EXPECT_EQ(calls.contexts, (std::vector<uint32_t>{7}));
  EXPECT_EQ(calls.frames, (std::vector<uint64_t>{3}));
  EXPECT_EQ(calls.tracked, (std::vector<uint8_t>{0}));
  EXPECT_EQ(calls.reading_calls, (std::vector<uint32_t>{0}));
  EXPECT_EQ(calls.read_buffers, (std::vector<uint32_t>{0}));
  EXPECT_EQ(calls.outside_calls, (std::vector<uint32_t>{0, 0}));
  EXPECT_EQ(calls.outside_bytes, (std::vector<uint64_t>{32, 32}));
  EXPECT_FALSE(calls.is_incomplete);
}

TEST_F(RecordingTest, AParameterIsReadFromOutsideAndLetsAutogradKeepTheRest) {
  const auto recording = Recording::open();
  void* weight = allocate(32);
  void* input = allocate(64);
  for (const bool with_gradients : {true, false}) {
    Recording::begin_call(with_gradients);
    Recording::log_arguments({argument(weight, 32, true), argument(input, 64)}, true);
    Recording::end_call({});
  }
  recording->close();
  release(weight);
  release(input);
  const RecordedCalls calls = recording->calls();
  EXPECT_EQ(calls.tracked, (std::vector<uint8_t>{1, 0}));
  EXPECT_EQ(calls.read_buffers, (std::vector<uint32_t>{1, 1}));
  EXPECT_EQ(calls.outside_bytes, (std::vector<uint64_t>{32, 32}));
}

TEST_F(RecordingTest, AnAddressThatIsReusedInACallIsReadAsWhatItWas) {
  const auto recording = Recording::open();
  void* block = allocate(64);
  Recording::begin_call(false);
  Recording::log_arguments({argument(block, 64)}, true);
  Recording::log_free(block);
  Recording::log_allocation(block, 64);  // as if upstream had handed out the address again
  Recording::end_call({});
  Recording::begin_call(false);
  Recording::log_arguments({argument(block, 64)}, true);
  Recording::end_call({});
  release(block);
  recording->close();
  EXPECT_EQ(recording->calls().read_buffers, (std::vector<uint32_t>{0, 1}));
}

TEST_F(RecordingTest, EachOfNestedRecordingsCountsCallsInItsOwnTicks) {
  const auto outer = Recording::open();
  void* early = allocate(64);
  Recording::begin_call(false);
  Recording::log_arguments({argument(early, 64)}, true);
  const auto inner = Recording::open();
  void* block = allocate(32);
  Recording::end_call({});
  Recording::lose_calls();
  inner->close();
  Recording::begin_call(false);
  Recording::log_arguments({argument(block, 32)}, true);
  Recording::end_call({});
  outer->close();
  release(block);
  release(early);
  EXPECT_EQ(outer->calls().begins, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(outer->calls().read_buffers, (std::vector<uint32_t>{0, 1}));
  EXPECT_EQ(inner->calls().begins, (std::vector<int64_t>{0}));
  EXPECT_EQ(inner->calls().ends, (std::vector<int64_t>{1}));
  EXPECT_TRUE(inner->calls().read_buffers.empty());
  EXPECT_TRUE(inner->calls().is_incomplete);
}

TEST_F(RecordingTest, OtherThreadsFreeAndAskWhileCallsAreLogged) {
  const auto recording = Recording::open();
  std::atomic<bool> is_over{false};
  std::atomic<void*> handed{nullptr};
  std::thread other([&] {
    while (!is_over) {
      if (void* block = handed.exchange(nullptr); block != nullptr) release(block);
      static_cast<void>(recording->calls());
    }
  });
  for (int i = 0; i < 1000; ++i) {
    void* block = allocate(64);
    Recording::begin_call(false);
    Recording::log_arguments({argument(block, 64)}, true);
    if (void* last = handed.exchange(block); last != nullptr) release(last);
    Recording::end_call({});
  }
  is_over = true;
  other.join();
  if (void* last = handed.load(); last != nullptr) release(last);
  recording->close();
  const RecordedCalls calls = recording->calls();
  ASSERT_EQ(calls.read_buffers.size(), 1000u);
  for (uint32_t i = 0; i < 1000; ++i) EXPECT_EQ(calls.read_buffers[i], i);
}

TEST_F(RecordingTest, TheSourceMayWaitForAnotherThreadThatFrees) {
  // As one that takes the GIL does, while the thread that has it drops a tensor.
  OtherThread other;
  void* block = allocate(32);
  const auto recording = Recording::open(std::make_shared<ScriptedSource>(
      [&] { other.run([&] { release(std::exchange(block, allocate(32))); }); }));
  release(allocate(64));
  recording->close();
  EXPECT_EQ(recording->buffers().sizes, (std::vector<uint64_t>{64}));
  release(block);
}

TEST_F(RecordingTest, TheSourceMayCloseTheRecording) {
  // As one that runs Python does, when the garbage collector finds a recording that nobody needs.
  const auto outer = Recording::open();
  std::shared_ptr<Recording> inner;
  inner = Recording::open(std::make_shared<ScriptedSource>([&inner] {
    inner->close();
    inner.reset();
  }));
  release(allocate(64));
  EXPECT_EQ(outer->buffers().sizes, (std::vector<uint64_t>{64}));
  outer->close();
}

TEST_F(RecordingTest, TheSourceMayFreeBlocksAsItGoes) {
  // As one that keeps modules alive does, when it was the last to do so.
  for (const bool closed_elsewhere : {false, true}) {
    void* block = allocate(64);
    auto recording = Recording::open(std::make_shared<ScriptedSource>(nullptr, [block] { release(block); }));
    const auto close = [&recording] {
      Recording& borrowed = *recording;
      recording.reset();
      borrowed.close();
    };
    if (closed_elsewhere) {
      std::thread([&recording] {
        recording->close();
        recording.reset();
      }).join();
      Recording::open()->close();
    } else {
      close();
    }
  }
}

TEST_F(RecordingTest, WhatOtherThreadsAskForMeanwhileIsCounted) {
  const auto recording = Recording::open();
  std::thread([] { release(allocate(1000)); }).join();
  recording->close();
  EXPECT_EQ(recording->buffers().num_elsewhere, 1u);
  EXPECT_EQ(recording->buffers().bytes_elsewhere, 1000u);
  EXPECT_TRUE(recording->buffers().sizes.empty());
}

TEST_F(RecordingTest, OutOfMemoryAtAnyPointLeavesTheRecordingInOnePiece) {
  const auto outer = Recording::open();
  const auto inner = Recording::open();
  for (uint64_t round = 0; round < 200; ++round) {
    for (uint64_t num_good_calls = 0; num_good_calls < 18; ++num_good_calls) {
      void* block = nullptr;
      try {
        const FailingNew failing(num_good_calls);
        block = allocate(64);
      } catch (const std::bad_alloc&) {
        continue;
      }
      release(block);
    }
  }
  inner->close();
  outer->close();
  for (const auto& recording : {outer, inner}) {
    const RecordedBuffers seen = recording->buffers();
    EXPECT_EQ(seen.starts.size(), seen.sizes.size());
    EXPECT_EQ(seen.ends.size(), seen.sizes.size());
    EXPECT_EQ(seen.contexts.size(), seen.sizes.size());
    EXPECT_EQ(seen.freed_in_call.size(), seen.sizes.size());
    for (std::size_t i = 0; i < seen.ends.size(); ++i) EXPECT_EQ(seen.ends[i], seen.starts[i] + 1);
  }
}

TEST_F(RecordingTest, ResidentGrowthIsMeasuredWhenMostBytesWereAlive) {
  constexpr std::size_t kBytes = std::size_t{32} << 20;
  const auto recording = Recording::open();
  void* block = allocate(kBytes);
  std::memset(block, 1, kBytes);
  release(block);
  recording->close();
  EXPECT_GE(recording->resident_growth_bytes(), kBytes / 2);
}

}  // namespace
}  // namespace memomalloc::testing
