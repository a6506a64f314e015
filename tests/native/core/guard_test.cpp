// The guard against its model: a million random steps, no two live blocks on one byte, every decision as the
// model has it; and the proof that the reference can see a broken guard.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <vector>

#include "core_fixture.hpp"
#include "guard_program.hpp"
#include "other_thread.hpp"

namespace memomalloc::testing {
namespace {

constexpr uint64_t kNumSteps = 2'000'000;
constexpr uint64_t kNumModelPrograms = 4'000;

// The real core, each decision compared with the model's, each block's content checked when it goes.
class CoreSubject final : public GuardSubject {
 public:
  void make_pool(std::size_t pool, const RandomPlan& plan) override {
    model_.make_pool(pool, plan);
    pools_[pool] = std::make_unique<Pool>(
        std::make_shared<const Layout>(plan.buffers, plan.arena_bytes, plan.num_spares), 2);
  }

  void destroy_pool(std::size_t pool) override {
    model_.destroy_pool(pool);
    pools_.erase(pool);
  }

  void begin(std::size_t pool) override {
    model_.begin(pool);
    const BeginResult result = pools_.at(pool)->begin();
    ASSERT_NE(result.outcome, Begin::kNoArena);
    if (result.outcome == Begin::kStarted) token_ = result.token;
  }

  void end(bool elsewhere) override {
    model_.end(elsewhere);
    RunCounts counts;
    if (elsewhere) {
      other_thread_.run([&] { counts = Pool::end(token_); });
    } else {
      counts = Pool::end(token_);
    }
    EXPECT_EQ(counts.served, model_.last_counts().served);
    EXPECT_EQ(counts.missing, model_.last_counts().missing);
    EXPECT_EQ(counts.upstream, model_.last_counts().upstream);
    num_served_ += counts.served;
  }

  uintptr_t allocate(std::size_t bytes) override {
    const uintptr_t expected = model_.allocate(bytes);
    void* block = memomalloc::allocate(bytes);
    const auto address = reinterpret_cast<uintptr_t>(block);
    EXPECT_EQ(address % kAlignmentBytes, 0u);
    EXPECT_EQ(g_range.contains(block), model_.is_planned(expected));
    if (model_.is_planned(expected)) {
      // Where the arena lies is learned from its first block; all others must follow.
      const auto [base, added] = bases_.try_emplace(model_.arena_of(expected), address - expected);
      EXPECT_EQ(address - expected, base->second);
    }
    Pattern(++num_blocks_).write(block, bytes);
    contents_[address] = {expected, num_blocks_};
    return address;
  }

  void release(uintptr_t address, std::size_t bytes, bool elsewhere) override {
    void* block = reinterpret_cast<void*>(address);
    const Content content = contents_.at(address);
    contents_.erase(address);
    EXPECT_TRUE(Pattern(content.pattern).holds(block, bytes));
    model_.release(content.model_block, bytes, elsewhere);
    if (elsewhere) {
      other_thread_.run([&] { memomalloc::release(block); });
    } else {
      memomalloc::release(block);
    }
  }

  // A program may leave its run open.
  void end_open_run() {
    if (model_.is_running()) end(false);
  }

  uint64_t num_served() const { return num_served_; }

 private:
  struct Content {
    uintptr_t model_block;
    uint64_t pattern;
  };

  ModelSubject<SoundRules> model_;
  std::map<std::size_t, std::unique_ptr<Pool>> pools_;
  std::map<uintptr_t, uintptr_t> bases_;
  std::map<uintptr_t, Content> contents_;
  uint64_t num_blocks_ = 0;
  uint64_t num_served_ = 0;
  RunToken token_ = 0;
  OtherThread other_thread_;
};

class GuardTest : public CoreTest {};

TEST_F(GuardTest, AMillionRandomStepsOverlapNothingAndFollowTheModel) {
  CoreSubject core;
  uint64_t num_steps = 0;
  for (uint64_t seed = 0; num_steps < kNumSteps && !HasFailure(); ++seed) {
    GuardProgram program(seed, core);
    EXPECT_FALSE(program.overlaps()) << "seed " << seed;
    core.end_open_run();
    num_steps += program.num_steps();
    if (HasFailure()) ADD_FAILURE() << "first failing seed: " << seed;
  }
  // Not everything went upstream.
  EXPECT_GT(core.num_served(), kNumSteps / 8);
}

template <class Rules>
uint64_t num_programs_that_overlap() {
  uint64_t num_overlapping = 0;
  for (uint64_t seed = 0; seed < kNumModelPrograms; ++seed) {
    ModelSubject<Rules> model;
    num_overlapping += GuardProgram(seed, model).overlaps() ? 1 : 0;
  }
  return num_overlapping;
}

TEST(GuardModelTest, TheRulesTogetherAreSound) { EXPECT_EQ(num_programs_that_overlap<SoundRules>(), 0u); }

TEST(GuardModelTest, WithoutTheSkipRuleBlocksOverlap) {
  EXPECT_GT(num_programs_that_overlap<RulesWithoutSkipRule>(), 10u);
}

TEST(GuardModelTest, WithoutTransitivityBlocksOverlap) {
  EXPECT_GT(num_programs_that_overlap<RulesWithoutTransitivity>(), 10u);
}

TEST(GuardModelTest, WithoutTheSurvivorScanBlocksOverlap) {
  EXPECT_GT(num_programs_that_overlap<RulesWithoutSurvivorScan>(), 10u);
}

}  // namespace
}  // namespace memomalloc::testing
