#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace memomalloc {

// The bytes of all blocks that live, planned or upstream's, and the most there were at one time: as they were
// asked for, on all threads. A block that lived before the count began is never counted, nor is its free.
//
// A deleter gets nothing but an address, so the size of each counted block is kept by its address, in parts
// with a lock each. Who has such a lock waits for nobody, but where an allocation makes a part larger, for
// malloc. Trivially destructible on purpose: blocks outlive every static.
class AllocatedBytes {
 public:
  struct Counts {
    uint64_t live = 0;
    uint64_t peak = 0;  // since the last reset_peak()
  };
  // As they were together at one moment.
  Counts counts() noexcept;
  // The peak is what lives now.
  void reset_peak() noexcept;

  // --- Called by the allocator

  // Where there is no memory for what is known of it, the block is not counted.
  void add(const void* block, std::size_t bytes) noexcept;
  // Called before the block goes back, since its address may be handed out again right after.
  void remove(const void* block) noexcept;

  // Nothing changes between the two. Taken after the registry lock.
  void lock() noexcept;
  void unlock() noexcept;

 private:
  // Fewer than the 64 locks that ThreadSanitizer lets a thread hold.
  static constexpr std::size_t kNumParts = 16;

  struct Entry {
    const void* block;  // null: none
    uint64_t bytes;
  };

  // A hash table with linear probing, at most half full as long as there is memory. On cache lines of its
  // own: threads at work on two parts must not slow each other down.
  struct alignas(64) Part {
    std::mutex lock;
    Entry* entries = nullptr;
    std::size_t capacity = 0;  // a power of two, or 0
    std::size_t size = 0;

    std::size_t home_of(const void* block) const noexcept;
    // Where the block is, or would be; there is at least one free entry.
    std::size_t find(const void* block) const noexcept;
    // Sees to it that one entry is free after one more block came; false where there is no memory.
    bool make_room() noexcept;
    bool grow() noexcept;
    void erase(std::size_t index) noexcept;
  };

  static uint64_t hash_of(const void* block) noexcept;
  Part& part_of(const void* block) noexcept;

  std::array<Part, kNumParts> parts_;
  // Changed with the lock of some part, read with all.
  alignas(64) std::atomic<uint64_t> live_{0};
  std::atomic<uint64_t> peak_{0};
};

inline AllocatedBytes g_allocated_bytes;

}  // namespace memomalloc
