#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/layout.hpp"

namespace memomalloc {

// Calls `block(k)` for every slot k that shares a byte with a survivor, and for no other.
// `occupant_of(place)` says who lives at a shared place: 0, or the slot's number plus one. It may be asked
// again about a place, and may say 0 where it did not before (any thread may free); each slot is judged by
// what was said last before it.
//
// One sweep in the order of offsets, so that thousands of survivors in thousands of slots cost no more than a
// few; it allocates nothing.
template <typename OccupantOf, typename Block>
void for_each_slot_under_survivors(const Layout& layout, const OccupantOf& occupant_of, const Block& block) {
  const Slot* slots = layout.slots();
  const std::vector<uint32_t>& by_offset = layout.shared_slots_by_offset();
  // The survivor that starts first of those that end behind the start of the slot at hand. All before it end
  // before every later slot too; all after it start no earlier: it alone decides.
  const Slot* survivor = nullptr;
  std::size_t next = 0;  // in by_offset: every survivor is found at the slots of its place
  for (const uint32_t k : by_offset) {
    const Slot& slot = slots[k];
    while (survivor == nullptr || survivor->offset + survivor->size <= slot.offset) {
      if (next == by_offset.size()) return;
      const uint32_t occupant = occupant_of(slots[by_offset[next++]].place);
      survivor = occupant != 0 ? &slots[occupant - 1] : nullptr;
    }
    if (survivor->offset < slot.offset + slot.size) block(k);
  }
}

}  // namespace memomalloc
