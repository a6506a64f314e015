// Pages that are made resident before their first use.
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>

#include "core/process_memory.hpp"
#include "core_fixture.hpp"
#include "residency.hpp"

namespace memomalloc::testing {
namespace {

constexpr uint64_t kBytes = uint64_t{1} << 20;

class PrefaultTest : public CoreTest {
 protected:
  // Whether the last page of a run's only block is resident as it is handed out.
  static bool is_resident_at_first(Armed& plan) {
    const BeginResult run = plan.begin();
    auto* block = static_cast<std::byte*>(allocate(kBytes));
    EXPECT_TRUE(g_range.contains(block));
    const bool is = is_resident(block + kBytes - 4096);
    release(block);
    ArmedPlan::end(run.token);
    return is;
  }

  // Kernels before 5.14 refuse the advice.
  static bool is_known() {
    auto* probe = static_cast<std::byte*>(
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    constexpr int kPopulateWrite = 23;
    const bool is = madvise(probe, kBytes, kPopulateWrite) == 0;
    munmap(probe, kBytes);
    return is;
  }
};

TEST_F(PrefaultTest, ARegionIsResidentBeforeItsFirstUseAndAgainAfterItsPagesWentBack) {
  Armed plan(make_layout({{0, kBytes, kBytes, false}}), ReplayOptions{false, true, true});
  EXPECT_EQ(is_resident_at_first(plan), is_known());
  release_pages();
  EXPECT_EQ(is_resident_at_first(plan), is_known());
}

TEST_F(PrefaultTest, WithoutTheOptionNothingIs) {
  Armed plan(make_layout({{0, kBytes, kBytes, false}}));
  EXPECT_FALSE(is_resident_at_first(plan));
}

}  // namespace
}  // namespace memomalloc::testing
