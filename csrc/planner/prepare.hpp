// From a stated problem to its normal form and back.
#pragma once

#include <vector>

#include "planner/problem.hpp"

namespace memomalloc::planner {

// Brings a problem into its normal form in O(n log n).
PreparedProblem prepare(const Problem& problem);

// The parts between which no buffer is alive, each a problem of its own whose `origins` index `whole`.
// They may be planned one by one: the arena is as high as the highest of them.
std::vector<PreparedProblem> split_into_parts(const PreparedProblem& whole);

// Offsets in bytes in the order of the stated problem; an empty buffer gets its pin, or 0.
std::vector<int64_t> to_bytes(const Problem& problem, const PreparedProblem& prepared,
                              const Placement& placement);

// The height of `offsets`, in units.
int64_t height_of(const PreparedProblem& problem, const std::vector<int64_t>& offsets);

// For each buffer, the largest load over its lifetime, in O(n log n).
std::vector<int64_t> peak_load_of_each(const PreparedProblem& problem);

}  // namespace memomalloc::planner
