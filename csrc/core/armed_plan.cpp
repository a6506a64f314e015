#include "core/armed_plan.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <new>
#include <utility>

#include "core/process_memory.hpp"
#include "core/registry.hpp"
#include "core/thread_state.hpp"

namespace memomalloc {
namespace {

std::atomic<uint64_t> g_num_plans{0};
std::atomic<uint64_t> g_num_in_use{0};  // of plans that are not retired

// Threads that wait for memory. A run that ends looks here; one that it misses, a waiting thread finds by
// itself.
std::atomic<uint32_t> g_num_waiting{0};
constexpr std::chrono::milliseconds kLongestWait{20};
std::condition_variable& g_run_ended = *new std::condition_variable;  // never destroyed, as the registry lock

RunToken token_of(const Region& region) noexcept { return RunToken{region.id()} << 32 | region.serial(); }

}  // namespace

ArmedPlan::ArmedPlan(std::shared_ptr<const Layout> layout, ReplayOptions options,
                     std::shared_ptr<RunBudget> budget)
    : layout_(std::move(layout)),
      options_(options),
      budget_(std::move(budget)),
      // relaxed, as all counters here: they order nothing.
      number_(g_num_plans.fetch_add(1, std::memory_order_relaxed) + 1) {}

std::shared_ptr<ArmedPlan> ArmedPlan::make(std::shared_ptr<const Layout> layout, ReplayOptions options,
                                           std::shared_ptr<RunBudget> budget) {
  std::shared_ptr<ArmedPlan> plan(new ArmedPlan(std::move(layout), options, std::move(budget)));
  if (!options.gives_way) g_num_in_use.fetch_add(1, std::memory_order_relaxed);
  return plan;
}

void ArmedPlan::retire() noexcept {
  if (is_retired_.exchange(true, std::memory_order_relaxed)) return;
  if (options_.gives_way) return;
  const bool is_last = g_num_in_use.fetch_sub(1, std::memory_order_relaxed) == 1;
  std::shared_ptr<ArmedPlan> kept = shared_from_this();  // goes after the lock does
  const RegistryGuard guard(g_registry_lock);
  for (Region* region : Region::all()) {
    if (!region->try_take()) continue;
    if (region->laid().get() == this && region->is_clear()) region->forget_plan();
    // Nobody is left who could use it.
    if (is_last && region->is_clear() && region->outputs().num_live() == 0) {
      region->outputs().release_pages();
      region->unmap();
    }
    region->leave();
  }
}

bool ArmedPlan::may_begin() noexcept {
  if (options_.max_runs != UINT32_MAX &&
      num_running_.fetch_add(1, std::memory_order_relaxed) >= options_.max_runs) {
    num_running_.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  if (budget_ == nullptr || budget_->take(layout_->region_bytes() + layout_->output_bytes())) return true;
  if (options_.max_runs != UINT32_MAX) num_running_.fetch_sub(1, std::memory_order_relaxed);
  return false;
}

void ArmedPlan::count_end() noexcept {
  if (options_.max_runs != UINT32_MAX) num_running_.fetch_sub(1, std::memory_order_relaxed);
  if (budget_ != nullptr) budget_->give_back(layout_->region_bytes() + layout_->output_bytes());
}

bool ArmedPlan::is_within_budget(const Region& region) const noexcept {
  if (budget_ == nullptr) return true;
  return std::max(region.charged_bytes(), layout_->region_bytes()) +
             std::max(region.outputs().used_bytes(), layout_->output_bytes()) <=
         budget_->limit_bytes();
}

Region* ArmedPlan::take_home() noexcept {
  Region* region = t_state.home;
  if (region == nullptr || !region->try_take()) return nullptr;
  const bool has_room = region->has_room_for(*layout_);
  if (region->laid().get() == this) {
    if (has_room) return region;
  } else if (!region->is_clear()) {
    region->laid()->num_kept_regions_.fetch_add(1, std::memory_order_relaxed);
  } else if (has_room && is_within_budget(*region) && region->lay(shared_from_this())) {
    return region;
  }
  region->leave();
  return nullptr;
}

BeginResult ArmedPlan::begin() noexcept {
  ThreadState& thread = t_state;
  if (is_running_on_this_thread()) return {Begin::kNested, 0};
  end_run_that_gives_way();
  if (thread.is_exiting || !may_begin()) return {Begin::kNoRegion, 0};  // nobody would end it
  end_runs_at_thread_exit();
  Region* region = take_home();
  if (region == nullptr) region = take_region(shared_from_this());
  if (region == nullptr) {
    count_end();
    return {Begin::kNoRegion, 0};
  }
  thread.home = region;
  if (options_.prefault) region->prefault();
  region->start_run();
  thread.running = region;
  return {Begin::kStarted, token_of(*region)};
}

BeginResult ArmedPlan::begin(std::chrono::nanoseconds time_limit) {
  // "For ever" as the longest time there is would overflow.
  constexpr std::chrono::nanoseconds kForEver = std::chrono::hours(24 * 365 * 10);
  const auto deadline = std::chrono::steady_clock::now() + std::min(time_limit, kForEver);
  BeginResult result = begin();
  while (result.outcome == Begin::kNoRegion && std::chrono::steady_clock::now() < deadline) {
    {
      std::unique_lock<std::mutex> lock(g_registry_lock);
      g_num_waiting.fetch_add(1, std::memory_order_relaxed);
      g_run_ended.wait_until(lock, std::min(deadline, std::chrono::steady_clock::now() + kLongestWait));
      g_num_waiting.fetch_sub(1, std::memory_order_relaxed);
    }
    result = begin();
  }
  return result;
}

RunCounts ArmedPlan::end(RunToken token) noexcept {
  Region* running = t_state.running;
  if (running != nullptr && token_of(*running) == token) return finish_run_of_thread();
  const RegistryGuard guard(g_registry_lock);
  const std::size_t id = token >> 32;
  if (id >= Region::all().size()) return {};
  Region* region = Region::all()[id];
  // By another thread than its own, or once more.
  if (region->is_running() && token_of(*region) == token) region->abandon(region->serial());
  return {};
}

void forget_waiting_threads() noexcept {
  g_num_waiting.store(0, std::memory_order_relaxed);
  // A new one in its place, the old one not destroyed: both its end and its next use would wait for the
  // threads that it remembers.
  ::new (&g_run_ended) std::condition_variable;
}

bool is_running_on_this_thread() noexcept {
  if (t_state.running != nullptr && t_state.running->is_abandoned()) finish_run_of_thread();
  return t_state.running != nullptr && !t_state.running->gives_way();
}

void end_run_that_gives_way() noexcept {
  if (t_state.running != nullptr && t_state.running->gives_way()) finish_run_of_thread();
}

RunCounts finish_run_of_thread() noexcept {
  Region* region = t_state.running;
  t_state.running = nullptr;
  const RunCounts counts = region->finish_run();
  ArmedPlan& plan = *region->laid();
  plan.count(counts);
  if (region->deviating_requests().count != 0 && !region->gives_way()) {
    const RegistryGuard guard(g_registry_lock);
    plan.last_deviating_ = region->deviating_requests();
  }
  plan.count_end();
  region->leave();  // the plan may be gone after it
  if (g_num_waiting.load(std::memory_order_relaxed) != 0) {
    const RegistryGuard guard(g_registry_lock);
    g_run_ended.notify_all();
  }
  return counts;
}

void ArmedPlan::count(const RunCounts& counts) noexcept {
  Shard& shard = shards_[this_thread_number() % kNumShards];
  const auto add = [](std::atomic<uint64_t>& counter, uint64_t value) {
    if (value != 0) counter.fetch_add(value, std::memory_order_relaxed);
  };
  add(shard.num_runs, 1);
  add(shard.served, counts.served);
  add(shard.missing, counts.missing);
  add(shard.kept, counts.kept);
  for (std::size_t why = 0; why < kNumDeviations; ++why) add(shard.upstream[why], counts.upstream[why]);
  add(shard.upstream_bytes, counts.upstream_bytes);
}

PlanCounts ArmedPlan::counts() const noexcept {
  PlanCounts total;
  for (const Shard& shard : shards_) {
    const auto read = [](const std::atomic<uint64_t>& counter) {
      return counter.load(std::memory_order_relaxed);
    };
    total.num_runs += read(shard.num_runs);
    total.counts.served += read(shard.served);
    total.counts.missing += read(shard.missing);
    total.counts.kept += read(shard.kept);
    for (std::size_t why = 0; why < kNumDeviations; ++why)
      total.counts.upstream[why] += read(shard.upstream[why]);
    total.counts.upstream_bytes += read(shard.upstream_bytes);
  }
  total.num_kept_regions = num_kept_regions_.load(std::memory_order_relaxed);
  return total;
}

DeviatingRequests ArmedPlan::last_deviating_requests() const {
  const RegistryGuard guard(g_registry_lock);
  return last_deviating_;
}

}  // namespace memomalloc
