#include "core/arena.hpp"

#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "core/arena_budget.hpp"
#include "core/free_pages.hpp"
#include "core/registry.hpp"
#include "core/survivors.hpp"
#include "core/thread_state.hpp"

namespace memomalloc {
namespace {

// How far a request that fits no slot at the cursor may look ahead: a little at first, since an extra request
// must not throw the cursor far ahead; further with each miss in a row, since a branch that was not taken
// leaves many behind.
constexpr uint32_t kFirstWindow = 4;
constexpr uint32_t kFirstWindowByAsker = 16;  // it is mistaken less often
constexpr uint32_t kMaxWindow = 1024;

constexpr unsigned char kPoison = 0xEF;

// MADV_POPULATE_WRITE, of Linux 5.14: older headers do not have it, older kernels refuse it.
constexpr int kPopulateWrite = 23;

// Makes every thread of the process pass a full memory barrier. Where the kernel cannot, a race may leave an
// orphaned arena mapped until the next orphan() looks at all of them; nothing unsafe follows.
void barrier_on_all_threads() noexcept {
  static const bool registered =
      syscall(__NR_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
  if (registered) syscall(__NR_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

// Never destroyed: arenas outlive every static.
std::vector<Arena*>& arenas() noexcept {
  static auto* all = new std::vector<Arena*>;
  return *all;
}

}  // namespace

RunCounts& RunCounts::operator+=(const RunCounts& other) noexcept {
  served += other.served;
  missing += other.missing;
  kept += other.kept;
  upstream_bytes += other.upstream_bytes;
  for (std::size_t i = 0; i < kNumDeviations; ++i) upstream[i] += other.upstream[i];
  return *this;
}

uint64_t RunCounts::num_upstream() const noexcept {
  return std::accumulate(upstream.begin(), upstream.end(), uint64_t{0});
}

// --- Runs

void Arena::start_run() noexcept {
  if (++run_stamp_ == 0) {  // after 2**32 runs: old stamps would mean something again
    std::fill(blocked_in_run_.begin(), blocked_in_run_.end(), 0u);
    run_stamp_ = 1;
  }
  next_ = slots_;
  num_misses_ = 0;
  missed_at_ = nullptr;
  num_skipped_ = 0;
  num_refused_ = 0;
  any_blocked_ = false;
  counts_ = {};
  deviating_.count = 0;
  reports_ = g_upstream.profiling();
  if (!reports_ && std::exchange(has_reported_, false)) {
    // The runs to come do not say what they take: nothing may look as if they had.
    for (uint32_t place = 0; place < layout_->num_places(); ++place) {
      // relaxed: a block given back elsewhere meanwhile may be reported or not.
      reported_bytes_[place].store(0, std::memory_order_relaxed);
    }
  }
  is_careful_ = reports_ || layout_->askers() != nullptr;
  // relaxed: see give_back().
  is_watched_.store(reports_ || poison_, std::memory_order_relaxed);
  abandoned = false;
  running_ = true;
  ran_since_release_ = true;
  ++serial;
  block_what_survives();
}

void Arena::block_what_survives() noexcept {
  const auto occupant_of = [this](uint32_t place) {
    // acquire: pairs with vacate(); a place seen as free here may be handed out without another look.
    return occupants_[place].load(std::memory_order_acquire);
  };
  // Nothing survives as a rule: a walk over the words as they lie tells it soonest. Nobody but a run, which
  // is to begin, makes a place occupied: those seen free stay so.
  uint32_t place = 0;
  while (place < layout_->num_shared_places() && occupant_of(place) == 0) ++place;
  if (place == layout_->num_shared_places()) return;
  for_each_slot_under_survivors(*layout_, occupant_of, [this](uint32_t k) { block(k); });
}

RunCounts Arena::finish_run() noexcept {
  running_ = false;
  idle_since_ = std::chrono::steady_clock::now();
  counts_.served = cursor() - num_skipped_ - num_refused_;
  counts_.missing = num_slots_ - cursor() + num_skipped_;
  return counts_;
}

// --- The guard's slow path

bool Arena::is_blocked_or_follows_blocked(uint32_t k) const noexcept {
  return is_blocked(k) || std::any_of(slots_[k].first_predecessor, slots_[k].end_of_predecessors,
                                      [this](const Predecessor& p) { return is_blocked(p.occupant - 1); });
}

void* Arena::take_carefully(std::size_t bytes) noexcept {
  void* block = take_unreported(bytes);
  if (block != nullptr && reports_) {
    // relaxed: whoever frees the block got it after this.
    reported_bytes_[last_place_].store(bytes, std::memory_order_relaxed);
    has_reported_ = true;
    g_upstream.report(block, static_cast<int64_t>(bytes));
  }
  return block;
}

void* Arena::take_unreported(std::size_t bytes) noexcept {
  if (cursor() == num_slots_) return count_upstream(Deviation::kExtra, num_slots_, bytes);
  if (missed_at_ != next_) num_misses_ = 0;
  const uint32_t match = find_match(round_up_to_alignment(bytes));
  if (match == num_slots_) {
    const uint32_t asked = find_asker();
    const bool by_its_asker = asked != num_slots_;
    const uint32_t slot = by_its_asker ? asked : cursor();
    ++num_misses_;
    missed_at_ = next_;
    return count_upstream(Deviation::kSize, slot, bytes, by_its_asker);
  }
  // Slots passed over are looked at as they are passed: their successors see through them only if they were
  // clear.
  for (uint32_t k = cursor(); k < match; ++k) {
    ++num_skipped_;
    if (!is_clear(k)) block(k);
  }
  next_ = slots_ + match + 1;
  if (is_clear(match)) return serve(match, slots_[match].place, slots_[match].offset);
  if (slots_[match].num_spare_places != 0) return serve_from_spare_place(match, bytes);
  return refuse(match, bytes);
}

// The end of the slots that a request may look at.
uint32_t Arena::window() const noexcept {
  const uint32_t first = layout_->askers() != nullptr ? kFirstWindowByAsker : kFirstWindow;
  const uint32_t size = std::min(kMaxWindow, first << std::min(num_misses_, 16u));
  return static_cast<uint32_t>(std::min<uint64_t>(num_slots_, uint64_t{cursor()} + size));
}

// The next slot of who asks now, whatever its size; the number of slots if there is none near.
uint32_t Arena::find_asker() const noexcept {
  const uint32_t* askers = layout_->askers();
  if (askers == nullptr) return num_slots_;
  const uint32_t* end = askers + window();
  const uint32_t* found = std::find(askers + cursor(), end, t_state.asker);
  return found != end ? static_cast<uint32_t>(found - askers) : num_slots_;
}

uint32_t Arena::find_match(uint64_t wanted) const noexcept {
  const uint32_t* askers = layout_->askers();
  const uint32_t asker = t_state.asker;
  const uint32_t end = window();
  for (uint32_t k = cursor(); k < end; ++k) {
    if (accepts(slots_[k], wanted) && (askers == nullptr || askers[k] == asker)) return k;
  }
  return num_slots_;
}

void* Arena::serve(uint32_t slot, uint32_t place, uint64_t offset) noexcept {
  last_place_ = place;
  return occupy(slots_[slot], place, offset);
}

void* Arena::serve_from_spare_place(uint32_t k, std::size_t bytes) noexcept {
  // The slot shares no byte with another one, and its spare places none with anything: that the place is free
  // is all there is to ask.
  const uint32_t first = slots_[k].first_spare_place;
  for (uint32_t place = first; place < first + slots_[k].num_spare_places; ++place) {
    // acquire: as in is_vacant().
    if (occupants_[place].load(std::memory_order_acquire) == 0)
      return serve(k, place, layout_->place_offset(place));
  }
  return refuse_output(k, bytes);
}

void* Arena::refuse_output(uint32_t k, std::size_t bytes) noexcept {
  // Not blocked: no other slot has a byte of it.
  ++num_refused_;
  ++counts_.kept;
  return count_upstream(Deviation::kOccupied, k, bytes);
}

void* Arena::refuse(uint32_t k, std::size_t bytes) noexcept {
  const Deviation why =
      any_blocked_ && is_blocked_or_follows_blocked(k) ? Deviation::kBlocked : Deviation::kOccupied;
  // Blocked from now on: a later slot here looks at this one, and not at whoever occupies it.
  block(k);
  ++num_refused_;
  return count_upstream(why, k, bytes);
}

void* Arena::count_upstream(Deviation why, uint32_t slot, std::size_t bytes, bool by_its_asker) noexcept {
  if (deviating_.count < deviating_.first.size())
    deviating_.first[deviating_.count++] = {slot, why, bytes, by_its_asker};
  ++counts_.upstream[static_cast<std::size_t>(why)];
  counts_.upstream_bytes += bytes;
  return nullptr;
}

bool Arena::give_back_carefully(void* block, bool report) noexcept {
  const uint32_t place = place_of(block);
  if (!is_live(place)) return false;
  // relaxed: as in is_live().
  const Slot& slot = slots_[occupants_[place].load(std::memory_order_relaxed) - 1];
  if (poison_) std::memset(block, kPoison, slot.size);
  // As upstream has it: what the profiler was not told of is not told to be gone.
  // relaxed: as in is_live(); nobody but the block's holder, and a run that begins, writes here.
  const uint64_t reported_bytes = reported_bytes_[place].load(std::memory_order_relaxed);
  reported_bytes_[place].store(0, std::memory_order_relaxed);
  if (report && reported_bytes != 0) g_upstream.report(block, -static_cast<int64_t>(reported_bytes));
  vacate(place);
  return true;
}

// --- Lifecycle

const std::vector<Arena*>& Arena::all() noexcept { return arenas(); }

Arena* Arena::owner_of_recorded_blocks() noexcept {
  static Arena* const owner = [] {
    auto* arena = new Arena;
    // relaxed: written before any thread can have an address of it.
    arena->is_watched_.store(true, std::memory_order_relaxed);
    return arena;
  }();
  return owner;
}

Arena* Arena::create(std::shared_ptr<const Layout> layout, Pool* pool, std::shared_ptr<ArenaBudget> budget,
                     ArenaOptions options) {
  auto& known = arenas();
  const auto recycled =
      std::find_if(known.begin(), known.end(), [](const Arena* arena) { return !arena->is_mapped(); });
  Arena* arena = nullptr;
  if (recycled != known.end()) {
    arena = *recycled;
  } else {
    known.reserve(known.size() + 1);
    arena = new Arena;
    arena->id_ = static_cast<uint32_t>(known.size());
    known.push_back(arena);
  }

  // Value-initialised: every place is free. An empty plan maps a granule all the same, so that "mapped" means
  // "in use".
  std::unique_ptr<std::atomic<uint32_t>[]> occupants(new std::atomic<uint32_t>[layout->num_places() + 1]());
  std::unique_ptr<std::atomic<uint64_t>[]> reported_bytes(
      new std::atomic<uint64_t>[layout->num_places() + 1]());
  std::vector<uint32_t> blocked_in_run(layout->num_slots(), 0);
  const uint64_t bytes = std::max<uint64_t>(layout->mapped_bytes(), 1);
  std::byte* base = g_range.map(bytes, arena);
  if (base == nullptr) return nullptr;
  // Advice that the system may refuse: the arena works without.
  if (options.huge_pages) madvise(base, bytes, MADV_HUGEPAGE);
  budget->take(bytes);

  arena->occupants_ = std::move(occupants);
  arena->reported_bytes_ = std::move(reported_bytes);
  arena->has_reported_ = false;
  arena->blocked_in_run_ = std::move(blocked_in_run);
  arena->run_stamp_ = 0;
  arena->base_ = base;
  arena->slots_ = layout->slots();
  arena->num_slots_ = layout->num_slots();
  arena->next_ = arena->slots_;
  arena->place_table_ = layout->place_table();
  arena->layout_ = layout.get();
  arena->layout_owner_ = std::move(layout);
  arena->budget_ = std::move(budget);
  arena->poison_ = options.poison;
  arena->needs_prefault_ = options.prefault;
  // relaxed: whoever gives back a block got it from a run, which begins after this.
  arena->is_watched_.store(options.poison, std::memory_order_relaxed);
  arena->pool = pool;
  arena->last_thread = 0;
  // relaxed: a late reader of the arena's former life finds, under the lock, that there is nothing to reap.
  arena->orphaned_.store(false, std::memory_order_relaxed);
  return arena;
}

void Arena::prefault() noexcept {
  if (!needs_prefault_) return;
  needs_prefault_ = false;
  // Advice, as in create().
  madvise(base_, mapped_bytes(), kPopulateWrite);
}

void Arena::orphan() noexcept {
  pool = nullptr;
  // release: pairs with the acquire in vacate().
  orphaned_.store(true, std::memory_order_release);
  // A thread that gave back a block before this barrier is seen by the scan below; one that does it after
  // sees the flag.
  barrier_on_all_threads();
  for (Arena* arena : arenas()) arena->reap_locked();
}

void Arena::reap() noexcept {
  const RegistryGuard guard(g_registry_lock);
  reap_locked();
}

void Arena::reap_locked() noexcept {
  // relaxed: written under the lock that we hold.
  if (!is_mapped() || running_ || !orphaned_.load(std::memory_order_relaxed) || num_live_blocks() != 0)
    return;
  const uint64_t bytes = std::max<uint64_t>(layout_->mapped_bytes(), 1);
  g_range.unmap(base_, bytes);
  budget_->give_back(bytes);
  budget_.reset();
  base_ = nullptr;
  layout_ = nullptr;
  layout_owner_.reset();
  occupants_.reset();
  reported_bytes_.reset();
  blocked_in_run_ = {};
}

uint64_t Arena::release_pages(std::chrono::nanoseconds idle_for) {
  if (running_ || std::chrono::steady_clock::now() - idle_since_ < idle_for) return 0;
  // What lives now may be given back meanwhile; nothing can come to live, since only a run takes slots.
  std::vector<ByteRange> live;
  for (uint32_t place = 0; place < layout_->num_places(); ++place) {
    // acquire: pairs with vacate(): its holder is done with the bytes before they go.
    const uint32_t occupant = occupants_[place].load(std::memory_order_acquire);
    if (occupant == 0) continue;
    const uint64_t begin = layout_->place_offset(place);
    live.push_back({begin, begin + slots_[occupant - 1].size});
  }
  const std::size_t num_live = live.size();
  if (!ran_since_release_ && num_live == num_live_at_release_) return 0;
  const std::vector<ByteRange> free = free_pages(std::move(live), mapped_bytes(), system_page_bytes());
  ran_since_release_ = false;
  num_live_at_release_ = num_live;
  uint64_t released = 0;
  for (const ByteRange& pages : free) {
    const uint64_t bytes = pages.end - pages.begin;
    if (madvise(base_ + pages.begin, bytes, MADV_DONTNEED) == 0) released += bytes;
  }
  return released;
}

uint32_t Arena::num_live_blocks() const noexcept {
  uint32_t live = 0;
  for (uint32_t place = 0; place < layout_->num_places(); ++place) {
    // acquire: pairs with vacate(): its holder is done with the bytes before they are unmapped.
    if (occupants_[place].load(std::memory_order_acquire) != 0) ++live;
  }
  return live;
}

}  // namespace memomalloc
