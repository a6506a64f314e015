// From a stated problem to its normal form and back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
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

// In bytes, what no arena can be smaller than.
int64_t lower_bound_in_bytes(const Problem& problem);

// The height of `offsets`, in units.
int64_t height_of(const PreparedProblem& problem, const std::vector<int64_t>& offsets);

// For each buffer, the largest load over its lifetime, in O(n log n).
std::vector<int64_t> peak_load_of_each(const PreparedProblem& problem);

// For each section, and for the end of the last one, how many buffers start before it.
std::vector<int32_t> num_born_before(const PreparedProblem& problem);

// How many buffers are alive, summed over all sections.
int64_t num_in_sections(const PreparedProblem& problem);

// The buffers by increasing key; of equal ones, by their number.
template <typename Key>
std::vector<int32_t> order_by(const std::vector<Key>& keys) {
  std::vector<int32_t> order(keys.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return keys[a] < keys[b]; });
  return order;
}

}  // namespace memomalloc::planner
