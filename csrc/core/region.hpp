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
#include "core/free_pages.hpp"
#include "core/layout.hpp"
#include "core/output_memory.hpp"
#include "core/owner.hpp"
#include "core/upstream.hpp"

namespace memomalloc {

class ArmedPlan;

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
  uint64_t kept = 0;     // of the occupied: outputs for which there was no memory
  std::array<uint64_t, kNumDeviations> upstream{};
  uint64_t upstream_bytes = 0;  // of those requests

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

// Mapped memory of the process on which one run at a time lays its plan, and the guard that hands out the
// plan's slots. It belongs to no plan: the next run may lay another one over it, if the region is clear,
// which means that no tensor lives in it.
//
// Threads: a thread takes the region for a run (or to give its pages back) and leaves it; only who has taken
// it hands out slots and lays plans. Any thread gives blocks back, at any time, also long after the run. All
// they share is one word a place: 0 where the place is free, else the slot that lives there plus one.
//
// Which plan an address is read by cannot change while a block lives in the region. So whoever gives a block
// back reads what was written before he got it; after he has set the word to 0, he reads nothing more.
//
// Lifetime: a region object is never destroyed, since threads remember which one they used last. Its memory
// stays mapped while any block in it lives.
//
// On cache lines of its own: the threads of two regions must not slow each other down.
class alignas(64) Region final : public Owner {
 public:
  // --- The fast path

  // Hands out the next slot for a request of `bytes` where that is plain sailing; null: ask take_carefully().
  // Takes no lock, makes no system call, allocates nothing. Called by the thread that runs on the region.
  void* take(std::size_t bytes) noexcept {
    const Slot& slot = *next_;
    if (is_careful_ || !accepts(slot, round_up_to_alignment(bytes)) || !is_vacant(slot)) return nullptr;
    next_ = &slot + 1;
    return occupy(slot);
  }

  // The same for any request: looks at blocked slots and for a slot that fits, serves outputs, and reports
  // to the profiler. Null: the request goes upstream, and is counted.
  void* take_carefully(std::size_t bytes) noexcept;

  // Gives a block back where that is plain sailing; false, and nothing has changed: ask
  // give_back_carefully(). Runs in ~StorageImpl on whichever thread drops the last reference, maybe after the
  // run or the plan is gone. noexcept: a throw here would end the process.
  bool give_back(void* block) noexcept {
    const uint32_t place = place_of(block);
    if (!is_live(place)) return false;
    vacate(place);
    return true;
  }

  // The same for a region that is poisoned or watched by the profiler. False, and nothing has changed, if no
  // block of this region is live at that address. `reports`: whether this thread tells of frees; it is asked
  // for blocks that were told of only, since it may cost a thread its first look at what is its own.
  bool give_back_carefully(void* block, bool (*reports)() noexcept) noexcept;

  // --- Taking

  // Takes the region, where nobody has it.
  bool try_take() noexcept {
    State idle = State::kIdle;
    // acquire: pairs with the release in leave(): what the last one did here is over. One uncontended
    // exchange a run, on a line that nobody else writes.
    return state_.compare_exchange_strong(idle, State::kTaken, std::memory_order_acquire,
                                          std::memory_order_relaxed);
  }
  void leave() noexcept { state_.store(State::kIdle, std::memory_order_release); }  // see try_take()

  // --- For who has taken it

  const std::shared_ptr<ArmedPlan>& laid() const noexcept { return laid_; }
  // Whether no tensor lives in it; its outputs lie elsewhere.
  bool is_clear() const noexcept { return num_live_blocks() == 0; }
  // Whether the run is one without a plan.
  bool gives_way() const noexcept;
  bool is_mapped() const noexcept { return base_ != nullptr; }
  // The largest arena that was laid since pages were last given back: so much may be resident.
  uint64_t charged_bytes() const noexcept { return charged_bytes_.load(std::memory_order_relaxed); }
  // Whether it has memory for the plan.
  bool has_room_for(const Layout& layout) const noexcept;

  // Lays a plan over a clear region that has room for it. False where there is no memory for the tables.
  bool lay(std::shared_ptr<ArmedPlan> plan) noexcept;
  // Lets go of the plan that a clear region is laid with.
  void forget_plan() noexcept;
  // Makes the pages of the plan resident, unless that was done since they were last given back. Takes seconds
  // for a large one.
  void prefault() noexcept;

  // Puts the cursor at the first slot and blocks what a survivor of an earlier run may lie on. Reports to the
  // profiler if one listens on this thread now.
  void start_run() noexcept;
  // Ends the run and says what happened in it. The region is still taken.
  RunCounts finish_run() noexcept;

  const DeviatingRequests& deviating_requests() const noexcept { return deviating_; }
  // Whether the run reports to the profiler.
  bool reports() const noexcept { return reports_; }

  OutputMemory& outputs() noexcept { return outputs_; }
  const OutputMemory& outputs() const noexcept { return outputs_; }

  uint32_t num_live_blocks() const noexcept;
  uint64_t live_bytes() const;

  // --- The same, with the registry lock held

  // Gets memory for the layout, at other addresses if need be; false, and the region is clear and maybe
  // unmapped, where there is none. The region is clear.
  bool grow_for(const Layout& layout) noexcept;
  // Unmaps a clear region.
  void unmap() noexcept;
  // Gives the pages back to the system on which no block lives; the next run faults them in again. Does
  // nothing before the region was idle for `idle_for`, as far as calls of this function could tell. Returns
  // the bytes given back, resident or not. Pages stay where there is no memory for their list.
  uint64_t release_pages(std::chrono::nanoseconds idle_for) noexcept;
  // In a forked child, where the thread that had taken it does not exist.
  void recover_after_fork() noexcept;

  // --- On any thread

  bool is_running() const noexcept { return state_.load(std::memory_order_relaxed) == State::kRunning; }
  // Names one run for ever, with the region's number.
  uint32_t serial() const noexcept { return serial_.load(std::memory_order_relaxed); }
  // The run's own thread ends it when it next begins one, or exits. relaxed, here and above: told by another
  // thread through whatever brought the run's name there; late is soon enough.
  void abandon(uint32_t serial) noexcept { abandoned_.store(serial, std::memory_order_relaxed); }
  bool is_abandoned() const noexcept { return abandoned_.load(std::memory_order_relaxed) == serial(); }
  uint32_t id() const noexcept { return id_; }
  // Of the plan that it is laid with; 0: none.
  uint64_t plan_number() const noexcept { return plan_number_.load(std::memory_order_relaxed); }

  // All there are. The caller holds the registry lock.
  static const std::vector<Region*>& all() noexcept;
  // One more, taken and without memory. Throws std::bad_alloc. The caller holds the registry lock.
  static Region* create();

 private:
  enum class State : uint32_t { kIdle, kTaken, kRunning };

  Region() noexcept : Owner(Kind::kRegion) {}

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

  bool is_free(uint32_t k) const noexcept {
    return is_vacant(slots_[k]) && !(any_blocked_ && is_blocked_or_follows_blocked(k));
  }

  __attribute__((returns_nonnull)) void* occupy(const Slot& slot) noexcept {
    // relaxed: whoever gives the block back got it from this thread; who takes the region next is ordered by
    // leave().
    occupants_[slot.place].store(slot.occupant, std::memory_order_relaxed);
    return base_ + slot.offset;
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
    // them. Nothing of the region may be read after it.
    occupants_[place].store(0, std::memory_order_release);
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
  void* serve(uint32_t slot) noexcept;
  void* serve_output(uint32_t slot, std::size_t bytes) noexcept;
  void* take_spare(std::size_t bytes) noexcept;
  void give_up_arena() noexcept;
  void* refuse(uint32_t slot, std::size_t bytes) noexcept;
  void* count_upstream(Deviation why, uint32_t slot, std::size_t bytes, bool by_its_asker = false) noexcept;
  uint32_t find_match(uint64_t wanted) const noexcept;
  uint32_t find_asker() const noexcept;
  uint32_t window() const noexcept;
  void block_what_survives() noexcept;
  void forget_reported() noexcept;
  bool charge_region(uint64_t bytes) noexcept;
  std::vector<ByteRange> live_ranges() const;

  // What the fast path reads, together.
  const Slot* next_ = nullptr;                          // the cursor of the run
  std::unique_ptr<std::atomic<uint32_t>[]> occupants_;  // by place
  std::byte* base_ = nullptr;
  PlaceTable place_table_;
  bool is_careful_ = false;  // the run reports to the profiler, matches by asker, or has blocked slots
  bool any_blocked_ = false;
  bool reports_ = false;
  bool poison_ = false;

  std::atomic<State> state_{State::kTaken};
  std::atomic<uint32_t> serial_{0};     // of the run
  std::atomic<uint32_t> abandoned_{0};  // the serial of the run that another thread has asked to end

  const Layout* layout_ = nullptr;  // of the plan that is laid
  const Slot* slots_ = nullptr;
  uint32_t num_slots_ = 0;
  std::atomic<uint64_t>* last_reported_ =
      nullptr;  // of the place of the last block that take_carefully() served
  // By place: the bytes that the profiler was told of when the block there was taken; 0: it was not told.
  std::unique_ptr<std::atomic<uint64_t>[]> reported_bytes_;
  bool has_reported_ = false;  // some entry may be more than 0
  // How far to look ahead: requests in a row that no slot matched, all of them while the cursor was at
  // `missed_at_`.
  uint32_t num_misses_ = 0;
  const Slot* missed_at_ = nullptr;

  // By slot: the stamp of the run in which it was blocked. A new run is a new stamp: nothing has to be
  // cleared, also where another plan is laid.
  std::vector<uint32_t> blocked_in_run_;
  uint32_t run_stamp_ = 0;
  uint32_t num_skipped_ = 0;
  uint32_t num_refused_ = 0;
  RunCounts counts_;
  DeviatingRequests deviating_;

  std::shared_ptr<ArmedPlan> laid_;
  std::atomic<uint64_t> plan_number_{0};  // for statistics
  uint32_t num_words_ = 0;                // there is room for so many places, and the word behind them
  uint64_t taken_bytes_ = 0;              // of addresses
  uint64_t mapped_bytes_ = 0;             // of them accessible
  std::atomic<uint64_t> charged_bytes_{0};
  uint64_t prefaulted_bytes_ = 0;
  uint64_t huge_bytes_ = 0;
  OutputMemory outputs_;

  // Guarded by the registry lock: what release_pages() saw when it last looked.
  uint32_t seen_serial_ = 0;
  std::chrono::steady_clock::time_point seen_at_;
  uint32_t id_ = 0;
};

}  // namespace memomalloc
