#include "core/pool.hpp"

#include <algorithm>
#include <utility>

#include "core/registry.hpp"
#include "core/thread_state.hpp"

namespace memomalloc {
namespace {

RunToken token_of(const Arena& arena) noexcept { return RunToken{arena.id()} << 32 | arena.serial; }

}  // namespace

Pool::Pool(std::shared_ptr<const Layout> layout, uint32_t max_arenas, bool poison)
    : layout_(std::move(layout)), max_arenas_(max_arenas), poison_(poison) {}

Pool::~Pool() {
  const RegistryGuard guard(g_registry_lock);
  for (Arena* arena : arenas_) arena->orphan();
}

Arena* Pool::find_idle() noexcept {
  Arena* idle = nullptr;
  for (Arena* arena : arenas_) {
    if (arena->is_running()) continue;
    if (arena->last_thread == &t_state) return arena;
    if (idle == nullptr) idle = arena;
  }
  return idle;
}

BeginResult Pool::begin() {
  ThreadState& thread = t_state;
  end_runs_at_thread_exit();
  const RegistryGuard guard(g_registry_lock);
  if (thread.running != nullptr) {
    if (!thread.running->abandoned) return {Begin::kNested, 0};
    finish_run_of_thread();
  }
  Arena* arena = find_idle();
  if (arena == nullptr) {
    if (arenas_.size() >= max_arenas_) return {Begin::kNoArena, 0};
    arenas_.reserve(arenas_.size() + 1);
    arena = Arena::create(layout_, this, poison_);
    if (arena == nullptr) return {Begin::kNoArena, 0};
    arenas_.push_back(arena);
  }
  arena->last_thread = &thread;
  arena->start_run();
  thread.running = arena;
  return {Begin::kStarted, token_of(*arena)};
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

RunCounts finish_run_of_thread() noexcept {
  Arena* arena = t_state.running;
  t_state.running = nullptr;
  const RunCounts counts = arena->finish_run();
  if (arena->pool != nullptr) {
    ++arena->pool->num_runs_;
    arena->pool->counts_ += counts;
  }
  arena->reap_locked();
  return counts;
}

PoolStats Pool::stats() const {
  const RegistryGuard guard(g_registry_lock);
  PoolStats stats;
  stats.num_runs = num_runs_;
  stats.counts = counts_;
  stats.num_arenas = arenas_.size();
  for (const Arena* arena : arenas_) {
    if (arena->is_running()) ++stats.num_arenas_in_use;
    stats.mapped_bytes += arena->mapped_bytes();
  }
  return stats;
}

}  // namespace memomalloc
