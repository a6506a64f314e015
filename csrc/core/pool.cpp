#include "core/pool.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <new>
#include <utility>

#include "core/registry.hpp"
#include "core/thread_state.hpp"

namespace memomalloc {
namespace {

// Guarded by the registry lock. Never destroyed, as the lock.
uint64_t g_num_runs = 0;
uint32_t g_num_waiting = 0;
std::condition_variable& g_run_ended = *new std::condition_variable;

RunToken token_of(const Arena& arena) noexcept { return RunToken{arena.id()} << 32 | arena.serial; }

}  // namespace

Pool::Pool(std::shared_ptr<const Layout> layout, uint32_t max_arenas, ArenaOptions options,
           std::shared_ptr<ArenaBudget> budget)
    : layout_(std::move(layout)),
      max_arenas_(max_arenas),
      options_(options),
      budget_(budget != nullptr ? std::move(budget) : std::make_shared<ArenaBudget>(UINT64_MAX)) {
  const RegistryGuard guard(g_registry_lock);
  budget_->add(this);
}

Pool::~Pool() {
  const RegistryGuard guard(g_registry_lock);
  budget_->remove(this);
  for (Arena* arena : arenas_) arena->orphan();
}

Arena* Pool::find_free() noexcept {
  Arena* free = nullptr;
  uint32_t fewest_live = UINT32_MAX;
  for (Arena* arena : arenas_) {
    if (arena->is_running()) continue;
    if (arena->last_thread == this_thread_number()) return arena;
    // Where a thread still holds its last output, that output's place is taken.
    if (fewest_live == 0) continue;
    const uint32_t num_live = arena->num_live_blocks();
    if (num_live >= fewest_live) continue;
    fewest_live = num_live;
    free = arena;
  }
  return free;
}

Arena* Pool::map_another() {
  if (arenas_.size() >= max_arenas_ || !budget_->make_room(layout_->mapped_bytes())) return nullptr;
  arenas_.reserve(arenas_.size() + 1);
  Arena* arena = Arena::create(layout_, this, budget_, options_);
  if (arena != nullptr) arenas_.push_back(arena);
  return arena;
}

BeginResult Pool::begin_locked() {
  ThreadState& thread = t_state;
  if (thread.is_exiting) return {Begin::kNoArena, 0};  // nobody would end it
  if (thread.running != nullptr) {
    if (!thread.running->abandoned) return {Begin::kNested, 0};
    finish_run_of_thread();
  }
  Arena* arena = find_free();
  if (arena == nullptr) arena = map_another();
  if (arena == nullptr) return {Begin::kNoArena, 0};
  arena->last_thread = this_thread_number();
  arena->last_use = ++g_num_runs;
  arena->start_run();
  thread.running = arena;
  return {Begin::kStarted, token_of(*arena)};
}

BeginResult Pool::begin() {
  end_runs_at_thread_exit();
  std::unique_lock<std::mutex> lock(g_registry_lock);
  return started(begin_locked(), lock);
}

BeginResult Pool::begin(std::chrono::nanoseconds time_limit) {
  end_runs_at_thread_exit();
  // "For ever" as the longest time there is would overflow.
  constexpr std::chrono::nanoseconds kForEver = std::chrono::hours(24 * 365 * 10);
  const auto deadline = std::chrono::steady_clock::now() + std::min(time_limit, kForEver);
  std::unique_lock<std::mutex> lock(g_registry_lock);
  BeginResult result = begin_locked();
  for (bool is_late = false; result.outcome == Begin::kNoArena && !is_late; result = begin_locked()) {
    ++g_num_waiting;
    is_late = g_run_ended.wait_until(lock, deadline) == std::cv_status::timeout;
    --g_num_waiting;
  }
  return started(result, lock);
}

BeginResult Pool::started(BeginResult result, std::unique_lock<std::mutex>& lock) noexcept {
  // Without the lock: prefaulting takes seconds, and every other begin would wait.
  lock.unlock();
  if (result.outcome == Begin::kStarted) t_state.running->prefault();
  return result;
}

Arena* Pool::longest_unused() noexcept {
  Arena* oldest = nullptr;
  for (Arena* arena : arenas_) {
    if (arena->is_idle() && (oldest == nullptr || arena->last_use < oldest->last_use)) oldest = arena;
  }
  return oldest;
}

void Pool::evict(Arena* arena) noexcept {
  ++num_evicted_;
  arenas_.erase(std::find(arenas_.begin(), arenas_.end(), arena));
  arena->orphan();
}

uint64_t Pool::release_pages(std::chrono::nanoseconds idle_for) {
  uint64_t released = 0;
  for (std::size_t i = 0;; ++i) {
    // Taken for one arena at a time: giving back takes milliseconds, and who begins a run waits for one only.
    const RegistryGuard guard(g_registry_lock);
    if (i >= arenas_.size()) return released;
    released += arenas_[i]->release_pages(idle_for);
  }
}

DeviatingRequests Pool::last_deviating_requests() const {
  const RegistryGuard guard(g_registry_lock);
  return last_deviating_;
}

RunCounts Pool::end(RunToken token) noexcept {
  const RegistryGuard guard(g_registry_lock);
  const std::size_t id = token >> 32;
  if (id >= Arena::all().size()) return {};
  Arena* arena = Arena::all()[id];
  if (!arena->is_running() || token_of(*arena) != token) return {};
  if (t_state.running != arena) {
    arena->abandoned = true;
    return {};
  }
  return finish_run_of_thread();
}

void forget_waiting_threads() noexcept {
  g_num_waiting = 0;
  // A new one in its place, the old one not destroyed: both its end and its next use would wait for the
  // threads that it remembers.
  ::new (&g_run_ended) std::condition_variable;
}

bool is_running_on_this_thread() noexcept {
  const RegistryGuard guard(g_registry_lock);
  if (t_state.running != nullptr && t_state.running->abandoned) finish_run_of_thread();
  return t_state.running != nullptr;
}

RunCounts finish_run_of_thread() noexcept {
  Arena* arena = t_state.running;
  t_state.running = nullptr;
  const RunCounts counts = arena->finish_run();
  if (arena->pool != nullptr) {
    ++arena->pool->num_runs_;
    arena->pool->counts_ += counts;
    if (arena->deviating_requests().count != 0) arena->pool->last_deviating_ = arena->deviating_requests();
  }
  arena->reap_locked();
  // A waiting thread may be of any pool: one budget, and one lock, for all.
  if (g_num_waiting != 0) g_run_ended.notify_all();
  return counts;
}

PoolStats Pool::stats() const {
  const RegistryGuard guard(g_registry_lock);
  PoolStats stats;
  stats.num_runs = num_runs_;
  stats.counts = counts_;
  stats.num_arenas = arenas_.size();
  stats.num_evicted = num_evicted_;
  for (const Arena* arena : arenas_) {
    if (arena->is_running()) ++stats.num_arenas_in_use;
    stats.mapped_bytes += arena->mapped_bytes();
  }
  return stats;
}

}  // namespace memomalloc
