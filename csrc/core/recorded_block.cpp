#include "core/recorded_block.hpp"

#include "core/address_range.hpp"
#include "core/owner.hpp"
#include "core/registry.hpp"
#include "core/upstream.hpp"

namespace memomalloc {
namespace {

class RecordedBlocks final : public Owner {
 public:
  RecordedBlocks() noexcept : Owner(Kind::kRecordedBlocks) {}
};

RecordedBlocks* recorded_blocks() noexcept {
  static auto* owner = new RecordedBlocks;  // never destroyed: blocks outlive every static
  return owner;
}

std::size_t recorded_block_bytes(const void* block) noexcept {
  const RegistryGuard guard(g_registry_lock);
  return g_range.block_bytes(block);
}

}  // namespace

void* allocate_recorded_block(std::size_t bytes) noexcept {
  const RegistryGuard guard(g_registry_lock);
  return g_range.map_block(bytes, recorded_blocks());
}

bool release_recorded_block(void* block, bool report) noexcept {
  if (report) {
    // Before it is unmapped: another thread may then get the address at once, and report that. Without the
    // lock: who listens may allocate.
    const std::size_t bytes = recorded_block_bytes(block);
    if (bytes != 0) g_upstream.report(block, -static_cast<int64_t>(bytes));
  }
  const RegistryGuard guard(g_registry_lock);
  return g_range.unmap_block(block);
}

}  // namespace memomalloc
