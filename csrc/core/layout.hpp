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
  bool escapes = false;        // outlives the run: an output
  uint32_t asker = 0;          // a tag of who asks for it, see ThreadState
};

// The slot that last used some of a slot's bytes, in the order of the run.
struct Predecessor {
  uint32_t place;
  uint32_t occupant;  // what the word of the place says while the predecessor lives there
};

// A slot: a planned buffer with all that the guard asks about it, in one cache line.
struct alignas(64) Slot {
  uint64_t offset = 0;
  uint64_t size = 0;
  uint64_t smallest_size = UINT64_MAX;
  uint32_t place = 0;     // the start address it uses; see Layout
  uint32_t occupant = 0;  // what the word of a place says while the slot lives there: its number plus one
  // Its predecessors; those that start where it starts come last, since the word of its own place tells of
  // them.
  const Predecessor* first_predecessor = nullptr;
  const Predecessor* first_at_same_place = nullptr;
  const Predecessor* end_of_predecessors = nullptr;
  uint32_t output = 0;  // which output it is, counted from 1; 0: none
};

// From offsets to places, by open addressing. A view, so that a region can keep its own close at hand.
struct PlaceTable {
  struct Entry {
    uint64_t offset;
    uint32_t place;
  };
  static constexpr uint32_t kNoPlace = UINT32_MAX;
  static constexpr Entry kEmpty = {UINT64_MAX, kNoPlace};

  // The place that starts at an offset; kNoPlace if none does. Constant time.
  uint32_t find(uint64_t offset) const noexcept {
    for (uint64_t index = hash(offset);; index = (index + 1) & mask) {
      const Entry& entry = entries[index];
      if (__builtin_expect(entry.offset == offset || entry.offset == kEmpty.offset, 1)) return entry.place;
    }
  }

  uint64_t hash(uint64_t offset) const noexcept {
    // Fibonacci hashing: offsets are multiples of powers of two, and the high bits of the product mix them
    // all.
    return (offset * 0x9E3779B97F4A7C15u) >> shift;
  }

  // Of no plan: nothing starts anywhere. Addresses are looked up in it, too: bad frees are counted.
  static constexpr Entry kNoEntries[2] = {kEmpty, kEmpty};

  const Entry* entries = kNoEntries;
  uint64_t mask = 1;
  uint32_t shift = 63;
};

// A plan compiled for replay; immutable, and laid over one region after another.
//
// Slots are in the order of the run: request k looks at slot k. A *place* is a distinct start address; slots
// that follow each other at one address share it, since at most one of them can be live. A region keeps one
// word a place: which slot lives there. Places of slots that share no byte with any other slot come last
// (`num_shared_places` come first): a survivor of an earlier run in such a place is in nobody's way.
//
// Outputs have no place: they outlive the run, and lie in OutputMemory, apart from what the next run needs.
// Bytes that no other slot uses, theirs first of all, are cut out: the slots' offsets are those of the plan,
// less the unused bytes below them.
//
// The predecessors of slot k are, for each sub-range of its bytes, the last slot before k that covers it.
// They are all that must be looked at before k is handed out, if a refused slot, and a slot passed over,
// count as occupied for the rest of the run: then whatever an earlier slot still holds is seen through the
// slot that follows it there.
class Layout {
 public:
  // Compiles `buffers`, which are in the order of the run and lie in an arena of so many bytes. Where
  // `match_askers`, a slot serves requests of its own asker only. Throws std::invalid_argument for offsets
  // and sizes that are no multiples of the alignment or out of range.
  Layout(const std::vector<PlannedBuffer>& buffers, uint64_t arena_bytes, bool match_askers = false);
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;

  // The bytes of a region that it needs, and of one set of outputs.
  uint64_t region_bytes() const noexcept { return region_bytes_; }
  uint64_t output_bytes() const noexcept { return output_bytes_; }
  uint32_t num_slots() const noexcept { return static_cast<uint32_t>(slots_.size()) - 1; }
  uint32_t num_places() const noexcept { return static_cast<uint32_t>(place_offsets_.size()); }
  uint32_t num_shared_places() const noexcept { return num_shared_places_; }

  // The size of each output, in the order of the run.
  const std::vector<uint64_t>& outputs() const noexcept { return outputs_; }

  // num_slots() slots, and behind them one that takes no request: whoever walks them need not look for the
  // end.
  const Slot* slots() const noexcept { return slots_.data(); }
  uint64_t place_offset(uint32_t place) const noexcept { return place_offsets_[place]; }

  // The slots that share a byte with another one, by their offsets.
  const std::vector<uint32_t>& shared_slots_by_offset() const noexcept { return shared_slots_by_offset_; }

  // By slot: who asks for it; null where requests are matched by their sizes alone.
  const uint32_t* askers() const noexcept { return askers_.empty() ? nullptr : askers_.data(); }

  // Places by their offset from the region's base.
  const PlaceTable& place_table() const noexcept { return place_table_; }

 private:
  void cut_out_unused_bytes();
  std::vector<bool> find_exclusive();
  void assign_places();
  void find_predecessors();
  void fill_place_table();
  std::vector<uint32_t> slots_by_offset() const;  // without outputs

  std::vector<Slot> slots_;
  std::vector<Predecessor> predecessors_;
  std::vector<uint64_t> place_offsets_;
  std::vector<uint32_t> askers_;
  std::vector<uint32_t> shared_slots_by_offset_;
  std::vector<PlaceTable::Entry> place_entries_;  // at most a quarter full
  PlaceTable place_table_;
  uint32_t num_shared_places_ = 0;
  std::vector<uint64_t> outputs_;
  uint64_t region_bytes_ = 0;
  uint64_t output_bytes_ = 0;
};

}  // namespace memomalloc
