#include "core/layout.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>

#include "core/alignment.hpp"

namespace memomalloc {
namespace {

// Larger than any arena that can be mapped, small enough that no sum of two of them overflows.
constexpr uint64_t kMaxArenaBytes = uint64_t{1} << 46;
constexpr std::size_t kMaxSlots = std::size_t{1} << 24;
static_assert(kMaxSlots < PlaceTable::kNoPlace, "places are numbered in 32 bits");

void validate(const std::vector<PlannedBuffer>& buffers, uint64_t arena_bytes) {
  if (arena_bytes > kMaxArenaBytes) throw std::invalid_argument("the arena is larger than 64 TiB");
  if (buffers.size() > kMaxSlots) throw std::invalid_argument("the plan has more than 2**24 buffers");
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const PlannedBuffer& buffer = buffers[i];
    const auto fail = [i](const char* what) {
      throw std::invalid_argument("buffer " + std::to_string(i) + ": " + what);
    };
    if (buffer.size == 0 || buffer.size % kAlignmentBytes != 0) fail("size is not a positive multiple of 64");
    if (buffer.offset % kAlignmentBytes != 0) fail("offset is not a multiple of 64");
    if (buffer.size > arena_bytes || buffer.offset > arena_bytes - buffer.size) fail("ends behind the arena");
    if (buffer.smallest_size == 0 || buffer.smallest_size > buffer.size)
      fail("smallest size is not within its size");
  }
}

}  // namespace

Layout::Layout(const std::vector<PlannedBuffer>& buffers, uint64_t arena_bytes, bool match_askers) {
  validate(buffers, arena_bytes);
  slots_.resize(buffers.size() + 1);
  for (uint32_t k = 0; k < num_slots(); ++k) {
    slots_[k].offset = buffers[k].offset;
    slots_[k].size = buffers[k].size;
    slots_[k].smallest_size = buffers[k].smallest_size;
    slots_[k].occupant = k + 1;
    if (!buffers[k].escapes) continue;
    if (output_bytes_ > kMaxArenaBytes) throw std::invalid_argument("the outputs are larger than 64 TiB");
    outputs_.push_back(buffers[k].size);
    output_bytes_ += buffers[k].size;
    slots_[k].output = static_cast<uint32_t>(outputs_.size());
    slots_[k].offset = 0;
  }
  if (match_askers) {
    for (const PlannedBuffer& buffer : buffers) askers_.push_back(buffer.asker);
  }
  cut_out_unused_bytes();
  assign_places();
  find_predecessors();
  fill_place_table();
}

std::vector<uint32_t> Layout::slots_by_offset() const {
  std::vector<uint32_t> by_offset;
  for (uint32_t k = 0; k < num_slots(); ++k) {
    if (slots_[k].output == 0) by_offset.push_back(k);
  }
  std::sort(by_offset.begin(), by_offset.end(), [this](uint32_t a, uint32_t b) {
    return slots_[a].offset != slots_[b].offset ? slots_[a].offset < slots_[b].offset : a < b;
  });
  return by_offset;
}

void Layout::cut_out_unused_bytes() {
  uint64_t unused = 0;  // below the slot at hand
  uint64_t end = 0;     // of the slots so far, as planned
  for (const uint32_t k : slots_by_offset()) {
    Slot& slot = slots_[k];
    if (slot.offset > end) unused += slot.offset - end;
    end = std::max(end, slot.offset + slot.size);
    slot.offset -= unused;
  }
  region_bytes_ = end - unused;
}

// Notes the others, too: which share bytes, in order.
std::vector<bool> Layout::find_exclusive() {
  const std::vector<uint32_t> by_offset = slots_by_offset();
  std::vector<bool> exclusive(num_slots(), true);
  uint64_t end = 0;  // of all slots seen so far; `last` is the one that reaches it
  uint32_t last = 0;
  for (const uint32_t slot : by_offset) {
    if (slots_[slot].offset < end) {
      exclusive[slot] = false;
      exclusive[last] = false;
    }
    if (slots_[slot].offset + slots_[slot].size > end) {
      end = slots_[slot].offset + slots_[slot].size;
      last = slot;
    }
  }
  std::copy_if(by_offset.begin(), by_offset.end(), std::back_inserter(shared_slots_by_offset_),
               [&exclusive](uint32_t slot) { return !exclusive[slot]; });
  return exclusive;
}

void Layout::assign_places() {
  const std::vector<bool> exclusive = find_exclusive();
  std::map<uint64_t, uint32_t> shared_places;
  for (uint32_t k = 0; k < num_slots(); ++k) {
    if (exclusive[k]) continue;
    const auto [found, added] = shared_places.try_emplace(slots_[k].offset, num_places());
    if (added) place_offsets_.push_back(slots_[k].offset);
    slots_[k].place = found->second;
  }
  num_shared_places_ = num_places();
  for (uint32_t k = 0; k < num_slots(); ++k) {
    if (!exclusive[k] || slots_[k].output != 0) continue;
    slots_[k].place = num_places();
    place_offsets_.push_back(slots_[k].offset);
  }
  // The word behind those of all places is never 0: the fast path finds no output vacant, and leaves them to
  // the careful one.
  for (uint32_t k = 0; k < num_slots(); ++k) {
    if (slots_[k].output != 0) slots_[k].place = num_places();
  }
}

void Layout::find_predecessors() {
  // The slot that last used each byte so far, as disjoint ranges by their start.
  struct Range {
    uint64_t end;
    uint32_t slot;
  };
  std::map<uint64_t, Range> last_user;
  std::vector<uint32_t> listed_for(num_slots(),
                                   UINT32_MAX);        // a slot may be met in several ranges: list it once
  std::vector<std::size_t> first_of(num_slots() + 1);  // by slot: its first entry in predecessors_
  for (uint32_t k = 0; k < num_slots(); ++k) {
    const Slot& slot = slots_[k];
    const uint64_t begin = slot.offset;
    const uint64_t end = slot.offset + slot.size;
    first_of[k] = predecessors_.size();
    if (slot.output != 0) continue;

    auto range = last_user.upper_bound(begin);
    if (range != last_user.begin() && std::prev(range)->second.end > begin) --range;
    while (range != last_user.end() && range->first < end) {
      const uint64_t range_begin = range->first;
      const Range old = range->second;
      if (listed_for[old.slot] != k) {
        listed_for[old.slot] = k;
        predecessors_.push_back({slots_[old.slot].place, slots_[old.slot].occupant});
      }
      range = last_user.erase(range);
      if (range_begin < begin) last_user[range_begin] = {begin, old.slot};
      if (old.end > end) range = last_user.emplace(end, old).first;
    }
    last_user[begin] = {end, k};
  }
  first_of[num_slots()] = predecessors_.size();
  for (uint32_t k = 0; k < num_slots(); ++k) {
    Slot& slot = slots_[k];
    Predecessor* first = predecessors_.data() + first_of[k];
    Predecessor* end = predecessors_.data() + first_of[k + 1];
    slot.first_predecessor = first;
    slot.first_at_same_place =
        std::partition(first, end, [&slot](const Predecessor& p) { return p.place != slot.place; });
    slot.end_of_predecessors = end;
  }
}

void Layout::fill_place_table() {
  uint32_t bits = 1;
  while ((std::size_t{1} << bits) < 4 * place_offsets_.size()) ++bits;
  place_entries_.assign(std::size_t{1} << bits, PlaceTable::kEmpty);
  place_table_ = {place_entries_.data(), place_entries_.size() - 1, 64 - bits};
  for (uint32_t place = 0; place < num_places(); ++place) {
    uint64_t index = place_table_.hash(place_offsets_[place]);
    while (place_entries_[index].place != PlaceTable::kNoPlace) index = (index + 1) & place_table_.mask;
    place_entries_[index] = {place_offsets_[place], place};
  }
}

}  // namespace memomalloc
