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
  virtual ~GuardSubject() = default;
  virtual void make_pool(std::size_t pool, const RandomPlan& plan) = 0;
  virtual void destroy_pool(std::size_t pool) = 0;
  virtual void begin(std::size_t pool) = 0;
  // Ends the run of the latest begin(), where that started one; `elsewhere`: on another thread.
  virtual void end(bool elsewhere) = 0;
  virtual uintptr_t allocate(std::size_t bytes) = 0;
  virtual void release(uintptr_t block, std::size_t bytes, bool elsewhere) = 0;
};

// Any number of arenas as the rules would have them, at addresses that exist only in the model.
template <class Rules>
class ModelSubject final : public GuardSubject {
 public:
  void make_pool(std::size_t pool, const RandomPlan& plan) override {
    arenas_[pool] = std::make_shared<ModelArena>(ModelArena{
        GuardModel<Rules>(plan.buffers, plan.arena_bytes, plan.num_spares), ++num_arenas_ << kArenaBits});
  }

  void destroy_pool(std::size_t pool) override { arenas_.erase(pool); }

  void begin(std::size_t pool) override {
    if (running_ != nullptr && !is_abandoned_) return;
    running_ = arenas_.at(pool);
    is_abandoned_ = false;
    running_->guard.begin();
  }

  void end(bool elsewhere) override {
    last_counts_ = {};
    if (running_ == nullptr) return;
    if (elsewhere) {
      is_abandoned_ = true;
      return;
    }
    last_counts_ = running_->guard.end();
    running_.reset();
  }

  uintptr_t allocate(std::size_t bytes) override {
    const uint64_t offset = running_ != nullptr ? running_->guard.take(bytes) : GuardModel<Rules>::kUpstream;
    if (offset == GuardModel<Rules>::kUpstream) return std::exchange(upstream_, upstream_ + bytes);
    const uintptr_t block = running_->base + offset;
    holders_[block].push_back(running_);
    return block;
  }

  void release(uintptr_t block, std::size_t, bool) override {
    if (!is_planned(block)) return;
    auto& holders = holders_[block];
    holders.back()->guard.give_back(block - holders.back()->base);
    holders.pop_back();
  }

  static bool is_planned(uintptr_t block) { return block < kUpstreamBase; }
  static uintptr_t arena_of(uintptr_t block) { return block >> kArenaBits; }
  bool is_running() const { return running_ != nullptr; }
  RunCounts last_counts() const { return last_counts_; }

 private:
  static constexpr uint32_t kArenaBits = 32;
  static constexpr uintptr_t kUpstreamBase = uintptr_t{1} << 60;

  struct ModelArena {
    GuardModel<Rules> guard;
    uintptr_t base;
  };

  std::map<std::size_t, std::shared_ptr<ModelArena>> arenas_;
  std::map<uintptr_t, std::vector<std::shared_ptr<ModelArena>>>
      holders_;  // a broken model has several a block
  std::shared_ptr<ModelArena> running_;
  bool is_abandoned_ = false;
  uintptr_t num_arenas_ = 0;
  uintptr_t upstream_ = kUpstreamBase;
  RunCounts last_counts_;
};

// A program that misbehaves at random against random plans: it skips, reorders, resizes and adds requests,
// frees late or early or on other threads, keeps blocks over many runs, begins runs inside runs, ends them
// elsewhere, and drops pools whose blocks live or whose run goes on.
class GuardProgram {
 public:
  GuardProgram(uint64_t seed, GuardSubject& subject) : random_(seed), subject_(subject) {}

  // Runs to the end, or to the first overlap. Returns whether live blocks ever overlapped.
  bool overlaps() {
    const uint32_t num_pools = random_.between(1, 3);
    for (uint32_t pool = 0; pool < num_pools; ++pool) make_pool(pool);
    const uint32_t num_runs = random_.between(2, 12);
    for (uint32_t run = 0; run < num_runs && !has_overlap_; ++run) {
      const uint32_t pool = random_.below(num_pools);
      if (random_.chance(0.02)) remake_pool(pool);
      run_once(pool);
    }
    while (!has_overlap_ && !held_.empty()) release(held_.size() - 1);
    for (uint32_t pool = 0; pool < num_pools; ++pool) subject_.destroy_pool(pool);
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

  void make_pool(uint32_t pool) {
    plans_[pool] = random_plan(random_);
    subject_.make_pool(pool, plans_[pool]);
    ++num_steps_;
  }

  void remake_pool(uint32_t pool) {
    subject_.destroy_pool(pool);
    make_pool(pool);
  }

  void run_once(uint32_t pool) {
    const RandomPlan plan = plans_[pool];
    const double skips = random_.one_of({0.0, 0.0, 0.1, 0.4});
    const double is_late = random_.one_of({0.0, 0.0, 0.1, 0.5});
    const double deviates = random_.one_of({0.0, 0.0, 0.05, 0.3});
    const uint32_t n = static_cast<uint32_t>(plan.buffers.size());
    begin(pool);
    for (uint32_t k = 0; k < n && !has_overlap_; ++k) {
      release_due(k, is_late);
      if (random_.chance(skips)) continue;
      if (random_.chance(deviates)) deviate(plan, k);
      allocate(random_.between(plan.buffers[k].smallest_size, plan.buffers[k].size), plan.ends[k]);
    }
    if (random_.chance(0.02)) remake_pool(pool);
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
    switch (random_.below(4)) {
      case 0:  // extra
        allocate(random_.between(1, 600), k + random_.below(5));
        break;
      case 1:  // out of order: a later one comes first
        allocate(plan.buffers[random_.below(plan.buffers.size())].size, k + random_.below(5));
        break;
      case 2:  // too large for any slot
        allocate(random_.between(600, 2000), random_.chance(0.5) ? k + 1 : kKept);
        break;
      default:
        begin(random_.below(plans_.size()));  // nested
        break;
    }
  }

  void release_due(uint32_t k, double is_late) {
    for (std::size_t i = held_.size(); i-- > 0 && !has_overlap_;) {
      if (random_.chance(held_[i].end <= k ? 1 - is_late : 0.02)) release(i);
    }
  }

  void begin(uint32_t pool) {
    subject_.begin(pool);
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
  LiveBlocks live_;
  std::vector<Held> held_;
  bool has_overlap_ = false;
  uint64_t num_steps_ = 0;
};

}  // namespace memomalloc::testing
