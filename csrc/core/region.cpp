#include "core/region.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <numeric>
#include <utility>

#include "core/armed_plan.hpp"
#include "core/free_pages.hpp"
#include "core/process_memory.hpp"
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

// Smaller requests that no plan foresees are upstream's: it has them at hand, and they fault little.
constexpr std::size_t kMinSpareBytes = std::size_t{128} << 10;
// A run without a plan leaves an arena alone that is so many times larger than what it needs itself.
constexpr uint64_t kSmallShare = 4;

constexpr unsigned char kPoison = 0xEF;

// MADV_POPULATE_WRITE, of Linux 5.14: older headers do not have it, older kernels refuse it.
constexpr int kPopulateWrite = 23;

// Never destroyed: regions outlive every static.
std::vector<Region*>& regions() noexcept {
  static auto* all = new std::vector<Region*>;
  return *all;
}

}  // namespace

uint64_t RunCounts::num_upstream() const noexcept {
  return std::accumulate(upstream.begin(), upstream.end(), uint64_t{0});
}

// --- Runs

void Region::start_run() noexcept {
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
  // The runs to come do not say what they take: nothing may look as if they had.
  if (!reports_) forget_reported();
  is_careful_ = reports_ || layout_->askers() != nullptr;
  watch(reports_ || poison_);
  // relaxed, here and below: this thread writes them, and others look whenever they do.
  serial_.store(serial() + 1, std::memory_order_relaxed);
  state_.store(State::kRunning, std::memory_order_relaxed);
  outputs_.prepare(*layout_, poison_);
  block_what_survives();
}

void Region::block_what_survives() noexcept {
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

bool Region::gives_way() const noexcept { return laid_->options().gives_way; }

RunCounts Region::finish_run() noexcept {
  state_.store(State::kTaken, std::memory_order_relaxed);
  counts_.served = cursor() - num_skipped_ - num_refused_;
  counts_.missing = num_slots_ - cursor() + num_skipped_;
  return counts_;
}

// --- The guard's slow path

bool Region::is_blocked_or_follows_blocked(uint32_t k) const noexcept {
  return is_blocked(k) || std::any_of(slots_[k].first_predecessor, slots_[k].end_of_predecessors,
                                      [this](const Predecessor& p) { return is_blocked(p.occupant - 1); });
}

void* Region::take_carefully(std::size_t bytes) noexcept {
  void* block = take_unreported(bytes);
  if (block == nullptr && bytes >= kMinSpareBytes) block = take_spare(bytes);
  if (block != nullptr && reports_) {
    if (last_reported_ != nullptr) {
      // relaxed: whoever frees the block got it after this.
      last_reported_->store(bytes, std::memory_order_relaxed);
      has_reported_ = true;
    } else {
      outputs_.note_reported(bytes);
    }
    g_upstream.report(block, static_cast<int64_t>(bytes));
  }
  return block;
}

void* Region::take_unreported(std::size_t bytes) noexcept {
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
    if (slots_[k].output == 0 && !is_free(k)) block(k);
  }
  next_ = slots_ + match + 1;
  if (slots_[match].output != 0) return serve_output(match, bytes);
  return is_free(match) ? serve(match) : refuse(match, bytes);
}

// The end of the slots that a request may look at.
uint32_t Region::window() const noexcept {
  const uint32_t first = layout_->askers() != nullptr ? kFirstWindowByAsker : kFirstWindow;
  const uint32_t size = std::min(kMaxWindow, first << std::min(num_misses_, 16u));
  return static_cast<uint32_t>(std::min<uint64_t>(num_slots_, uint64_t{cursor()} + size));
}

// The next slot of who asks now, whatever its size; the number of slots if there is none near.
uint32_t Region::find_asker() const noexcept {
  const uint32_t* askers = layout_->askers();
  if (askers == nullptr) return num_slots_;
  const uint32_t* end = askers + window();
  const uint32_t* found = std::find(askers + cursor(), end, t_state.asker);
  return found != end ? static_cast<uint32_t>(found - askers) : num_slots_;
}

uint32_t Region::find_match(uint64_t wanted) const noexcept {
  const uint32_t* askers = layout_->askers();
  const uint32_t asker = t_state.asker;
  const uint32_t end = window();
  for (uint32_t k = cursor(); k < end; ++k) {
    if (accepts(slots_[k], wanted) && (askers == nullptr || askers[k] == asker)) return k;
  }
  return num_slots_;
}

void* Region::serve(uint32_t k) noexcept {
  last_reported_ = &reported_bytes_[slots_[k].place];
  return occupy(slots_[k]);
}

void* Region::serve_output(uint32_t k, std::size_t bytes) noexcept {
  last_reported_ = nullptr;
  void* block = outputs_.take(slots_[k].output);
  if (block != nullptr) return block;
  // Not blocked: no other slot has a byte of it.
  ++num_refused_;
  ++counts_.kept;
  return count_upstream(Deviation::kOccupied, k, bytes);
}

// What no plan foresees lies among the outputs: it may outlive the run as well.
void* Region::take_spare(std::size_t bytes) noexcept {
  if (!laid_->may_use_spare()) return nullptr;
  last_reported_ = nullptr;
  const uint64_t wanted = round_up_to_alignment(bytes);
  if (void* block = outputs_.take_spare(wanted, OutputMemory::Spare::kUsed)) return block;
  // Of a run without a plan: it is in place of the arena, not beside it.
  if (gives_way() && outputs_.used_bytes() + wanted > charged_bytes() / kSmallShare) give_up_arena();
  return outputs_.take_spare(wanted, OutputMemory::Spare::kMore);
}

void Region::give_up_arena() noexcept {
  const uint64_t charged = charged_bytes();
  if (charged == 0) return;
  madvise(base_, charged, MADV_DONTNEED);  // nothing lives there
  const RegistryGuard guard(g_registry_lock);
  uncharge(charged_bytes_.exchange(0, std::memory_order_relaxed));
  prefaulted_bytes_ = 0;
}

void* Region::refuse(uint32_t k, std::size_t bytes) noexcept {
  const Deviation why =
      any_blocked_ && is_blocked_or_follows_blocked(k) ? Deviation::kBlocked : Deviation::kOccupied;
  // Blocked from now on: a later slot here looks at this one, and not at whoever occupies it.
  block(k);
  ++num_refused_;
  return count_upstream(why, k, bytes);
}

void* Region::count_upstream(Deviation why, uint32_t slot, std::size_t bytes, bool by_its_asker) noexcept {
  if (deviating_.count < deviating_.first.size())
    deviating_.first[deviating_.count++] = {slot, why, bytes, by_its_asker};
  ++counts_.upstream[static_cast<std::size_t>(why)];
  counts_.upstream_bytes += bytes;
  return nullptr;
}

bool Region::give_back_carefully(void* block, bool (*reports)() noexcept) noexcept {
  const uint32_t place = place_of(block);
  if (!is_live(place)) return false;
  // relaxed: as in is_live().
  const Slot& slot = slots_[occupants_[place].load(std::memory_order_relaxed) - 1];
  if (poison_) std::memset(block, kPoison, slot.size);
  // As upstream has it: what the profiler was not told of is not told to be gone.
  // relaxed: as in is_live(); nobody but the block's holder, and a run that begins, writes here.
  const uint64_t reported_bytes = reported_bytes_[place].load(std::memory_order_relaxed);
  reported_bytes_[place].store(0, std::memory_order_relaxed);
  if (reported_bytes != 0 && reports()) g_upstream.report(block, -static_cast<int64_t>(reported_bytes));
  vacate(place);
  return true;
}

// --- Laying

const std::vector<Region*>& Region::all() noexcept { return regions(); }

Region* Region::create() {
  auto& all = regions();
  all.reserve(all.size() + 1);
  auto* region = new Region;
  region->id_ = static_cast<uint32_t>(all.size());
  all.push_back(region);
  return region;
}

bool Region::has_room_for(const Layout& layout) const noexcept {
  return charged_bytes() >= layout.region_bytes();
}

bool Region::lay(std::shared_ptr<ArmedPlan> plan) noexcept {
  const Layout& layout = plan->layout();
  try {
    const uint32_t num_words = layout.num_places() + 1;
    if (num_words > num_words_) {
      // Value-initialised: every place is free.
      std::unique_ptr<std::atomic<uint32_t>[]> occupants(new std::atomic<uint32_t>[num_words]());
      std::unique_ptr<std::atomic<uint64_t>[]> reported_bytes(new std::atomic<uint64_t>[num_words]());
      occupants_ = std::move(occupants);
      reported_bytes_ = std::move(reported_bytes);
      num_words_ = num_words;
    } else {
      forget_reported();
      // relaxed: who gives back a block got it from a run, which begins after this.
      if (layout_ != nullptr) occupants_[layout_->num_places()].store(0, std::memory_order_relaxed);
    }
    if (blocked_in_run_.size() < layout.num_slots()) blocked_in_run_.resize(layout.num_slots(), 0);
  } catch (...) {
    forget_plan();
    return false;
  }
  // See Layout::assign_places().
  occupants_[layout.num_places()].store(UINT32_MAX, std::memory_order_relaxed);
  has_reported_ = false;
  slots_ = layout.slots();
  num_slots_ = layout.num_slots();
  next_ = slots_;
  place_table_ = layout.place_table();
  layout_ = &layout;
  poison_ = plan->options().poison;
  outputs_.forget_plan();
  laid_ = std::move(plan);
  plan_number_.store(laid_->number(), std::memory_order_relaxed);  // read by statistics
  const ReplayOptions& options = laid_->options();
  // Advice that the system may refuse: the region works without.
  if (options.huge_pages && huge_bytes_ < layout.region_bytes()) {
    huge_bytes_ = layout.region_bytes();
    madvise(base_, huge_bytes_, MADV_HUGEPAGE);
  }
  return true;
}

void Region::prefault() noexcept {
  const uint64_t bytes = layout_->region_bytes();
  if (bytes <= prefaulted_bytes_) return;
  prefaulted_bytes_ = bytes;
  madvise(base_, bytes, kPopulateWrite);  // advice, as in lay()
}

void Region::forget_reported() noexcept {
  if (!std::exchange(has_reported_, false)) return;
  for (uint32_t place = 0; place < layout_->num_places(); ++place) {
    // relaxed: a block given back elsewhere meanwhile may be reported or not.
    reported_bytes_[place].store(0, std::memory_order_relaxed);
  }
}

void Region::forget_plan() noexcept {
  if (layout_ == nullptr) return;
  forget_reported();
  occupants_[layout_->num_places()].store(0, std::memory_order_relaxed);  // as in lay()
  outputs_.forget_plan();
  place_table_ = {};
  layout_ = nullptr;
  laid_.reset();
  plan_number_.store(0, std::memory_order_relaxed);  // read by statistics
}

uint32_t Region::num_live_blocks() const noexcept {
  if (layout_ == nullptr) return 0;
  uint32_t live = 0;
  for (uint32_t place = 0; place < layout_->num_places(); ++place) {
    // acquire: pairs with vacate(): its holder is done with the bytes before another plan is laid over them.
    if (occupants_[place].load(std::memory_order_acquire) != 0) ++live;
  }
  return live;
}

uint64_t Region::live_bytes() const {
  uint64_t bytes = 0;
  for (const ByteRange& range : live_ranges()) bytes += range.end - range.begin;
  return bytes;
}

std::vector<ByteRange> Region::live_ranges() const {
  std::vector<ByteRange> live;
  if (layout_ == nullptr) return live;
  for (uint32_t place = 0; place < layout_->num_places(); ++place) {
    // acquire: as in num_live_blocks().
    const uint32_t occupant = occupants_[place].load(std::memory_order_acquire);
    if (occupant == 0) continue;
    const uint64_t begin = layout_->place_offset(place);
    live.push_back({begin, begin + slots_[occupant - 1].size});
  }
  return live;
}

// --- Memory

bool Region::grow_for(const Layout& layout) noexcept {
  const uint64_t bytes = layout.region_bytes();
  if (bytes > charged_bytes()) outputs_.release_pages();  // what a run without a plan has left is idle now
  if (!charge_region(bytes)) return false;
  if (bytes > taken_bytes_) {
    // Elsewhere: nothing lives here, and what was in it is of no use to the next run.
    if (is_mapped()) g_range.give_back(base_, taken_bytes_);
    // Room to grow in place next time, where there is any: addresses cost nothing.
    uint64_t wanted = AddressRange::kGranuleBytes;
    while (wanted < bytes) wanted *= 2;
    base_ = g_range.take(wanted, this);
    if (base_ == nullptr) base_ = g_range.take(wanted = bytes, this);
    taken_bytes_ = base_ != nullptr ? wanted : 0;
    mapped_bytes_ = prefaulted_bytes_ = huge_bytes_ = 0;
  }
  if (bytes > mapped_bytes_) {
    if (base_ == nullptr || !AddressRange::make_accessible(base_, mapped_bytes_, bytes)) {
      unmap();
      return false;
    }
    mapped_bytes_ = bytes;
  }
  return true;
}

// Counts the region as at least so large; false where the process may have no more.
bool Region::charge_region(uint64_t bytes) noexcept {
  const uint64_t charged = charged_bytes();
  if (bytes <= charged) return true;
  if (!charge(bytes - charged)) return false;
  charged_bytes_.store(bytes, std::memory_order_relaxed);  // read by statistics
  return true;
}

void Region::unmap() noexcept {
  forget_plan();
  if (is_mapped()) g_range.give_back(base_, taken_bytes_);
  uncharge(charged_bytes_.exchange(0, std::memory_order_relaxed));
  base_ = nullptr;
  taken_bytes_ = mapped_bytes_ = prefaulted_bytes_ = huge_bytes_ = 0;
}

uint64_t Region::release_pages(std::chrono::nanoseconds idle_for) noexcept {
  const auto now = std::chrono::steady_clock::now();
  if (std::exchange(seen_serial_, serial()) != serial()) seen_at_ = now;
  if (now - seen_at_ < idle_for) return 0;
  if (is_clear() && laid_ != nullptr && laid_->is_retired()) forget_plan();
  uint64_t released = outputs_.release_pages();
  try {
    std::vector<ByteRange> live = live_ranges();
    uint64_t end = 0;
    for (const ByteRange& range : live) end = std::max(end, range.end);
    const uint64_t charged = charged_bytes();
    if (charged <= end) return released;
    released += release_free_pages(base_, std::move(live), charged);
    charged_bytes_.store(end, std::memory_order_relaxed);  // read by statistics
    uncharge(charged - end);
    prefaulted_bytes_ = 0;
  } catch (const std::bad_alloc&) {
    // The arena's pages stay.
  }
  return released;
}

void Region::recover_after_fork() noexcept {
  // Its tensors may live on, and nobody will run here again: it stays as it is, for whoever gives them back.
  if (is_running()) laid_->count_end();
  state_.store(State::kTaken, std::memory_order_relaxed);
  uncharge(charged_bytes_.exchange(0, std::memory_order_relaxed));
}

}  // namespace memomalloc
