#include "core/recorded_block.hpp"

#include "core/address_range.hpp"
#include "core/arena.hpp"
#include "core/registry.hpp"

namespace memomalloc {

void* allocate_recorded_block(std::size_t bytes) noexcept {
  const RegistryGuard guard(g_registry_lock);
  return g_range.map_block(bytes, Arena::owner_of_recorded_blocks());
}

bool owns_recorded_blocks(const Arena* owner) noexcept { return owner == Arena::owner_of_recorded_blocks(); }

bool release_recorded_block(void* block) noexcept {
  const RegistryGuard guard(g_registry_lock);
  return g_range.unmap_block(block);
}

}  // namespace memomalloc
