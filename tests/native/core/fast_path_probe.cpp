#include "fast_path_probe.hpp"

#include "core/front.hpp"

extern "C" __attribute__((noinline)) void* memomalloc_probe_allocate(std::size_t bytes) {
  return memomalloc::allocate(bytes);
}

extern "C" __attribute__((noinline)) void memomalloc_probe_release(void* block) {
  memomalloc::release(block);
}

extern "C" __attribute__((noinline, used)) void memomalloc_probe_fetch_add(std::atomic<int>& counter) {
  counter.fetch_add(1, std::memory_order_relaxed);
}
