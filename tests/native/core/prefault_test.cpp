// Pages that are made resident before their first use: when, and by whom.
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>

#include "core/arena.hpp"
#include "core/arena_budget.hpp"
#include "core/registry.hpp"
#include "core_fixture.hpp"
#include "residency.hpp"

namespace memomalloc::testing {
namespace {

constexpr uint64_t kBytes = uint64_t{1} << 20;

// An arena that runs on this thread, made without a pool.
class PrefaultTest : public CoreTest {
 protected:
  void begin(bool prefault) {
    const RegistryGuard guard(g_registry_lock);
    arena_ = Arena::create(make_layout({{0, kBytes, kBytes, false}}), nullptr,
                           std::make_shared<ArenaBudget>(UINT64_MAX), {false, prefault, false});
    ASSERT_NE(arena_, nullptr);
    arena_->start_run();
    block_ = static_cast<std::byte*>(arena_->take(kBytes));
  }
  void end() {
    release(block_);
    const RegistryGuard guard(g_registry_lock);
    arena_->finish_run();
    arena_->orphan();
  }

  Arena* arena_ = nullptr;
  std::byte* block_ = nullptr;
};

TEST_F(PrefaultTest, NothingIsResidentBeforeTheRunningThreadAsksForIt) {
  begin(/*prefault=*/true);
  EXPECT_FALSE(is_resident(block_)) << "under the lock, for which all others wait";
  arena_->prefault();
  // Kernels before 5.14 refuse the advice.
  std::byte* probe = static_cast<std::byte*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  constexpr int kPopulateWrite = 23;
  const bool is_known = madvise(probe, kBytes, kPopulateWrite) == 0;
  munmap(probe, kBytes);
  EXPECT_EQ(is_resident(block_), is_known);
  EXPECT_EQ(is_resident(block_ + kBytes - 4096), is_known);
  end();
}

TEST_F(PrefaultTest, OnceIsEnough) {
  begin(/*prefault=*/true);
  arena_->prefault();
  ASSERT_EQ(madvise(block_, kBytes, MADV_DONTNEED), 0);
  arena_->prefault();
  EXPECT_FALSE(is_resident(block_));
  end();
}

TEST_F(PrefaultTest, WithoutTheOptionItDoesNothing) {
  begin(/*prefault=*/false);
  arena_->prefault();
  EXPECT_FALSE(is_resident(block_));
  end();
}

}  // namespace
}  // namespace memomalloc::testing
