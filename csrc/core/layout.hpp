#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace memomalloc {

// One planned buffer as a plan describes it: bytes, multiples of the alignment, offset from the arena's base.
struct PlannedBuffer {
  uint64_t offset = 0;
  uint64_t size = 0;
  uint64_t smallest_size = 0;  // the smallest request (rounded up) that the slot may serve
  bool escapes = false;        // outlives the run: worth spare places
};

// A slot: a planned buffer with all that the guard asks about it, in one cache line.
struct Slot {
  uint64_t offset;
  uint64_t size;
  uint64_t smallest_size;
  uint32_t place;              // the start address it uses; see Layout
  uint32_t first_predecessor;  // its predecessors are num_predecessors entries from here
  uint32_t num_predecessors;
  uint32_t first_spare_place;
  uint32_t num_spare_places;
};

// The slot that last used some of a slot's bytes, in the order of the run.
struct Predecessor {
  uint32_t place;
  uint32_t slot;
};

// A plan compiled for replay; immutable, shared by all arenas of the plan.
//
// Slots are in the order of the run: request k looks at slot k. A *place* is a distinct start address; slots
// that follow each other at one address share it, since at most one of them can be live. An arena keeps one
// word a place: which slot lives there. Places of slots that share no byte with any other slot come last
// (`num_shared_places` come first): a survivor of an earlier run in such a place is in nobody's way.
//
// The predecessors of slot k are, for each sub-range of its bytes, the last slot before k that covers it.
// They are all that must be looked at before k is handed out, if a refused slot, and a slot passed over,
// count as occupied for the rest of the run: then whatever an earlier slot still holds is seen through the
// slot that follows it there.
class Layout {
 public:
  // Compiles `buffers`, which are in the order of the run. Each escaping buffer that shares no byte with
  // another gets `spare_places` more places behind the arena, for programs that keep the last outputs while
  // they ask for new ones. Throws std::invalid_argument for offsets and sizes that are no multiples of the
  // alignment or out of range.
  Layout(const std::vector<PlannedBuffer>& buffers, uint64_t arena_bytes, uint32_t spare_places);

  // The bytes an arena of this layout maps: the plan's arena, then the spare places.
  uint64_t mapped_bytes() const noexcept { return mapped_bytes_; }
  uint64_t arena_bytes() const noexcept { return arena_bytes_; }
  uint32_t num_slots() const noexcept { return static_cast<uint32_t>(slots_.size()); }
  uint32_t num_places() const noexcept { return static_cast<uint32_t>(place_offsets_.size()); }
  uint32_t num_shared_places() const noexcept { return num_shared_places_; }

  const Slot* slots() const noexcept { return slots_.data(); }
  const Predecessor* predecessors() const noexcept { return predecessors_.data(); }
  uint64_t place_offset(uint32_t place) const noexcept { return place_offsets_[place]; }

  static constexpr uint32_t kNoPlace = UINT32_MAX;

  // The place that starts at an offset from the arena's base; kNoPlace if none does. Constant time.
  uint32_t place_at(uint64_t offset) const noexcept {
    for (uint64_t entry = hash(offset);; entry = (entry + 1) & place_table_mask_) {
      const PlaceEntry& found = place_table_[entry];
      if (found.offset == offset || found.place == kNoPlace) return found.place;
    }
  }

 private:
  struct PlaceEntry {
    uint64_t offset;
    uint32_t place;
  };

  void find_predecessors();
  std::vector<bool> find_exclusive() const;
  void assign_places(const std::vector<PlannedBuffer>& buffers, uint32_t spare_places);
  void fill_place_table();

  uint64_t hash(uint64_t offset) const noexcept {
    // Fibonacci hashing: offsets are multiples of powers of two, and the high bits of the product mix them
    // all.
    return (offset * 0x9E3779B97F4A7C15u) >> place_table_shift_;
  }

  std::vector<Slot> slots_;
  std::vector<Predecessor> predecessors_;
  std::vector<uint64_t> place_offsets_;
  std::vector<PlaceEntry> place_table_;  // open addressing, at most half full
  uint64_t place_table_mask_ = 0;
  uint32_t place_table_shift_ = 0;
  uint32_t num_shared_places_ = 0;
  uint64_t arena_bytes_ = 0;
  uint64_t mapped_bytes_ = 0;
};

}  // namespace memomalloc
