// The oracle for the memories of a device: does a plan keep all that its problem says?
//
// Shares no code with the planners, not even their types, so that a mistake of theirs cannot hide here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace memomalloc::checker {

// A problem in flat arrays, validated: sizes, sub-offsets, costs and capacities below 2^61, alignments
// positive, lifetimes of a buffer disjoint and not empty, windows within its size, indices in range.
struct DeviceView {
  size_t num_memories;
  const int64_t* capacities;  // bytes; -1: none
  const int64_t* banks;       // bytes; 0: none
  const int64_t* chunks;      // bytes; 0: any
  size_t num_buffers;
  const int64_t* sizes;
  const int64_t* alignments;
  const int64_t* costs;         // row by row, one for each memory; -1: not there
  const int64_t* groups;        // of buffers that alias; -1: none
  const int64_t* sub_offsets;   // bytes from the start of the group
  const int64_t* pin_memories;  // -1: free
  const int64_t* pin_chunks;
  const int64_t* pin_offsets;
  size_t num_lifetimes;
  const int64_t* lifetime_buffers;
  const int64_t* lifetime_starts;
  const int64_t* lifetime_ends;
  const int64_t* lifetime_lowers;  // of its bytes, the first in use
  const int64_t* lifetime_uppers;  // and the first after them
  size_t num_disjoint;
  const int64_t* disjoint;  // pairs
  size_t num_different_banks;
  const int64_t* different_banks;  // pairs
};

enum class DeviceFault : int64_t {
  kNone = 0,
  kNoPlace = 1,    // no such memory or chunk, or an offset out of range
  kForbidden = 2,  // the buffer may not lie in that memory
  kMisaligned = 3,
  kNotAtItsPin = 4,
  kAcrossChunks = 5,  // it ends beyond its chunk
  kBeyondCapacity = 6,
  kNotAliased = 7,   // two of a group that do not lie as it says
  kOverlap = 8,      // two that are alive together share a byte
  kNotDisjoint = 9,  // a pair that must not overlap shares a byte
  kSameBank = 10,    // a pair that must not share a bank does
};

struct DeviceFinding {
  DeviceFault fault = DeviceFault::kNone;
  int64_t buffer = -1;
  int64_t other_buffer = -1;
};

// The first fault of places for all buffers, if there is one. O(n log n), and the square of the size of each
// group. A buffer of no bytes overlaps nothing.
DeviceFinding find_device_fault(const DeviceView& problem, const int64_t* memories, const int64_t* chunks,
                                const int64_t* offsets);

}  // namespace memomalloc::checker
