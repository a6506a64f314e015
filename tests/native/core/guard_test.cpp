// The guard against its model: a million random steps, no two live blocks on one byte, every decision as the
// model has it; and the proof that the reference can see a broken guard.
#include <gtest/gtest.h>

#include <array>
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

// The real core, each decision compared with the model's, each block's content checked when it goes. Which of
// the regions that the rules allow a run is on, the core decides.
class CoreSubject final : public GuardSubject {
 public:
  void arm(std::size_t number, const RandomPlan& plan) override {
    model_.arm(number, plan);
    plans_[number] = std::make_unique<Armed>(std::make_shared<const Layout>(plan.buffers, plan.arena_bytes));
  }

  void retire(std::size_t number) override {
    model_.retire(number);
    plans_.erase(number);
  }

  void go_to_thread(std::size_t thread) override {
    model_.go_to_thread(thread);
    thread_ = thread;
  }

  void begin(std::size_t number) override {
    BeginResult result;
    std::size_t region = 0;
    on_thread([&] {
      result = (*plans_.at(number))->begin();
      region = t_state.running->id() + 1;
    });
    ASSERT_EQ(result.outcome, model_.is_nested() ? Begin::kNested : Begin::kStarted);
    if (result.outcome != Begin::kStarted) return;
    tokens_[thread_] = result.token;
    EXPECT_TRUE(model_.allows(number, region)) << "a run on a region that is not clear, or not free";
    model_.begin_on(number, region);
  }

  void end(bool elsewhere) override {
    model_.end(elsewhere);
    RunCounts counts;
    const RunToken token = tokens_[thread_];
    if (elsewhere) {
      third_thread_.run([&] { counts = ArmedPlan::end(token); });
    } else {
      on_thread([&] { counts = ArmedPlan::end(token); });
    }
    EXPECT_EQ(counts.served, model_.last_counts().served);
    EXPECT_EQ(counts.missing, model_.last_counts().missing);
    EXPECT_EQ(counts.upstream, model_.last_counts().upstream);
    num_served_ += counts.served;
  }

  uintptr_t allocate(std::size_t bytes) override {
    const uintptr_t expected = model_.allocate(bytes);
    void* block = nullptr;
    on_thread([&] { block = memomalloc::allocate(bytes); });
    const auto address = reinterpret_cast<uintptr_t>(block);
    EXPECT_EQ(address % kAlignmentBytes, 0u);
    EXPECT_EQ(g_range.contains(block), model_.is_planned(expected));
    if (model_.is_planned(expected) && !model_.is_output(expected)) {
      // Where the region lies is learned from its first block; all others must follow.
      const auto [base, added] = bases_.try_emplace(model_.region_of(expected), address - expected);
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
      third_thread_.run([&] { memomalloc::release(block); });
    } else {
      on_thread([&] { memomalloc::release(block); });
    }
  }

  uint64_t num_served() const { return num_served_; }

 private:
  struct Content {
    uintptr_t model_block;
    uint64_t pattern;
  };

  template <typename Body>
  void on_thread(Body body) {
    if (thread_ == 0) {
      body();
    } else {
      other_thread_.run(body);
    }
  }

  ModelSubject<SoundRules> model_;
  // Where no plan is left, regions are unmapped, and come back elsewhere.
  Armed keeps_memory_{make_layout({{0, 64, 64, false}})};
  std::map<std::size_t, std::unique_ptr<Armed>> plans_;
  std::map<uintptr_t, uintptr_t> bases_;
  std::map<uintptr_t, Content> contents_;
  uint64_t num_blocks_ = 0;
  uint64_t num_served_ = 0;
  std::size_t thread_ = 0;
  std::array<RunToken, kNumThreads> tokens_{};
  OtherThread other_thread_;
  OtherThread third_thread_;
};

class GuardTest : public CoreTest {};

TEST_F(GuardTest, AMillionRandomStepsOverlapNothingAndFollowTheModel) {
  uint64_t num_steps = 0;
  uint64_t num_served = 0;
  for (uint64_t seed = 0; num_steps < kNumSteps && !HasFailure(); ++seed) {
    CoreSubject core;
    GuardProgram program(seed, core);
    EXPECT_FALSE(program.overlaps()) << "seed " << seed;
    num_served += core.num_served();
    num_steps += program.num_steps();
    if (HasFailure()) ADD_FAILURE() << "first failing seed: " << seed;
  }
  // Not everything went upstream.
  EXPECT_GT(num_served, kNumSteps / 8);
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

TEST(GuardModelTest, WhereARegionIsLaidOverThatIsNotClearBlocksOverlap) {
  EXPECT_GT(num_programs_that_overlap<RulesWithoutClearRegions>(), 10u);
}

TEST(GuardModelTest, WhereTwoRunsHaveOneRegionBlocksOverlap) {
  EXPECT_GT(num_programs_that_overlap<RulesWithoutTaking>(), 10u);
}

TEST(GuardModelTest, WhereAnOutputIsTakenThatLivesBlocksOverlap) {
  EXPECT_GT(num_programs_that_overlap<RulesWithoutFreeOutputs>(), 10u);
}

}  // namespace
}  // namespace memomalloc::testing
