#pragma once

#include <cstddef>
#include <cstdint>

namespace memomalloc {

// The allocator that was there before us, and the profiler that must hear of the blocks it does not see.
// Plain function pointers, set once before the first request, so that this layer knows nothing of torch.
struct Upstream {
  // Returns a block, or throws where there is no memory; never called with 0 bytes.
  void* (*allocate)(std::size_t bytes) = nullptr;
  // Does not throw: it is called where a throw would end the process. (The type of torch's deleters does not
  // say so.)
  void (*release)(void* block) = nullptr;
  // Whether a memory profiler listens on this thread.
  bool (*profiling)() noexcept = nullptr;
  // Tells the profiler of a planned block: bytes > 0 taken, < 0 given back.
  void (*report)(void* block, int64_t bytes) noexcept = nullptr;
};

inline Upstream g_upstream;

}  // namespace memomalloc
