#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/address_range.hpp"
#include "core/allocated_bytes.hpp"
#include "core/observers.hpp"
#include "core/region.hpp"
#include "core/thread_state.hpp"
#include "core/upstream.hpp"

// What every request and every free of the process goes through: off, observed or replaying, as the calling
// thread is.
namespace memomalloc {

// Frees of addresses in our range at which no block was live: a double free, or a pointer that is not the
// block's. One is harmless unless another thread changes what lies there at that very moment.
inline std::atomic<uint64_t> g_num_bad_frees{0};

// Sets the upstream allocator, reserves the range and prepares for fork(). Once, before the first request.
void install(const Upstream& upstream);

// Lets the peak of g_allocated_bytes be what lives now. The first call begins to count, which never ends.
void reset_peak_allocated_bytes() noexcept;

// What the fast path leaves over, out of line so that it stays small.
void* allocate_observed(std::size_t bytes);
void* allocate_carefully(Region* region, std::size_t bytes);
void release_observed(void* block) noexcept;
void release_carefully(Owner* owner, void* block) noexcept;

inline void* allocate_unobserved(std::size_t bytes) {
  Region* region = t_state.running;
  if (region == nullptr) return g_upstream.allocate(bytes);
  void* block = region->take(bytes);
  return __builtin_expect(block != nullptr, 1) ? block : allocate_carefully(region, bytes);
}

// A block of at least `bytes` > 0 bytes, 64-byte aligned. Throws what upstream throws.
inline void* allocate(std::size_t bytes) {
  return __builtin_expect(g_observers.any(), 0) ? allocate_observed(bytes) : allocate_unobserved(bytes);
}

inline void release_planned(void* block) noexcept {
  Owner* owner = g_range.owner(block);
  // What is not watched is a region.
  const bool is_plain = owner != nullptr && !owner->is_watched();
  if (__builtin_expect(!is_plain || !static_cast<Region*>(owner)->give_back(block), 0)) {
    release_carefully(owner, block);
  }
}

inline void release_unobserved(void* block) noexcept {
  if (g_range.contains(block)) {
    release_planned(block);
  } else {
    g_upstream.release(block);
  }
}

// Gives back a block, ours or upstream's, on any thread, at any time.
inline void release(void* block) noexcept {
  if (__builtin_expect(g_observers.any(), 0)) {
    release_observed(block);
  } else {
    release_unobserved(block);
  }
}

}  // namespace memomalloc
