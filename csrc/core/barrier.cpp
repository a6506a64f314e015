#include "core/barrier.hpp"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace memomalloc {

void barrier_on_all_threads() noexcept {
  static const bool is_registered =
      syscall(__NR_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
  if (is_registered && syscall(__NR_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0) return;
  // A kernel without it (before 4.14): our own writes are ordered at least, which is all that x86-64 needs.
  // On aarch64 other threads may read in another order then; no kernel of such a machine is known to lack it.
  static std::atomic<int> order{0};
  order.fetch_add(1, std::memory_order_seq_cst);
}

}  // namespace memomalloc
