#include "planner/device_problem.hpp"

namespace memomalloc::planner {
namespace {

std::vector<int64_t> column(const int64_t* values, size_t size) { return {values, values + size}; }

std::vector<std::pair<int64_t, int64_t>> pairs(const int64_t* values, size_t size) {
  std::vector<std::pair<int64_t, int64_t>> found;
  for (size_t k = 0; k < size; ++k) found.emplace_back(values[2 * k], values[2 * k + 1]);
  return found;
}

}  // namespace

DeviceProblem device_problem_of(const checker::DeviceView& view) {
  const size_t n = view.num_buffers;
  DeviceProblem problem;
  for (size_t m = 0; m < view.num_memories; ++m) {
    problem.memories.push_back({view.capacities[m], view.banks[m], view.chunks[m]});
  }
  problem.sizes = column(view.sizes, n);
  problem.alignments = column(view.alignments, n);
  problem.costs = column(view.costs, n * view.num_memories);
  problem.groups = column(view.groups, n);
  problem.sub_offsets = column(view.sub_offsets, n);
  for (size_t i = 0; i < n; ++i) {
    problem.pins.push_back({view.pin_memories[i], view.pin_chunks[i], view.pin_offsets[i]});
  }
  for (size_t k = 0; k < view.num_lifetimes; ++k) {
    problem.lifetimes.push_back({view.lifetime_buffers[k], view.lifetime_starts[k], view.lifetime_ends[k],
                                 view.lifetime_lowers[k], view.lifetime_uppers[k]});
  }
  problem.disjoint = pairs(view.disjoint, view.num_disjoint);
  problem.different_banks = pairs(view.different_banks, view.num_different_banks);
  return problem;
}

}  // namespace memomalloc::planner
