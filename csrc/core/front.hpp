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

// Serves a request from the run of the calling thread, without asking upstream; null: it is not served.
inline void* allocate_planned(Arena* arena, std::size_t bytes) noexcept {
  void* block = arena->take(bytes);
  if (block != nullptr && arena->reports()) g_upstream.report(block, arena->slot_bytes_of_last());
  return block;
}

void* allocate_recorded(std::size_t bytes);
void release_recorded(void* block) noexcept;

// Out of line, to keep the program's only atomic read-modify-write out of every free.
void count_bad_free() noexcept;

// A block of at least `bytes` > 0 bytes, 64-byte aligned. Throws what upstream throws.
inline void* allocate(std::size_t bytes) {
  const ThreadState& thread = t_state;
  if (__builtin_expect(thread.recording != nullptr, 0)) return allocate_recorded(bytes);
  if (thread.running != nullptr) {
    if (void* block = allocate_planned(thread.running, bytes)) return block;
  }
  if (__builtin_expect(Recording::any_open(), 0)) Recording::log_elsewhere(bytes);
  return g_upstream.allocate(bytes);
}

inline void release_planned(void* block) noexcept {
  const ThreadState& thread = t_state;
  const bool report = thread.running != nullptr ? thread.running->reports() : g_upstream.profiling();
  Arena* arena = g_range.owner(block);
  if (arena == nullptr || !arena->give_back(block, report)) count_bad_free();
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
