// The oracle: do these offsets share a byte between two buffers that are alive together?
//
// Shares no code with the planners, not even their types, so that a mistake of theirs cannot hide here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace memomalloc::checker {

// Two buffers of n that overlap in lifetime and in bytes, or {-1, -1} if there are none. Sizes and offsets
// must not be negative, starts[i] < ends[i], offsets[i] + sizes[i] < 2^63. Lifetimes are half-open; a buffer
// of no bytes overlaps nothing. A sweep over time: O(n log n).
std::pair<int64_t, int64_t> find_overlap(size_t n, const int64_t* sizes, const int64_t* starts,
                                         const int64_t* ends, const int64_t* offsets);

// The largest sum of sizes alive at one tick. The sum of all sizes must be below 2^63.
int64_t peak_live_bytes(size_t n, const int64_t* sizes, const int64_t* starts, const int64_t* ends);

}  // namespace memomalloc::checker
