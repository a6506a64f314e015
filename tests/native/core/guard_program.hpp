#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "guard_model.hpp"
#include "live_blocks.hpp"
#include "random.hpp"
#include "random_plan.hpp"

namespace memomalloc::testing {

// What a random program runs on: the models below, or the core itself.
class GuardSubject {
 public:
  static constexpr std::size_t kNumThreads = 2;

  virtual ~GuardSubject() = default;
  virtual void arm(std::size_t number, const RandomPlan& plan) = 0;
  virtual void retire(std::size_t number) = 0;
  // All that follows happens on this thread.
  virtual void go_to_thread(std::size_t thread) = 0;
  virtual void begin(std::size_t number) = 0;
  // Ends the run of the latest begin() on this thread, where that started one; `elsewhere`: on another
  // thread.
  virtual void end(bool elsewhere) = 0;
  virtual uintptr_t allocate(std::size_t bytes) = 0;
  virtual void release(uintptr_t block, std::size_t bytes, bool elsewhere) = 0;
};

// A process as the rules would have it, at addresses that exist only in the model.
template <class Rules>
class ModelSubject : public GuardSubject {
 public:
  void arm(std::size_t number, const RandomPlan& plan) override {
    plans_[number] = std::make_shared<const RandomPlan>(plan);
  }
  void retire(std::size_t number) override { plans_.erase(number); }
  void go_to_thread(std::size_t thread) override { thread_ = thread; }

  void begin(std::size_t number) override {
    if (is_nested()) return;
    begin_on(number, choose(number));
  }

  // Whether a run that begins now is part of another one of its thread.
  bool is_nested() const { return running() != nullptr && !running()->is_abandoned; }

  // Whether the rules allow a run of the plan on the region.
  bool allows(std::size_t number, std::size_t region) const {
    const auto found = regions_.find(region);
    if (found == regions_.end()) return true;
    const Region& existing = *found->second;
    if (Rules::kOneRunAtATime && existing.is_running && existing.thread != thread_) return false;
    return !Rules::kLaysOverClearRegionsOnly || existing.guard->is_clear() ||
           existing.plan == plans_.at(number);
  }

  void begin_on(std::size_t number, std::size_t region_number) {
    if (running() != nullptr) running()->region->is_running = false;
    auto& region = regions_[region_number];
    if (region == nullptr) region = std::make_shared<Region>(Region{region_number << kRegionBits});
    if (region->plan != plans_.at(number)) {
      region->plan = plans_.at(number);
      region->guard = std::make_shared<GuardModel<Rules>>(region->plan->buffers);
    }
    region->is_running = true;
    region->thread = thread_;
    region->guard->begin();
    home_[thread_] = region;
    running_[thread_] = std::make_shared<Run>(Run{region, region->guard});
  }

  void end(bool elsewhere) override {
    last_counts_ = {};
    if (running() == nullptr) return;
    if (elsewhere) {
      running()->is_abandoned = true;
      return;
    }
    last_counts_ = running()->guard->end();
    running()->region->is_running = false;
    running_[thread_].reset();
  }

  uintptr_t allocate(std::size_t bytes) override {
    const uint64_t offset =
        running() != nullptr ? running()->guard->take(bytes) : GuardModel<Rules>::kUpstream;
    if (offset == GuardModel<Rules>::kUpstream) return std::exchange(upstream_, upstream_ + bytes);
    if (offset == GuardModel<Rules>::kOutput) return kOutputBase + outputs_.take((bytes + 63) / 64 * 64);
    const uintptr_t block = running()->region->base + offset;
    // The guard that handed it out: a broken model has another one there by the time it goes.
    holders_[block].push_back(running()->guard);
    return block;
  }

  void release(uintptr_t block, std::size_t, bool) override {
    if (is_output(block)) outputs_.give_back(block - kOutputBase);
    if (!is_planned(block) || is_output(block)) return;
    auto& holders = holders_[block];
    holders.back()->give_back(block % (uintptr_t{1} << kRegionBits));
    holders.pop_back();
  }

  static bool is_planned(uintptr_t block) { return block < kUpstreamBase; }
  static bool is_output(uintptr_t block) { return block >= kOutputBase && block < kUpstreamBase; }
  static uintptr_t region_of(uintptr_t block) { return block >> kRegionBits; }
  bool is_running() const { return running() != nullptr; }
  RunCounts last_counts() const { return last_counts_; }

 private:
  static constexpr uint32_t kRegionBits = 32;
  static constexpr uintptr_t kOutputBase = uintptr_t{1} << 59;
  static constexpr uintptr_t kUpstreamBase = uintptr_t{1} << 60;

  struct Region {
    uintptr_t base = 0;
    std::shared_ptr<const RandomPlan> plan = nullptr;
    std::shared_ptr<GuardModel<Rules>> guard = nullptr;
    std::size_t thread = 0;
    bool is_running = false;
  };
  struct Run {
    std::shared_ptr<Region> region;
    std::shared_ptr<GuardModel<Rules>> guard;  // that of the plan that was laid as it began
    bool is_abandoned = false;
  };

  const std::shared_ptr<Run>& running() const { return running_[thread_]; }

  // The region that the thread used last, or any other, or a new one.
  std::size_t choose(std::size_t number) const {
    const auto home = home_[thread_];
    const std::size_t home_number = home != nullptr ? home->base >> kRegionBits : 1;
    if (allows(number, home_number)) return home_number;
    for (const auto& [region, existing] : regions_) {
      if (allows(number, region)) return region;
    }
    return regions_.size() + 1;
  }

  std::map<std::size_t, std::shared_ptr<const RandomPlan>> plans_;
  std::map<std::size_t, std::shared_ptr<Region>> regions_;  // from 1
  std::map<uintptr_t, std::vector<std::shared_ptr<GuardModel<Rules>>>>
      holders_;  // a broken model has several a block
  OutputModel<Rules> outputs_;
  std::array<std::shared_ptr<Run>, kNumThreads> running_;
  std::array<std::shared_ptr<Region>, kNumThreads> home_;
  std::size_t thread_ = 0;
  uintptr_t upstream_ = kUpstreamBase;
  RunCounts last_counts_;
};

// A program that misbehaves at random against random plans: it skips, reorders, resizes and adds requests,
// frees late or early or on other threads, keeps blocks over many runs, begins runs inside runs, ends them
// elsewhere, runs several plans in turn and two at a time, and retires plans whose blocks live or whose run
// goes on.
class GuardProgram {
 public:
  GuardProgram(uint64_t seed, GuardSubject& subject) : random_(seed), subject_(subject) {}

  // Runs to the end, or to the first overlap. Returns whether live blocks ever overlapped.
  bool overlaps() {
    num_plans_ = random_.between(1, 3);
    for (uint32_t number = 0; number < num_plans_; ++number) arm(number);
    const uint32_t num_runs = random_.between(2, 12);
    for (uint32_t run = 0; run < num_runs && !has_overlap_; ++run) {
      if (random_.chance(0.02)) replace(random_.below(num_plans_));
      go_to_thread(random_.chance(0.3) ? 1 : 0);
      run_once();
    }
    while (!has_overlap_ && !held_.empty()) release(held_.size() - 1);
    for (uint32_t number = 0; number < num_plans_; ++number) subject_.retire(number);
    for (std::size_t thread = GuardSubject::kNumThreads; thread-- > 0;) {
      go_to_thread(thread);
      subject_.end(false);
    }
    return has_overlap_;
  }

  uint64_t num_steps() const { return num_steps_; }

 private:
  struct Held {
    uintptr_t block;
    std::size_t bytes;
    uint32_t end;  // the slot before which the plan frees it; past all slots: kept by the program
  };

  static constexpr uint32_t kKept = UINT32_MAX;

  void arm(uint32_t number) {
    plans_[number] = random_plan(random_);
    subject_.arm(number, plans_[number]);
    ++num_steps_;
  }

  void replace(uint32_t number) {
    subject_.retire(number);
    arm(number);
  }

  void go_to_thread(std::size_t thread) {
    thread_ = thread;
    subject_.go_to_thread(thread);
  }

  void run_once() {
    const uint32_t number = random_.below(num_plans_);
    const RandomPlan plan = plans_[number];
    const double skips = random_.one_of({0.0, 0.0, 0.1, 0.4});
    const double is_late = random_.one_of({0.0, 0.0, 0.1, 0.5});
    const double deviates = random_.one_of({0.0, 0.0, 0.05, 0.3});
    const uint32_t n = static_cast<uint32_t>(plan.buffers.size());
    begin(number);
    for (uint32_t k = 0; k < n && !has_overlap_; ++k) {
      release_due(k, is_late);
      if (random_.chance(skips)) continue;
      if (random_.chance(deviates)) deviate(plan, k);
      allocate(random_.between(plan.buffers[k].smallest_size, plan.buffers[k].size), plan.ends[k]);
    }
    if (random_.chance(0.02)) replace(number);
    if (random_.chance(0.3)) allocate(random_.between(1, 600), kKept);
    // A run that no one ends: the next one on this thread is nested in it.
    if (random_.chance(0.98)) end(random_.chance(0.02));
    const double keeps = random_.one_of({0.0, 0.0, 0.2});
    for (std::size_t i = held_.size(); i-- > 0 && !has_overlap_;) {
      if (!random_.chance(keeps)) {
        release(i);
      } else {
        held_[i].end = kKept;
      }
    }
  }

  // Something that the plan does not know.
  void deviate(const RandomPlan& plan, uint32_t k) {
    switch (random_.below(5)) {
      case 0:  // extra
        allocate(random_.between(1, 600), k + random_.below(5));
        break;
      case 1:  // out of order: a later one comes first
        allocate(plan.buffers[random_.below(plan.buffers.size())].size, k + random_.below(5));
        break;
      case 2:  // too large for any slot
        allocate(random_.between(600, 2000), random_.chance(0.5) ? k + 1 : kKept);
        break;
      case 3:
        begin(random_.below(num_plans_));  // nested
        break;
      default:  // another thread runs meanwhile
        if (!is_interleaved_ && random_.chance(0.3)) {
          is_interleaved_ = true;
          const std::size_t here = thread_;
          go_to_thread(1 - here);
          run_once();
          go_to_thread(here);
          is_interleaved_ = false;
        }
        break;
    }
  }

  void release_due(uint32_t k, double is_late) {
    for (std::size_t i = held_.size(); i-- > 0 && !has_overlap_;) {
      if (random_.chance(held_[i].end <= k ? 1 - is_late : 0.02)) release(i);
    }
  }

  void begin(uint32_t number) {
    subject_.begin(number);
    ++num_steps_;
  }

  void end(bool elsewhere) {
    subject_.end(elsewhere);
    ++num_steps_;
  }

  void allocate(std::size_t bytes, uint32_t end) {
    const uintptr_t block = subject_.allocate(bytes);
    ++num_steps_;
    has_overlap_ = has_overlap_ || !live_.add(block, bytes);
    held_.push_back({block, bytes, end});
  }

  void release(std::size_t i) {
    const Held freed = held_[i];
    held_[i] = held_.back();
    held_.pop_back();
    live_.remove(freed.block);
    subject_.release(freed.block, freed.bytes, random_.chance(0.005));
    ++num_steps_;
  }

  Random random_;
  GuardSubject& subject_;
  std::map<uint32_t, RandomPlan> plans_;
  uint32_t num_plans_ = 0;
  std::size_t thread_ = 0;
  bool is_interleaved_ = false;
  LiveBlocks live_;
  std::vector<Held> held_;
  bool has_overlap_ = false;
  uint64_t num_steps_ = 0;
};

}  // namespace memomalloc::testing
