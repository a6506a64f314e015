#include "torch/allocator.hpp"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "core/front.hpp"
#include "core/thread_state.hpp"

namespace memomalloc {
namespace {

c10::Allocator* g_torch_upstream = nullptr;

// Bytes of planned blocks alive that were reported, for the profiler's "total allocated".
std::atomic<int64_t> g_reported_bytes{0};

// Adds to the total, and says what it is then. Never below 0: a block of a recorded run that was taken before
// anybody listened is reported as it is given back.
int64_t count_reported(int64_t bytes) noexcept {
  // relaxed: a statistic, orders nothing.
  int64_t total = g_reported_bytes.load(std::memory_order_relaxed);
  int64_t next = 0;
  do {
    next = std::max<int64_t>(total + bytes, 0);
  } while (!g_reported_bytes.compare_exchange_weak(total, next, std::memory_order_relaxed));
  return next;
}

// The one deleter of every block that we return, planned or not: raw_deallocate() gives us an address and
// nothing else.
void release_block(void* block) noexcept { release(block); }

void* allocate_upstream(std::size_t bytes) {
  ++t_state.num_upstream;
  // Context and data are the same pointer in an allocator with a raw deleter, which install checked.
  return g_torch_upstream->raw_allocate(bytes);
}

bool profiling() noexcept { return c10::memoryProfilingEnabled(); }

void report(void* block, int64_t bytes) noexcept {
  const int64_t total = count_reported(bytes);
  try {
    c10::reportMemoryUsageToProfiler(block, bytes, static_cast<std::size_t>(total), 0,
                                     c10::Device(c10::kCPU));
  } catch (...) {
    // We may be in a destructor: the profile misses an event, the program goes on.
  }
}

class MemorizingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    // An empty tensor has no block, as upstream has it.
    void* block = bytes != 0 ? memomalloc::allocate(bytes) : nullptr;
    // The context must equal the data pointer: see release_block().
    return {block, block, &release_block, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release_block; }

  void copy_data(void* destination, const void* source, std::size_t bytes) const override {
    default_copy_data(destination, source, bytes);
  }
};

}  // namespace

void install_torch_allocator() {
  static const bool installed = [] {
    c10::Allocator* upstream = c10::GetCPUAllocator();
    if (upstream->raw_deleter() == nullptr) {
      throw std::runtime_error(
          "the CPU allocator that is installed has no raw deleter, so memomalloc cannot stand in front of "
          "it; "
          "install it after memomalloc, or run without it");
    }
    g_torch_upstream = upstream;
    install({&allocate_upstream, upstream->raw_deleter(), &profiling, &report});
    // Never destroyed: blocks keep its deleter, and torch its address, until the process ends.
    auto* allocator = new MemorizingAllocator;
    // The highest priority: torch silently ignores a lower one than that of the allocator which is there.
    c10::SetCPUAllocator(allocator, std::numeric_limits<uint8_t>::max());
    if (c10::GetCPUAllocator() != allocator) throw std::runtime_error("torch refused memomalloc's allocator");
    return true;
  }();
  static_cast<void>(installed);
}

}  // namespace memomalloc
