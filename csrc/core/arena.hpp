#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/address_range.hpp"
#include "core/alignment.hpp"
#include "core/layout.hpp"
#include "core/upstream.hpp"

namespace memomalloc {

class ArenaBudget;
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
  uint64_t kept = 0;     // of the occupied: outputs whose places all hold outputs of earlier runs
  std::array<uint64_t, kNumDeviations> upstream{};
  uint64_t upstream_bytes = 0;  // of those requests

  RunCounts& operator+=(const RunCounts& other) noexcept;
  uint64_t num_upstream() const noexcept;
};

// One request that deviated, for a report that names it.
struct DeviatingRequest {
  uint32_t slot = 0;  // the one it was compared with; the number of slots for an extra one
  Deviation why = Deviation::kSize;
  uint64_t bytes = 0;         // asked for
  bool by_its_asker = false;  // the slot's own asker asked, for another size than was planned
};

// The first deviating requests of a run: enough to tell what has changed.
struct DeviatingRequests {
  std::array<DeviatingRequest, 16> first{};
  uint32_t count = 0;
};

// How the arenas of a pool are mapped.
struct ArenaOptions {
  bool poison = false;      // overwrite every block as it is given back: a tool for tests
  bool prefault = false;    // make all pages resident at the first run's begin, not at their first use
  bool huge_pages = false;  // ask for huge pages (MADV_HUGEPAGE)
};

// One mapped region that one running inference uses, and the guard that hands out its slots.
//
// Threads: one thread at a time runs on an arena (the pool sees to it) and only it takes slots; any thread
// gives blocks back, at any time, also long after the run. All they share is one word a place: 0 where the
// place is free, else the slot that lives there plus one.
//
// Lifetime: an arena object is never destroyed, only recycled, so that a thread that gave back the last block
// may still look at `orphaned_`. Its memory stays mapped while any block in it lives.
//
// On cache lines of its own: the threads of two arenas must not slow each other down.
class alignas(64) Arena {
 public:
  // --- The fast path

  // Hands out the next slot for a request of `bytes` where that is plain sailing; null: ask take_carefully().
  // Takes no lock, makes no system call, allocates nothing. Called by the thread that runs on the arena.
  void* take(std::size_t bytes) noexcept {
    const Slot& slot = *next_;
    if (is_careful_ || !accepts(slot, round_up_to_alignment(bytes)) || !is_vacant(slot)) return nullptr;
    next_ = &slot + 1;
    return occupy(slot, slot.place, slot.offset);
  }

  // The same for any request: looks at blocked slots, for a slot that fits and for a spare place, and reports
  // to the profiler. Null: the request goes upstream, and is counted.
  void* take_carefully(std::size_t bytes) noexcept;

  // Gives a block back where that is plain sailing; false, and nothing has changed: ask
  // give_back_carefully(). Runs in ~StorageImpl on whichever thread drops the last reference, maybe after the
  // run, the pool or the plan is gone. noexcept: a throw here would end the process.
  bool give_back(void* block) noexcept {
    // relaxed: a block given back while a watch begins elsewhere may miss it.
    if (is_watched_.load(std::memory_order_relaxed)) return false;
    const uint32_t place = place_of(block);
    if (!is_live(place)) return false;
    vacate(place);
    return true;
  }

  // The same for an arena that is poisoned or watched by the profiler. False, and nothing has changed, if no
  // block of this arena is live at that address.
  bool give_back_carefully(void* block, bool report) noexcept;

  // --- Runs; the caller holds the registry lock

  // Puts the cursor at the first slot and blocks what a survivor of an earlier run may lie on. Reports to the
  // profiler if one listens on this thread now.
  void start_run() noexcept;
  // Ends the run and says what happened in it.
  RunCounts finish_run() noexcept;

  const DeviatingRequests& deviating_requests() const noexcept { return deviating_; }

  bool is_running() const noexcept { return running_; }
  // Whether the run reports to the profiler. Asked by the thread that runs.
  bool reports() const noexcept { return reports_; }

  // --- Lifecycle; the caller holds the registry lock unless said otherwise

  // A recycled or new arena, mapped for `layout`; null where no memory can be mapped. Throws std::bad_alloc.
  static Arena* create(std::shared_ptr<const Layout> layout, Pool* pool, std::shared_ptr<ArenaBudget> budget,
                       ArenaOptions options);

  // The pool is gone, or drops it: the arena is unmapped as soon as no run and no block uses it, which may be
  // now.
  void orphan() noexcept;

  // Gives the pages of an arena on which no run goes on back to the system, all but those on which a block
  // lives; the next run faults them in again. Does nothing before the arena was idle for `idle_for`. Returns
  // the bytes given back, resident or not; 0 where there are none since the last time. Throws
  // std::bad_alloc.
  uint64_t release_pages(std::chrono::nanoseconds idle_for);
  bool is_idle() const noexcept { return !running_ && num_live_blocks() == 0; }

  // Unmaps the arena if it is an orphan that nothing uses. Takes the registry lock; reachable from a deleter.
  void reap() noexcept;
  // The same for callers that hold the lock.
  void reap_locked() noexcept;

  // Makes all pages resident if the options say so and it was not done since the arena was mapped. Takes
  // seconds for a large arena: called by the thread that runs on it, *without* the registry lock, for which
  // every other begin would wait. The run keeps the arena mapped meanwhile.
  void prefault() noexcept;

  uint32_t num_live_blocks() const noexcept;
  uint64_t mapped_bytes() const noexcept { return layout_->mapped_bytes(); }

  static const std::vector<Arena*>& all() noexcept;

  // Stands in the address range for blocks that are no part of an arena (see recorded_block.hpp). Nothing is
  // ever served from it, and give_back() leaves all its addresses to the careful path.
  static Arena* owner_of_recorded_blocks() noexcept;

  uint32_t id() const noexcept { return id_; }
  bool is_mapped() const noexcept { return base_ != nullptr; }

  // Owned by the pool's bookkeeping, guarded by the registry lock.
  Pool* pool = nullptr;
  uint64_t last_thread = 0;  // which thread ran on it last: its caches may still hold the bytes
  uint32_t serial = 0;       // of the run; with id() it names one run for ever
  uint64_t last_use = 0;     // rises from run to run of all arenas: the smallest is the longest ago

  // A run whose end was asked for by another thread; its own thread ends it when it next begins one, or
  // exits.
  bool abandoned = false;

 private:
  Arena() = default;

  static bool accepts(const Slot& slot, uint64_t wanted) noexcept {
    return wanted <= slot.size && wanted >= slot.smallest_size;
  }

  // Whether neither the slot's place nor a direct predecessor is live. No live tensor lies on the slot's
  // bytes then, if nothing is blocked (see Layout).
  bool is_vacant(const Slot& slot) const noexcept {
    // acquire, here and below: pairs with the release in vacate(), so that what the last user of the bytes
    // did to them is over before the next one starts.
    if (occupants_[slot.place].load(std::memory_order_acquire) != 0) return false;
    for (const Predecessor* p = slot.first_predecessor; p != slot.first_at_same_place; ++p) {
      if (occupants_[p->place].load(std::memory_order_acquire) == p->occupant) return false;
    }
    return true;
  }

  bool is_clear(uint32_t k) const noexcept {
    return is_vacant(slots_[k]) && !(any_blocked_ && is_blocked_or_follows_blocked(k));
  }

  __attribute__((returns_nonnull)) void* occupy(const Slot& slot, uint32_t place, uint64_t offset) noexcept {
    // relaxed: whoever gives the block back got it from this thread; the next run's thread is ordered by the
    // lock.
    occupants_[place].store(slot.occupant, std::memory_order_relaxed);
    return base_ + offset;
  }

  uint32_t place_of(void* block) const noexcept {
    return place_table_.find(static_cast<uint64_t>(static_cast<std::byte*>(block) - base_));
  }

  // Whether a block lives at a place. Asked by its holder.
  bool is_live(uint32_t place) const noexcept {
    // relaxed: the holder got the block after the store in occupy().
    return place != PlaceTable::kNoPlace && occupants_[place].load(std::memory_order_relaxed) != 0;
  }

  void vacate(uint32_t place) noexcept {
    // release: our last reads and writes of the bytes happen before the acquire in is_vacant() that reuses
    // them.
    occupants_[place].store(0, std::memory_order_release);
    // The pool may be gone and this block the last one. The fence keeps the compiler from looking before the
    // store; the processor is kept from it by the barrier that orphan() sends to all threads.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    // acquire: pairs with the store in orphan(). The arena may be recycled by now; reap() looks again under
    // its lock.
    if (orphaned_.load(std::memory_order_acquire)) reap();
  }

  uint32_t cursor() const noexcept { return static_cast<uint32_t>(next_ - slots_); }
  bool is_blocked(uint32_t slot) const noexcept { return blocked_in_run_[slot] == run_stamp_; }
  bool is_blocked_or_follows_blocked(uint32_t slot) const noexcept;
  void block(uint32_t slot) noexcept {
    blocked_in_run_[slot] = run_stamp_;
    any_blocked_ = true;
    is_careful_ = true;
  }

  void* take_unreported(std::size_t bytes) noexcept;
  void* serve(uint32_t slot, uint32_t place, uint64_t offset) noexcept;
  void* serve_from_spare_place(uint32_t slot, std::size_t bytes) noexcept;
  void* refuse(uint32_t slot, std::size_t bytes) noexcept;
  void* refuse_output(uint32_t slot, std::size_t bytes) noexcept;
  void* count_upstream(Deviation why, uint32_t slot, std::size_t bytes, bool by_its_asker = false) noexcept;
  uint32_t find_match(uint64_t wanted) const noexcept;
  uint32_t find_asker() const noexcept;
  uint32_t window() const noexcept;
  void block_what_survives() noexcept;

  // What the fast path reads, together.
  const Slot* next_ = nullptr;                          // the cursor of the run
  std::unique_ptr<std::atomic<uint32_t>[]> occupants_;  // by place
  std::byte* base_ = nullptr;
  PlaceTable place_table_;
  std::atomic<bool> is_watched_{false};  // a block that is given back is reported or poisoned
  std::atomic<bool> orphaned_{false};
  bool is_careful_ = false;  // the run reports to the profiler, matches by asker, or has blocked slots
  bool any_blocked_ = false;
  bool reports_ = false;
  bool poison_ = false;
  bool running_ = false;
  bool ran_since_release_ = false;
  bool needs_prefault_ = false;  // set where the arena is mapped; from then on its running thread's

  const Layout* layout_ = nullptr;
  const Slot* slots_ = nullptr;
  uint32_t num_slots_ = 0;
  uint32_t last_place_ = 0;  // of the last block that take_carefully() served
  // By place: the bytes that the profiler was told of when the block there was taken; 0: it was not told.
  std::unique_ptr<std::atomic<uint64_t>[]> reported_bytes_;
  bool has_reported_ = false;  // some entry may be more than 0
  // How far to look ahead: requests in a row that no slot matched, all of them while the cursor was at
  // `missed_at_`.
  uint32_t num_misses_ = 0;
  const Slot* missed_at_ = nullptr;

  // By slot: the stamp of the run in which it was blocked. A new run is a new stamp: nothing has to be
  // cleared.
  std::vector<uint32_t> blocked_in_run_;
  uint32_t run_stamp_ = 0;
  uint32_t num_skipped_ = 0;
  uint32_t num_refused_ = 0;
  RunCounts counts_;
  DeviatingRequests deviating_;
  std::chrono::steady_clock::time_point idle_since_;
  std::size_t num_live_at_release_ = 0;

  std::shared_ptr<const Layout> layout_owner_;
  std::shared_ptr<ArenaBudget> budget_;
  uint32_t id_ = 0;
};

}  // namespace memomalloc
