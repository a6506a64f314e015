// A planning problem as its caller states it, and the normal form that every planner works on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace memomalloc::planner {

// n buffers in the caller's order. Sizes are in bytes; lifetimes are half-open ticks [start, end).
// The caller has validated it: sizes >= 0, start < end, and sizes, alignments and pins sum to less than 2^63.
struct Problem {
  std::vector<int64_t> sizes;
  std::vector<int64_t> starts;
  std::vector<int64_t> ends;
  std::vector<int64_t> alignments;  // in bytes; empty: any offset will do
  std::vector<int64_t> pins;        // required offset in bytes, kFree where there is none; empty: no pins
};

inline constexpr int64_t kFree = -1;

// The same problem without what no planner needs: empty buffers are dropped, sizes are divided by their
// greatest common divisor (the unit), and time is compressed to sections. A section is a set of buffers that
// are alive together and that no other such set contains, so there are at most n of them, and two buffers
// overlap in time exactly if they share a section. Buffers are ordered by content (birth, death, size), never
// by the caller's order: that makes every planner independent of it.
struct PreparedProblem {
  int32_t num_buffers = 0;
  int32_t num_sections = 0;
  std::vector<int64_t> sizes;       // in units, > 0
  std::vector<int32_t> starts;      // first section
  std::vector<int32_t> ends;        // one past the last section
  std::vector<int64_t> alignments;  // in units; empty where every multiple of the unit will do
  std::vector<int64_t> pins;        // in units or kFree; empty: no pins
  std::vector<int64_t> loads;       // per section: the sum of the sizes alive in it
  int64_t lower_bound = 0;          // in units: see lower_bound.hpp
  int64_t unit = 1;                 // in bytes
  std::vector<int32_t> origins;     // index of each buffer in the problem this was made from

  bool has_pins() const { return !pins.empty(); }
  int64_t pin(int32_t buffer) const { return pins.empty() ? kFree : pins[buffer]; }
  int64_t alignment(int32_t buffer) const { return alignments.empty() ? 1 : alignments[buffer]; }
  int32_t width(int32_t buffer) const { return ends[buffer] - starts[buffer]; }
};

// One offset per buffer of a prepared problem, in units. `height` is the largest offset plus size.
struct Placement {
  std::vector<int64_t> offsets;
  int64_t height = 0;
};

// For planners that give up a placement as soon as it is as high as one that is known.
inline constexpr int64_t kNoCutoff = std::numeric_limits<int64_t>::max();

// The smallest multiple of `alignment` that is not below `offset`.
inline int64_t align_up(int64_t offset, int64_t alignment) {
  if (alignment == 1) return offset;
  const int64_t excess = offset % alignment;
  return excess == 0 ? offset : offset + (alignment - excess);
}

}  // namespace memomalloc::planner
