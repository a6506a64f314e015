#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "core/armed_plan.hpp"
#include "core/front.hpp"

namespace memomalloc::testing {

// The allocator behind the core in tests: glibc's, with its calls counted and a profiler that can be switched
// on for a thread.
struct CountingUpstream {
  inline static std::atomic<uint64_t> num_allocated{0};
  inline static std::atomic<uint64_t> num_released{0};
  inline static thread_local bool is_profiling = false;
  inline static thread_local std::vector<int64_t>* reported_bytes = nullptr;

  static void* allocate(std::size_t bytes) {
    void* block = nullptr;
    // Sanitizers abort on absurd sizes.
    if (bytes > PTRDIFF_MAX || posix_memalign(&block, kAlignmentBytes, bytes) != 0) throw std::bad_alloc();
    ++num_allocated;
    return block;
  }
  static void release(void* block) noexcept {
    ++num_released;
    std::free(block);
  }
  static bool profiling() noexcept { return is_profiling; }
  static void report(void*, int64_t bytes) noexcept {
    if (reported_bytes != nullptr) reported_bytes->push_back(bytes);
  }
};

// Once a process, as the real one is.
inline void install_counting_upstream() {
  static const bool installed = [] {
    install({&CountingUpstream::allocate, &CountingUpstream::release, &CountingUpstream::profiling,
             &CountingUpstream::report});
    return true;
  }();
  static_cast<void>(installed);
}

// A test on the whole core: every block must have been given back properly, and no run left open.
class CoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    install_counting_upstream();
    bad_frees_before_ = g_num_bad_frees.load();
    upstream_live_before_ = upstream_live();
  }

  void TearDown() override {
    EXPECT_EQ(t_state.running, nullptr) << "the test left a run open";
    EXPECT_EQ(t_state.recording, nullptr) << "the test left a recording open";
    EXPECT_EQ(g_num_bad_frees.load() - bad_frees_before_, expected_bad_frees_);
    EXPECT_EQ(upstream_live(), upstream_live_before_) << "blocks of upstream leaked, or freed twice";
  }

  static uint64_t upstream_live() { return CountingUpstream::num_allocated - CountingUpstream::num_released; }

  uint64_t expected_bad_frees_ = 0;

 private:
  uint64_t bad_frees_before_ = 0;
  uint64_t upstream_live_before_ = 0;
};

inline std::shared_ptr<const Layout> make_layout(const std::vector<PlannedBuffer>& buffers) {
  uint64_t arena_bytes = 0;
  for (const PlannedBuffer& buffer : buffers)
    arena_bytes = std::max(arena_bytes, buffer.offset + buffer.size);
  return std::make_shared<const Layout>(buffers, arena_bytes);
}

// An armed plan as its owner has it: retired with this object.
class Armed {
 public:
  explicit Armed(std::shared_ptr<const Layout> layout, ReplayOptions options = {},
                 std::shared_ptr<RunBudget> budget = nullptr)
      : plan_(ArmedPlan::make(std::move(layout), options, std::move(budget))) {}
  Armed(std::shared_ptr<const Layout> layout, uint32_t max_runs)
      : Armed(std::move(layout), ReplayOptions{false, false, false, max_runs}) {}
  ~Armed() { plan_->retire(); }
  Armed(const Armed&) = delete;
  Armed& operator=(const Armed&) = delete;

  ArmedPlan* operator->() const { return plan_.get(); }
  BeginResult begin() { return plan_->begin(); }
  PlanCounts counts() const { return plan_->counts(); }

 private:
  std::shared_ptr<ArmedPlan> plan_;
};

inline uint64_t upstream_because(const RunCounts& counts, Deviation why) {
  return counts.upstream[static_cast<std::size_t>(why)];
}

}  // namespace memomalloc::testing
