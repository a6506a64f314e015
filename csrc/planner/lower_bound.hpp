// A height that no placement can be below.
#pragma once

#include <cstdint>

#include "planner/problem.hpp"

namespace memomalloc::planner {

// The largest of: the load of any section; what pins make inevitable; and, for each alignment A that occurs,
// what the buffers alive in a section need because of it, in units. Those whose offset is a multiple of A cut
// the height into groups: each is the lowest of its group, which ends where the next one starts, at a
// multiple of A. So all groups but the highest are multiples of A high. A group of sizes s, t, u ... with s
// the lowest takes at least ceil(s/A) + floor(t/A) + floor(u/A) + ... multiples of A, and the highest group
// takes no more than A * ceil(s/A) - s less than that. What is summed over all groups does not depend on how
// they are made up. O(n log n) an alignment.
//
// Pins: the top of each; the lowest place that they leave to each other buffer; and, in each section, as the
// gaps between pins take no buffer that is larger: of all buffers of at least one size, what exceeds the gaps
// of at least that size is above the highest pin.
int64_t lower_bound_of(const PreparedProblem& problem);

// The largest offset plus size of a pinned buffer, in units; 0 where there is none.
int64_t top_of_pins(const PreparedProblem& problem);

}  // namespace memomalloc::planner
