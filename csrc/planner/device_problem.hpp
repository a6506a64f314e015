// Problems as compilers have them: several memories, spilling, pairs that must not overlap, banks, aliases,
// chunks, lifetimes with gaps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "planner/device_checker.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

// A cost that says: not there.
inline constexpr int64_t kForbidden = -1;

struct Memory {
  int64_t capacity = -1;  // in bytes; -1: none
  int64_t bank = 0;       // in bytes; 0: it has no banks
  int64_t chunk = 0;      // in bytes: no buffer crosses a multiple; 0: it is one chunk
};

// In bytes from the start of its chunk.
struct Place {
  int64_t memory = -1;
  int64_t chunk = 0;
  int64_t offset = 0;
};

// A time in which a buffer needs so many of its bytes.
struct Lifetime {
  int64_t buffer;
  int64_t start;  // [start, end)
  int64_t end;
  int64_t lower;  // [lower, upper) of the buffer's own bytes
  int64_t upper;
};

// The caller has validated it, as the checker's view says.
struct DeviceProblem {
  std::vector<Memory> memories;
  std::vector<int64_t> sizes;
  std::vector<int64_t> alignments;
  std::vector<int64_t> costs;        // row by row: of each buffer in each memory, or kForbidden
  std::vector<int64_t> groups;       // of buffers that alias; -1: none
  std::vector<int64_t> sub_offsets;  // from the start of the group, multiples of the buffer's alignment
  std::vector<Place> pins;           // memory -1: free
  std::vector<Lifetime> lifetimes;
  std::vector<std::pair<int64_t, int64_t>> disjoint;         // pairs that share no byte
  std::vector<std::pair<int64_t, int64_t>> different_banks;  // pairs that share no bank

  size_t num_buffers() const { return sizes.size(); }
  int64_t cost(size_t buffer, size_t memory) const { return costs[buffer * memories.size() + memory]; }
};

// The problem that flat arrays state.
DeviceProblem device_problem_of(const checker::DeviceView& view);

}  // namespace memomalloc::planner
