#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/layout.hpp"
#include "core/owner.hpp"

namespace memomalloc {

// Addresses in which outputs lie, one behind the other.
//
// One thread at a time reserves blocks and takes them; any thread gives them back, at any time. All they
// share is one word a block, at its first unit of 64 bytes: 0 where it is free, else its size in units.
class OutputChunk final : public Owner {
 public:
  // Null where no addresses are left. Throws std::bad_alloc. The caller holds the registry lock, here and at
  // the end.
  static std::unique_ptr<OutputChunk> map(std::size_t bytes);
  ~OutputChunk();
  OutputChunk(const OutputChunk&) = delete;
  OutputChunk& operator=(const OutputChunk&) = delete;

  static constexpr uint64_t kMaxBlockBytes = uint64_t{UINT32_MAX} * 64;
  static constexpr uint64_t kNoRoom = UINT64_MAX;
  // The offset of free bytes, which nobody else gets until let_go(); kNoRoom if there are none. Throws
  // std::bad_alloc.
  uint64_t reserve(uint64_t bytes);
  void let_go(uint64_t offset) noexcept;
  // As if reserve() had not been called.
  void cancel(uint64_t offset) noexcept;

  bool is_free(uint64_t offset) const noexcept {
    // acquire: pairs with the release in give_back(), so that what the last holder did to the bytes is over.
    return words_[offset / kAlignmentUnit].load(std::memory_order_acquire) == 0;
  }
  void* take(uint64_t offset, uint64_t bytes) noexcept;

  // Gives a block back; false, and nothing has changed, if none lives at that address. noexcept and without a
  // lock: it runs in ~StorageImpl on any thread. `reports`: see Region::give_back_carefully().
  bool give_back(void* block, bool (*reports)() noexcept) noexcept;
  void note_reported(const void* block, uint64_t bytes) noexcept;

  // Overwrite blocks as they are given back.
  void set_poison(bool poison) noexcept { poison_.store(poison, std::memory_order_relaxed); }

  uint64_t bytes() const noexcept { return bytes_; }
  // Up to where blocks were handed out since the last release_pages(): what may be resident.
  uint64_t used_bytes() const noexcept { return used_bytes_; }
  // Makes more of the chunk usable; false where the system refuses. The caller holds the registry lock.
  bool use(uint64_t bytes) noexcept;
  // Whether nothing lives here and nothing is reserved.
  bool is_empty() noexcept;
  uint32_t num_live() noexcept;
  uint64_t live_bytes() noexcept;
  // Gives the pages back on which nothing lives; returns the bytes. They stay where there is no memory for
  // their list.
  uint64_t release_pages() noexcept;

 private:
  static constexpr uint64_t kAlignmentUnit = 64;
  struct Room {
    uint64_t offset;
    uint64_t bytes;
    bool is_reserved;
  };

  explicit OutputChunk(std::size_t bytes) noexcept : Owner(Kind::kOutputs), bytes_(bytes) {}
  std::size_t tables_bytes() const noexcept {
    return bytes_ / kAlignmentUnit * (sizeof(std::atomic<uint64_t>) + sizeof(std::atomic<uint32_t>));
  }
  bool is_given_up(const Room& room) const noexcept { return !room.is_reserved && is_free(room.offset); }
  std::vector<Room>::iterator find(uint64_t offset) noexcept;
  void drop_free_rooms() noexcept;
  uint64_t first_fit(uint64_t bytes, std::size_t num_rooms);

  std::byte* base_ = nullptr;
  const uint64_t bytes_;
  uint64_t used_bytes_ = 0;
  uint64_t accessible_bytes_ = 0;
  std::atomic<uint32_t>* words_ = nullptr;  // by unit
  std::atomic<uint64_t>* reported_ =
      nullptr;                     // by unit: the bytes that the profiler was told of; 0: it was not told
  std::vector<Room> rooms_;        // by offset; of blocks that live, lived or are reserved
  uint32_t searches_to_skip_ = 0;  // of all rooms, since the last one found nothing
  std::atomic<bool> poison_{false};
};

// Where the outputs of the runs on one region lie: what outlives a run is in no later run's way, whatever its
// plan. Blocks are recycled, whoever had them; a program that holds many has as many.
class OutputMemory {
 public:
  ~OutputMemory();

  // All that follows is called by the thread that has the region.

  // Sees to it that each output of the plan has a free block, as far as memory allows. Takes the registry
  // lock where there was none; as a rule the block of the last run is free again.
  void prepare(const Layout& layout, bool poison) noexcept;
  // The region is laid over with another plan.
  void forget_plan() noexcept;

  // The block of an output, counted from 1, which lives from now on; null if it has none.
  void* take(uint32_t output) noexcept;
  // A block that no plan foresees: from what is used already, or from more memory where the process has some
  // that nobody uses, for which it takes the registry lock. Null if there is none.
  enum class Spare : uint8_t { kUsed, kMore };
  void* take_spare(uint64_t bytes, Spare which) noexcept;
  // The profiler was told of the block that was taken last.
  void note_reported(uint64_t bytes) noexcept;

  uint32_t num_live() const noexcept;
  uint64_t live_bytes() const noexcept;
  uint64_t used_bytes() const noexcept;
  // Gives pages back on which nothing lives, and chunks in which nothing does. The caller holds the registry
  // lock.
  uint64_t release_pages() noexcept;
  // In a forked child, where the thread that was at work here does not exist: blocks stay where they are, and
  // nobody reserves among them again.
  void abandon() noexcept;

 private:
  struct Block {
    OutputChunk* chunk = nullptr;  // null: none
    uint64_t offset = 0;
    uint64_t bytes = 0;
    bool is_ready = false;  // free, to be taken in the run to come
  };

  Block reserve(uint64_t bytes) noexcept;
  // A free block in what is used so far, or none.
  Block reserve_used(uint64_t bytes);
  // The same in more memory, if `charge` lets the process have it.
  Block reserve_more(uint64_t bytes, bool (*charge)(uint64_t bytes) noexcept);
  void* hand_out(const Block& block) noexcept;

  std::vector<std::unique_ptr<OutputChunk>> chunks_;
  std::vector<Block> blocks_;  // by output of the plan that the region is laid with
  bool poison_ = false;
  OutputChunk* last_chunk_ = nullptr;
  void* last_block_ = nullptr;
};

}  // namespace memomalloc
