#include "core/front.hpp"

#include <pthread.h>

#include "core/armed_plan.hpp"
#include "core/barrier.hpp"
#include "core/process_memory.hpp"
#include "core/recorded_block.hpp"
#include "core/recording.hpp"
#include "core/registry.hpp"

namespace memomalloc {
namespace {

// Holding the locks over fork() gives the child a registry, and counts, in one piece.
void before_fork() noexcept {
  g_registry_lock.lock();
  g_allocated_bytes.lock();
}

void after_fork_in_parent() noexcept {
  g_allocated_bytes.unlock();
  g_registry_lock.unlock();
}

void after_fork_in_child() noexcept {
  g_allocated_bytes.unlock();
  // The other threads do not exist here, and will not end their runs or recordings. Their blocks stay where
  // they are, and the guard keeps clear of them.
  recover_memory_after_fork();
  Recording::close_those_of_other_threads();
  forget_waiting_threads();
  g_registry_lock.unlock();
}

struct ThreadExit {
  ~ThreadExit() {
    t_state.is_exiting = true;
    Recording::close_all_of_thread();
    if (t_state.running != nullptr) finish_run_of_thread();
  }
};

}  // namespace

void end_runs_at_thread_exit() {
  // Apart from t_state, which must stay trivial: the first use on a thread registers the destructor.
  thread_local ThreadExit at_exit;
  static_cast<void>(at_exit);
}

void install(const Upstream& upstream) {
  g_upstream = upstream;
  g_range.reserve();
  // Who sees the allocator that is installed after this sees what it calls, too.
  barrier_on_all_threads();
  pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void reset_peak_allocated_bytes() noexcept {
  g_observers.begin_counting();
  g_allocated_bytes.reset_peak();
}

namespace {

void* allocate_recorded(std::size_t bytes) {
  const ThreadState& thread = t_state;
  void* block = nullptr;
  if (thread.running != nullptr) block = thread.running->take_carefully(bytes);
  if (thread.recording == nullptr) {
    if (block != nullptr) return block;
    Recording::log_elsewhere(bytes);
    return g_upstream.allocate(bytes);
  }
  if (block == nullptr && bytes >= kMinRecordedBlockBytes) {
    block = allocate_recorded_block(bytes);
    if (block != nullptr && g_upstream.profiling()) g_upstream.report(block, static_cast<int64_t>(bytes));
  }
  if (block == nullptr) block = g_upstream.allocate(bytes);
  try {
    Recording::log_allocation(block, bytes);
  } catch (...) {
    release(block);
    throw;
  }
  return block;
}

}  // namespace

void* allocate_observed(std::size_t bytes) {
  void* block = Recording::any_open() ? allocate_recorded(bytes) : allocate_unobserved(bytes);
  if (g_observers.is_counting()) g_allocated_bytes.add(block, bytes);
  return block;
}

void* allocate_carefully(Region* region, std::size_t bytes) {
  void* block = region->take_carefully(bytes);
  return block != nullptr ? block : g_upstream.allocate(bytes);
}

void release_observed(void* block) noexcept {
  if (Recording::any_open()) Recording::log_free(block);
  if (g_observers.is_counting()) g_allocated_bytes.remove(block);
  release_unobserved(block);
}

namespace {

bool reports_frees() noexcept {
  const ThreadState& thread = t_state;
  return thread.running != nullptr ? thread.running->reports() : g_upstream.profiling();
}

}  // namespace

void release_carefully(Owner* owner, void* block) noexcept {
  bool is_freed = false;
  if (owner != nullptr) {
    switch (owner->kind()) {
      case Owner::Kind::kRegion:
        is_freed = static_cast<Region*>(owner)->give_back_carefully(block, &reports_frees);
        break;
      case Owner::Kind::kOutputs:
        is_freed = static_cast<OutputChunk*>(owner)->give_back(block, &reports_frees);
        break;
      case Owner::Kind::kRecordedBlocks:
        is_freed = release_recorded_block(block, g_upstream.profiling());
        break;
      case Owner::Kind::kLost:
        g_upstream.release(block);
        is_freed = true;
        break;
    }
  }
  if (!is_freed) {
    g_num_bad_frees.fetch_add(1, std::memory_order_relaxed);  // a statistic, orders nothing
  }
}

}  // namespace memomalloc
