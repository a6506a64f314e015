#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/address_range.hpp"
#include "core/alignment.hpp"
#include "core/layout.hpp"
#include "core/upstream.hpp"

namespace memomalloc {

class Pool;

// Why a request of a running replay was not served from the plan.
enum class Deviation : uint8_t {
  kSize,      // no slot near the cursor takes its size
  kExtra,     // it came after the last slot
  kOccupied,  // another live tensor lies on the slot's bytes
  kBlocked,   // the slot's bytes may be in use by a tensor of an earlier run, or one that a refused slot
              // stands for
};
inline constexpr std::size_t kNumDeviations = 4;

// What happened to the requests of one run, or of many.
struct RunCounts {
  uint64_t served = 0;
  uint64_t missing = 0;  // slots that no request came for
  std::array<uint64_t, kNumDeviations> upstream{};

  RunCounts& operator+=(const RunCounts& other) noexcept;
  uint64_t num_upstream() const noexcept;
};

// One mapped region that one running inference uses, and the guard that hands out its slots.
//
// Threads: one thread at a time runs on an arena (the pool sees to it) and only it takes slots; any thread
// gives blocks back, at any time, also long after the run. All they share is one word a place: 0 where the
// place is free, else the slot that lives there plus one.
//
// Lifetime: an arena object is never destroyed, only recycled, so that a thread that gave back the last block
// may still look at `orphaned_`. Its memory stays mapped while any block in it lives.
class Arena {
 public:
  // --- The fast path
  // -------------------------------------------------------------------------------------------

  // Hands out the next slot for a request of `bytes`, or null: the request goes upstream, and is counted.
  // Takes no lock, makes no system call, allocates nothing. Called by the thread that runs on the arena.
  void* take(std::size_t bytes) noexcept {
    const uint64_t wanted = round_up_to_alignment(bytes);
    if (cursor_ < num_slots_) {
      const Slot& slot = slots_[cursor_];
      if (accepts(slot, wanted) && is_clear(cursor_)) {
        num_misses_ = 0;
        return serve(cursor_++, slot.place, slot.offset);
      }
    }
    return take_deviating(wanted);
  }

  // Gives a block back. Runs in ~StorageImpl on whichever thread drops the last reference, maybe after the
  // run, the pool or the plan is gone. noexcept: a throw here would end the process. Returns false, and
  // changes nothing, if no block of this arena is live at that address.
  bool give_back(void* block, bool report) noexcept {
    const uint64_t offset = static_cast<uint64_t>(static_cast<std::byte*>(block) - base_);
    const uint32_t place = layout_->place_at(offset);
    if (place == Layout::kNoPlace) return false;
    // relaxed: only the holder of the block asks, and it got the block after the store in serve().
    const uint32_t occupant = occupants_[place].load(std::memory_order_relaxed);
    if (occupant == 0) return false;
    if (report || poison_) report_or_poison(block, slots_[occupant - 1].size, report);
    // release: our last reads and writes of the bytes happen before the acquire in is_clear() that reuses
    // them.
    occupants_[place].store(0, std::memory_order_release);
    // The pool may be gone and this block the last one. The fence keeps the compiler from looking before the
    // store; the processor is kept from it by the barrier that orphan() sends to all threads.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    // acquire: pairs with the store in orphan(). The arena may be recycled by now; reap() looks again under
    // its lock.
    if (orphaned_.load(std::memory_order_acquire)) reap();
    return true;
  }

  bool reports() const noexcept { return reports_; }
  int64_t slot_bytes_of_last() const noexcept { return static_cast<int64_t>(slots_[last_served_].size); }

  // --- Runs; the caller holds the registry lock
  // ------------------------------------------------------------------

  // Puts the cursor at the first slot and blocks what a survivor of an earlier run may lie on. Reports to the
  // profiler if one listens on this thread now.
  void start_run() noexcept;
  // Ends the run and says what happened in it.
  RunCounts finish_run() noexcept;

  bool is_running() const noexcept { return running_; }

  // --- Lifecycle; the caller holds the registry lock unless said otherwise
  // ---------------------------------------

  // A recycled or new arena, mapped for `layout`; null where no memory can be mapped. Throws std::bad_alloc.
  static Arena* create(std::shared_ptr<const Layout> layout, Pool* pool, bool poison);

  // The pool is gone: the arena is unmapped as soon as no run and no block uses it, which may be now.
  void orphan() noexcept;

  // Unmaps the arena if it is an orphan that nothing uses. Takes the registry lock; reachable from a deleter.
  void reap() noexcept;
  // The same for callers that hold the lock.
  void reap_locked() noexcept;

  uint32_t num_live_blocks() const noexcept;
  uint64_t mapped_bytes() const noexcept { return layout_->mapped_bytes(); }

  static const std::vector<Arena*>& all() noexcept;

  uint32_t id() const noexcept { return id_; }
  bool is_mapped() const noexcept { return base_ != nullptr; }

  // Owned by the pool's bookkeeping, guarded by the registry lock.
  Pool* pool = nullptr;
  const void* last_thread = nullptr;  // which thread ran on it last: its caches may still hold the bytes
  uint32_t serial = 0;                // of the run; with id() it names one run for ever

  // A run whose end was asked for by another thread; its own thread ends it when it next begins one, or
  // exits.
  bool abandoned = false;

 private:
  Arena() = default;

  static bool accepts(const Slot& slot, uint64_t wanted) noexcept {
    return wanted <= slot.size && wanted >= slot.smallest_size;
  }

  // Whether no live tensor can lie on the slot's bytes (see Layout: the direct predecessors say it for all).
  bool is_clear(uint32_t k) const noexcept {
    const Slot& slot = slots_[k];
    // acquire, here and below: pairs with the release in give_back(), so that what the last user of the bytes
    // did to them is over before the next one starts.
    if (occupants_[slot.place].load(std::memory_order_acquire) != 0) return false;
    const Predecessor* predecessor = predecessors_ + slot.first_predecessor;
    const Predecessor* end = predecessor + slot.num_predecessors;
    for (const Predecessor* p = predecessor; p != end; ++p) {
      if (occupants_[p->place].load(std::memory_order_acquire) == p->slot + 1) return false;
    }
    return !any_blocked_ || !is_blocked_or_follows_blocked(k);
  }

  void* serve(uint32_t slot, uint32_t place, uint64_t offset) noexcept {
    last_served_ = slot;
    // relaxed: whoever gives the block back got it from this thread; the next run's thread is ordered by the
    // lock.
    occupants_[place].store(slot + 1, std::memory_order_relaxed);
    return base_ + offset;
  }

  bool is_blocked(uint32_t slot) const noexcept { return blocked_in_run_[slot] == run_stamp_; }
  bool is_blocked_or_follows_blocked(uint32_t slot) const noexcept;
  void block(uint32_t slot) noexcept {
    blocked_in_run_[slot] = run_stamp_;
    any_blocked_ = true;
  }

  void* take_deviating(uint64_t wanted) noexcept;
  void* take_spare_place(uint32_t slot) noexcept;
  void* refuse(uint32_t slot) noexcept;
  void* count_upstream(Deviation why) noexcept;
  uint32_t find_match(uint64_t wanted) const noexcept;
  void block_what_survives() noexcept;
  void report_or_poison(void* block, uint64_t bytes, bool report) noexcept;

  // What take() reads, together.
  uint32_t cursor_ = 0;
  uint32_t num_slots_ = 0;
  const Slot* slots_ = nullptr;
  const Predecessor* predecessors_ = nullptr;
  std::unique_ptr<std::atomic<uint32_t>[]> occupants_;  // by place
  std::byte* base_ = nullptr;
  bool any_blocked_ = false;
  bool reports_ = false;
  bool poison_ = false;
  bool running_ = false;
  uint32_t last_served_ = 0;
  uint32_t num_misses_ = 0;  // requests in a row that no slot matched: how far to look ahead
  const Layout* layout_ = nullptr;
  std::atomic<bool> orphaned_{false};

  // By slot: the stamp of the run in which it was blocked. A new run is a new stamp: nothing has to be
  // cleared.
  std::vector<uint32_t> blocked_in_run_;
  uint32_t run_stamp_ = 0;
  uint32_t num_skipped_ = 0;
  uint32_t num_refused_ = 0;
  RunCounts counts_;

  std::shared_ptr<const Layout> layout_owner_;
  uint32_t id_ = 0;
};

}  // namespace memomalloc
