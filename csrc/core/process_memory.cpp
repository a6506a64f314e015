#include "core/process_memory.hpp"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <new>

#include "core/armed_plan.hpp"
#include "core/registry.hpp"
#include "core/thread_state.hpp"

namespace memomalloc {
namespace {

// How often the thread looks, in times of the time that memory may lie idle: pages go at most a quarter of it
// late.
constexpr int kLooksPerPeriod = 4;
constexpr std::size_t kMaxRegions = std::size_t{1} << 16;

// Guarded by the registry lock. Never destroyed, as the lock.
MemoryUse g_use{UINT64_MAX, 0, 0, 0, 0, 0, 0};
std::chrono::nanoseconds g_release_after{0};
bool g_is_releasing = false;  // the thread is there
std::condition_variable& g_release_changed = *new std::condition_variable;

// A region that could be evicted: nobody runs on it, and nothing lives in it. It is taken.
Region* take_largest_clear() noexcept {
  Region* largest = nullptr;
  for (Region* region : Region::all()) {
    if (!region->try_take()) continue;
    const bool is_better = region->charged_bytes() != 0 && region->is_clear() &&
                           (largest == nullptr || region->charged_bytes() > largest->charged_bytes());
    if (is_better) std::swap(region, largest);
    if (region != nullptr) region->leave();
  }
  return largest;
}

bool is_over(uint64_t bytes) noexcept {
  return bytes > g_use.limit_bytes || g_use.used_bytes > g_use.limit_bytes - bytes;
}

// Gives up idle memory until `bytes` more fit; false if they do not.
bool make_room(uint64_t bytes) noexcept {
  // First what costs least to have again: pages of outputs, and of regions in which something lives.
  for (Region* region : Region::all()) {
    if (!is_over(bytes)) return true;
    if (!region->try_take()) continue;
    region->outputs().release_pages();
    if (!region->is_clear()) region->release_pages({});
    region->leave();
  }
  while (is_over(bytes)) {
    Region* region = take_largest_clear();
    if (region == nullptr) return false;
    region->unmap();
    region->leave();
    ++g_use.num_evicted;
  }
  return true;
}

// The pages of one region, unless somebody has it.
uint64_t release_pages_of(Region* region, std::chrono::nanoseconds idle_for) noexcept {
  if (!region->try_take()) return 0;
  const uint64_t released = region->release_pages(idle_for);
  region->leave();
  return released;
}

// Gives back what lies idle, while there is anything to give back.
void* release_idle_pages(void*) {
  std::unique_lock<std::mutex> lock(g_registry_lock);
  while (g_release_after.count() > 0 && g_use.used_bytes != 0) {
    // Woken at once where the time is set anew.
    g_release_changed.wait_for(lock, g_release_after / kLooksPerPeriod);
    if (g_release_after.count() <= 0) break;
    const std::chrono::nanoseconds idle_for = g_release_after;
    lock.unlock();
    release_pages(idle_for);
    lock.lock();
  }
  g_is_releasing = false;
  return nullptr;
}

// Detached: it waits for the lock or for time, neither of which ends before the process does.
void start_releasing() noexcept {
  if (g_is_releasing || g_release_after.count() <= 0 || t_state.is_exiting) return;
  // Signals are for the program's threads.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  // Where no thread can be had, pages stay until somebody asks.
  g_is_releasing = pthread_create(&thread, &attributes, &release_idle_pages, nullptr) == 0;
  if (g_is_releasing) pthread_setname_np(thread, "memomalloc-idle");
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// How well a region suits a plan; the best has the most.
enum Suits : uint8_t { kNot, kWithoutMemory, kWhereTensorsLive, kIfItGrows, kAtOnce, kLaidAlready };

Suits suits(const Region& region, const ArmedPlan& plan) noexcept {
  const bool is_laid = region.laid().get() == &plan;
  const bool has_room = region.has_room_for(plan.layout());
  if (!region.is_clear()) return is_laid ? kWhereTensorsLive : kNot;
  if (has_room) return is_laid ? kLaidAlready : kAtOnce;
  return region.is_mapped() ? kIfItGrows : kWithoutMemory;
}

bool make_ready(Region* region, const std::shared_ptr<ArmedPlan>& plan) noexcept {
  if (region->laid() != plan && !plan->is_within_budget(*region)) region->release_pages({});
  if (!region->has_room_for(plan->layout()) && !region->grow_for(plan->layout())) return false;
  return region->laid() == plan || region->lay(plan);
}

}  // namespace

MemoryUse memory_use() {
  const RegistryGuard guard(g_registry_lock);
  return g_use;
}

std::vector<RegionUse> regions_in_use() {
  const RegistryGuard guard(g_registry_lock);
  std::vector<RegionUse> all;
  for (Region* region : Region::all()) {
    RegionUse use;
    use.id = region->id();
    use.charged_bytes = region->charged_bytes();
    use.is_running = region->is_running();
    use.plan = region->plan_number();
    if (region->try_take()) {
      use.num_kept = region->num_live_blocks();
      use.kept_bytes = region->live_bytes();
      use.num_outputs = region->outputs().num_live();
      use.output_bytes = region->outputs().live_bytes();
      use.output_charged_bytes = region->outputs().used_bytes();
      region->leave();
    } else if (!use.is_running) {
      continue;  // of a thread that a fork() has left behind
    }
    if (use.charged_bytes + use.output_charged_bytes != 0 || use.is_running) all.push_back(use);
  }
  return all;
}

void set_memory_limit(uint64_t bytes) {
  const RegistryGuard guard(g_registry_lock);
  g_use.limit_bytes = bytes;
  make_room(0);
}

void set_release_after(std::chrono::nanoseconds idle_for) {
  const RegistryGuard guard(g_registry_lock);
  g_release_after = idle_for;
  g_release_changed.notify_all();
  if (g_use.used_bytes != 0) start_releasing();
}

uint64_t release_pages(std::chrono::nanoseconds idle_for) noexcept {
  uint64_t released = 0;
  // The lock for one region at a time: deleters of recorded calls, and runs that begin, may wait for it.
  for (std::size_t id = 0;; ++id) {
    const RegistryGuard guard(g_registry_lock);
    if (id == Region::all().size()) {
      if (released != 0) ++g_use.num_releases;
      g_use.released_bytes += released;
      return released;
    }
    released += release_pages_of(Region::all()[id], idle_for);
  }
}

void release_home() noexcept {
  const RegistryGuard guard(g_registry_lock);
  if (t_state.home != nullptr) release_pages_of(t_state.home, {});
}

Region* take_region(const std::shared_ptr<ArmedPlan>& plan) noexcept {
  const RegistryGuard guard(g_registry_lock);
  if (g_use.used_bytes != 0) start_releasing();  // a forked child has no thread yet
  Region* best = nullptr;
  Suits best_suits = kNot;
  for (Region* region : Region::all()) {
    if (!region->try_take()) continue;
    const Suits candidate = suits(*region, *plan);
    // Among those that have room the smallest, so that the larger ones are there for larger plans; among
    // those that must grow the largest, so that the smaller ones stay small.
    const bool is_as_good = best != nullptr && candidate == best_suits;
    const bool is_smaller = is_as_good && region->charged_bytes() < best->charged_bytes();
    const bool is_larger = is_as_good && region->charged_bytes() > best->charged_bytes();
    const bool is_better = candidate > best_suits || (candidate == kIfItGrows ? is_larger : is_smaller);
    if (is_better) {
      best_suits = candidate;
      std::swap(region, best);
    }
    if (region != nullptr) region->leave();
  }
  if (best == nullptr) {
    if (Region::all().size() == kMaxRegions) return nullptr;
    try {
      best = Region::create();
    } catch (...) {
      return nullptr;
    }
  }
  if (make_ready(best, plan)) return best;
  best->leave();
  return nullptr;
}

bool charge_free(uint64_t bytes) noexcept {
  if (is_over(bytes)) return false;
  g_use.used_bytes += bytes;
  g_use.peak_bytes = std::max(g_use.peak_bytes, g_use.used_bytes);
  start_releasing();
  return true;
}

bool charge(uint64_t bytes) noexcept {
  if (is_over(bytes) && !make_room(bytes)) {
    ++g_use.num_over_limit;
    return false;
  }
  return charge_free(bytes);
}

void uncharge(uint64_t bytes) noexcept { g_use.used_bytes -= bytes; }

void recover_memory_after_fork() noexcept {
  for (Region* region : Region::all()) {
    if (region == t_state.running || region->try_take()) {
      if (region != t_state.running) region->leave();
    } else {
      region->recover_after_fork();
    }
  }
  g_is_releasing = false;
  t_state.home = nullptr;  // the next run asks for its region, and for the thread that is not there any more
  // A new one in its place, the old one not destroyed: both its end and its next use would wait for the
  // threads that it remembers.
  ::new (&g_release_changed) std::condition_variable;
}

}  // namespace memomalloc
