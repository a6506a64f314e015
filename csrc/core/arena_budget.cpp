#include "core/arena_budget.hpp"

#include <algorithm>

#include "core/pool.hpp"

namespace memomalloc {

void ArenaBudget::remove(Pool* pool) noexcept {
  pools_.erase(std::remove(pools_.begin(), pools_.end(), pool), pools_.end());
}

bool ArenaBudget::make_room(uint64_t bytes) noexcept {
  if (bytes > limit_bytes_) return false;
  while (used_bytes_ > limit_bytes_ - bytes) {
    Pool* owner = nullptr;
    Arena* oldest = nullptr;
    for (Pool* pool : pools_) {
      Arena* idle = pool->longest_unused();
      if (idle == nullptr || (oldest != nullptr && oldest->last_use <= idle->last_use)) continue;
      oldest = idle;
      owner = pool;
    }
    if (oldest == nullptr) return false;
    owner->evict(oldest);
  }
  return true;
}

}  // namespace memomalloc
