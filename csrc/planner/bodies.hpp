// What moves as one: a buffer, or a group of buffers that alias, with all its lifetimes.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/device_problem.hpp"

namespace memomalloc::planner {

// Bytes of a body that are in use for a while, relative to its base. Those of one body do not overlap.
struct Slab {
  int64_t lower;
  int64_t upper;
  int64_t start;
  int64_t end;
};

struct Body {
  std::vector<int64_t> buffers;  // of the device problem
  std::vector<Slab> slabs;       // by increasing start
  int64_t alignment = 1;         // of the base
  int64_t extent = 0;            // from the base to the highest top
  Place pin;                     // of the base; memory -1: free
  std::vector<int64_t> costs;    // in each memory, or kForbidden

  int64_t start() const { return slabs.empty() ? 0 : slabs.front().start; }
  int64_t end() const;
  // Whether it needs all bytes all the time.
  bool is_rectangle() const {
    return slabs.size() == 1 && slabs.front().lower == 0 && slabs.front().upper == extent;
  }
};

// Bytes of two bodies that must not lie on each other, whatever their lifetimes; with banks, not in the same.
struct Separation {
  int32_t first;
  int32_t second;
  int64_t first_lower;  // relative to the base
  int64_t first_upper;
  int64_t second_lower;
  int64_t second_upper;
  bool banks;
};

struct Bodies {
  std::vector<Body> bodies;
  std::vector<Separation> separations;
  std::vector<int32_t> body_of;      // of each buffer
  std::vector<int64_t> sub_offsets;  // of each buffer from the base of its body
};

Bodies bodies_of(const DeviceProblem& problem);

}  // namespace memomalloc::planner
