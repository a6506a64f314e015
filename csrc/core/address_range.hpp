#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace memomalloc {

class Arena;

// The one reserved range of addresses in which every arena lies. A deleter gets nothing but an address; that
// all arenas share a range makes "is it ours?" one subtraction and one comparison, and "whose?" one table
// look-up.
//
// The range is cut into granules; an arena takes whole granules, and the table says which arena owns each.
// Reserving costs address space, not memory. Trivially destructible on purpose: it outlives every static.
class AddressRange {
 public:
  static constexpr std::size_t kGranuleBytes = std::size_t{2} << 20;
  static constexpr std::size_t kMaxReservedBytes = std::size_t{1} << 40;
  static constexpr std::size_t kMinReservedBytes = std::size_t{64} << 20;
  // Blocks that live at once. Each splits the reservation's mapping in up to two more, of which Linux allows
  // a process 65,530 by default: past that no thread could start.
  static constexpr std::size_t kMaxBlocks = 4096;
  // The part of the range that they may take together: what stays of them must leave room for arenas.
  static constexpr std::size_t kMaxBlocksPart = 8;

  // What reserve() asks for: four times the machine's memory, within the bounds above. More could not be
  // filled, and counts against a limit on address space that the program sets later.
  static std::size_t default_limit_bytes() noexcept;

  // Reserves the largest range that the system grants, at most `limit_bytes`, halving where it refuses. Under
  // a limit on address space (ulimit -v) it asks for at most a quarter of the limit and leaves the rest to
  // the program. Does nothing if a range is reserved already. Returns the bytes reserved; 0: no arena can be
  // mapped, and all requests go upstream.
  std::size_t reserve(std::size_t limit_bytes = default_limit_bytes()) noexcept;

  std::size_t reserved_bytes() const noexcept { return size_; }

  bool contains(const void* address) const noexcept {
    // An address below the base wraps around to a huge offset: one comparison checks both ends.
    return reinterpret_cast<uintptr_t>(address) - base_ < size_;
  }

  // The arena that owns the granule of an address in the range; null if none does.
  Arena* owner(const void* address) const noexcept {
    // relaxed: whoever holds a block got its address after the entry was written, through whatever
    // synchronisation handed it the block.
    return table_[(reinterpret_cast<uintptr_t>(address) - base_) / kGranuleBytes].load(
        std::memory_order_relaxed);
  }

  // Maps readable and writable memory for `arena`, zeroed and not yet resident. Null where the range is full
  // or the system refuses. Callers hold the registry lock.
  std::byte* map(std::size_t bytes, Arena* arena) noexcept;

  // The same for one block, whose size is remembered until unmap_block(). Null also where the system would
  // refuse it to any other caller, so that the program meets its limits as it does without us, and where
  // there are too many blocks already.
  std::byte* map_block(std::size_t bytes, Arena* owner) noexcept;
  // The size of the block that starts at an address in the range; 0 if none does. Callers hold the registry
  // lock.
  std::size_t block_bytes(const void* block) const noexcept {
    const std::size_t granule = granule_of(block);
    return reinterpret_cast<uintptr_t>(block) == base_ + granule * kGranuleBytes ? block_bytes_[granule] : 0;
  }
  // Unmaps a block that starts at that address; false, and nothing has changed, if none does.
  bool unmap_block(void* block) noexcept;

  // Gives the memory back to the system and the granules back to the range. Reachable from a deleter:
  // allocates nothing. Callers hold the registry lock.
  void unmap(std::byte* base, std::size_t bytes) noexcept;

 private:
  std::size_t granule_of(const void* address) const noexcept {
    return (reinterpret_cast<uintptr_t>(address) - base_) / kGranuleBytes;
  }
  static std::size_t granules(std::size_t bytes) noexcept {
    return (bytes + kGranuleBytes - 1) / kGranuleBytes;
  }

  uintptr_t base_ = 0;
  std::size_t size_ = 0;
  std::atomic<Arena*>* table_ = nullptr;
  uint64_t* block_bytes_ = nullptr;  // by first granule: the size of a block of its own, else 0
  std::size_t num_blocks_ = 0;
  std::size_t num_block_granules_ = 0;
  std::size_t high_water_ = 0;  // granules at and above this one were never used
};

inline AddressRange g_range;

}  // namespace memomalloc
