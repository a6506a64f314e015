#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/address_range.hpp"
#include "core/arena.hpp"
#include "core/recording.hpp"
#include "core/thread_state.hpp"
#include "core/upstream.hpp"

// What every request and every free of the process goes through: off, recording or replaying, as the calling
// thread is.
namespace memomalloc {

// Frees of addresses in our range at which no block was live: a double free, or a pointer that is not the
// block's.
inline std::atomic<uint64_t> g_num_bad_frees{0};

// Sets the upstream allocator, reserves the range and prepares for fork(). Once, before the first request.
void install(const Upstream& upstream);

// What the fast path leaves over, out of line so that it stays small.
void* allocate_recorded(std::size_t bytes);
void* allocate_carefully(Arena* arena, std::size_t bytes);
void release_recorded(void* block) noexcept;
void release_carefully(Arena* arena, void* block) noexcept;

// A block of at least `bytes` > 0 bytes, 64-byte aligned. Throws what upstream throws.
inline void* allocate(std::size_t bytes) {
  if (__builtin_expect(Recording::any_open(), 0)) return allocate_recorded(bytes);
  Arena* arena = t_state.running;
  if (arena == nullptr) return g_upstream.allocate(bytes);
  void* block = arena->take(bytes);
  return __builtin_expect(block != nullptr, 1) ? block : allocate_carefully(arena, bytes);
}

inline void release_planned(void* block) noexcept {
  Arena* arena = g_range.owner(block);
  if (__builtin_expect(arena == nullptr || !arena->give_back(block), 0)) release_carefully(arena, block);
}

inline void release_unrecorded(void* block) noexcept {
  if (g_range.contains(block)) {
    release_planned(block);
  } else {
    g_upstream.release(block);
  }
}

// Gives back a block, ours or upstream's, on any thread, at any time.
inline void release(void* block) noexcept {
  if (__builtin_expect(Recording::any_open(), 0)) {
    release_recorded(block);
  } else {
    release_unrecorded(block);
  }
}

}  // namespace memomalloc
