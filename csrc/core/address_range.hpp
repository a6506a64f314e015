#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/owner.hpp"

namespace memomalloc {

// The one reserved range of addresses in which all planned memory lies. A deleter gets nothing but an
// address; that everything shares a range makes "is it ours?" one subtraction and one comparison, and
// "whose?" one table look-up.
//
// The range is cut into granules; an owner takes whole granules, and the table says whose each is. Reserving
// costs address space, not memory. Trivially destructible on purpose: it outlives every static.
class AddressRange {
 public:
  static constexpr std::size_t kGranuleBytes = std::size_t{2} << 20;
  static constexpr std::size_t kMaxReservedBytes = std::size_t{1} << 40;
  static constexpr std::size_t kMinReservedBytes = std::size_t{64} << 20;
  // Blocks that live at once. Each splits the reservation's mapping in up to two more, of which Linux allows
  // a process 65,530 by default: past that no thread could start.
  static constexpr std::size_t kMaxBlocks = 4096;
  // The part of the range that they may take together: what stays of them must leave room for regions.
  static constexpr std::size_t kMaxBlocksPart = 8;

  // What reserve() asks for: four times the machine's memory, within the bounds above. More could not be
  // filled, and counts against a limit on address space that the program sets later.
  static std::size_t default_limit_bytes() noexcept;

  // Reserves the largest range that the system grants, at most `limit_bytes`, halving where it refuses. Under
  // a limit on address space (ulimit -v) it takes at most a quarter of the limit, and half of what is left of
  // it: the program needs the rest. Does nothing if a range is reserved already. Returns the bytes reserved;
  // 0: nothing can be mapped, and all requests go upstream.
  std::size_t reserve(std::size_t limit_bytes = default_limit_bytes()) noexcept;

  std::size_t reserved_bytes() const noexcept { return size_; }

  bool contains(const void* address) const noexcept {
    // An address below the base wraps around to a huge offset: one comparison checks both ends.
    return reinterpret_cast<uintptr_t>(address) - base_ < size_;
  }

  // Whose the granule of an address in the range is; null if nobody's.
  Owner* owner(const void* address) const noexcept {
    // relaxed: whoever holds a block got its address after the entry was written, through whatever
    // synchronisation handed it the block.
    return table_[(reinterpret_cast<uintptr_t>(address) - base_) / kGranuleBytes].load(
        std::memory_order_relaxed);
  }

  // The callers of all that follows hold the registry lock.

  // Takes addresses for `owner`, rounded up to whole granules, none of them accessible yet. Null where the
  // range is full.
  std::byte* take(std::size_t bytes, Owner* owner) noexcept;
  // Makes the first `bytes` from `base`, of which all but `from` are new, readable and writable, zeroed where
  // they are and not yet resident. False, and nothing has changed, where the system refuses.
  static bool make_accessible(std::byte* base, std::size_t from, std::size_t bytes) noexcept;
  // Gives the memory back to the system and the granules back to the range: `bytes` as they were taken.
  // Reachable from a deleter: allocates nothing.
  void give_back(std::byte* base, std::size_t bytes) noexcept;

  // Addresses for one block, accessible; its size is remembered until unmap_block(). Null also where the
  // system would refuse it to any other caller, so that the program meets its limits as it does without us,
  // and where there are too many blocks already.
  std::byte* map_block(std::size_t bytes, Owner* owner) noexcept;
  // The size of the block that starts at an address in the range; 0 if none does.
  std::size_t block_bytes(const void* block) const noexcept {
    const std::size_t granule = granule_of(block);
    return reinterpret_cast<uintptr_t>(block) == base_ + granule * kGranuleBytes ? block_bytes_[granule] : 0;
  }
  // Unmaps a block that starts at that address; false, and nothing has changed, if none does.
  bool unmap_block(void* block) noexcept;

 private:
  std::size_t granule_of(const void* address) const noexcept {
    return (reinterpret_cast<uintptr_t>(address) - base_) / kGranuleBytes;
  }
  static std::size_t granules(std::size_t bytes) noexcept {
    return bytes / kGranuleBytes + (bytes % kGranuleBytes != 0 ? 1 : 0);
  }
  void mark(std::size_t begin, std::size_t end, Owner* owner) noexcept;

  uintptr_t base_ = 0;
  std::size_t size_ = 0;
  std::atomic<Owner*>* table_ = nullptr;
  uint64_t* block_bytes_ = nullptr;  // by first granule: the size of a block of its own, else 0
  std::size_t num_blocks_ = 0;
  std::size_t num_block_granules_ = 0;
  std::size_t high_water_ = 0;  // granules at and above this one were never used
};

inline AddressRange g_range;

}  // namespace memomalloc
