#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "core/region.hpp"

// All planned memory of the process: its regions, how much they may take together, and when they give it
// back.
namespace memomalloc {

// Bytes that may be resident: of regions the largest arenas laid, of outputs as far as blocks were handed
// out, since pages were last given back. Each of these is 0 where it was never set.
struct MemoryUse {
  uint64_t limit_bytes = 0;
  uint64_t used_bytes = 0;
  uint64_t peak_bytes = 0;      // the most there ever was
  uint64_t num_evicted = 0;     // regions unmapped so that others fit
  uint64_t num_over_limit = 0;  // requests for memory that the limit refused
  uint64_t num_releases = 0;    // of pages of regions that lay idle
  uint64_t released_bytes = 0;  // by them
};
MemoryUse memory_use();

// What one region is, as far as can be told without stopping who runs on it.
struct RegionUse {
  uint32_t id = 0;
  bool is_running = false;
  uint64_t charged_bytes = 0;
  uint64_t plan = 0;  // the number of the armed plan that it is laid with; 0: none
  // Of one on which nobody runs.
  uint32_t num_kept = 0;  // tensors that live in it: until they go it can take no other plan
  uint64_t kept_bytes = 0;
  uint32_t num_outputs = 0;  // that live
  uint64_t output_bytes = 0;
  uint64_t output_charged_bytes = 0;
};
std::vector<RegionUse> regions_in_use();

// At most so many bytes for regions and outputs together, from now on; idle memory beyond it is given back at
// once.
void set_memory_limit(uint64_t bytes);

// Pages of regions that lay idle for so long are given back, by a thread that is there while there are any;
// 0: they are kept.
void set_release_after(std::chrono::nanoseconds idle_for);

// Gives back the pages of regions that were idle for so long, and on which nothing lives; the bytes.
uint64_t release_pages(std::chrono::nanoseconds idle_for = {}) noexcept;

// The same for the region that the calling thread used last, whatever else is idle.
void release_home() noexcept;

// A region for a run of the plan, taken and laid with it: one that has it, or a clear one, or a new one. Null
// where there is no memory. Takes the registry lock.
Region* take_region(const std::shared_ptr<ArmedPlan>& plan) noexcept;

// --- The caller holds the registry lock

// Whether so many bytes more may be used; they are counted then. Unmaps idle regions where that helps.
bool charge(uint64_t bytes) noexcept;
// The same for what upstream would serve as well: nothing is unmapped for it.
bool charge_free(uint64_t bytes) noexcept;
void uncharge(uint64_t bytes) noexcept;
// In the child of a fork(), which has only one thread.
void recover_memory_after_fork() noexcept;

}  // namespace memomalloc
