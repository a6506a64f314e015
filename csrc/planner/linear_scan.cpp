#include "planner/linear_scan.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <vector>

namespace memomalloc::planner {
namespace {

struct Active {
  int64_t offset;
  int64_t top;
  int32_t end;
};

// Every free place fits, so the lowest is the one that was handed back or the one above all.
Placement scan_equal_sizes(const PreparedProblem& problem) {
  std::vector<int32_t> by_end(problem.sizes.size());
  std::iota(by_end.begin(), by_end.end(), 0);
  std::stable_sort(by_end.begin(), by_end.end(),
                   [&](int32_t a, int32_t b) { return problem.ends[a] < problem.ends[b]; });
  Placement placement;
  placement.offsets.assign(problem.sizes.size(), 0);
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> free_offsets;
  size_t next_dead = 0;
  for (size_t i = 0; i < problem.sizes.size(); ++i) {
    for (; problem.ends[by_end[next_dead]] <= problem.starts[i]; ++next_dead) {
      free_offsets.push(placement.offsets[by_end[next_dead]]);
    }
    if (free_offsets.empty()) {
      placement.offsets[i] = placement.height;
      placement.height += problem.sizes[i];
    } else {
      placement.offsets[i] = free_offsets.top();
      free_offsets.pop();
    }
  }
  return placement;
}

}  // namespace

bool has_equal_sizes(const PreparedProblem& problem) {
  return problem.alignments.empty() && std::adjacent_find(problem.sizes.begin(), problem.sizes.end(),
                                                          std::not_equal_to<>()) == problem.sizes.end();
}

Placement linear_scan(const PreparedProblem& problem) {
  if (has_equal_sizes(problem)) return scan_equal_sizes(problem);
  Placement placement;
  placement.offsets.assign(problem.sizes.size(), 0);
  std::vector<Active> active;  // by increasing offset
  for (int32_t buffer = 0; buffer < problem.num_buffers; ++buffer) {
    const size_t i = buffer;
    const int32_t start = problem.starts[i];
    const auto expired = [start](const Active& other) { return other.end <= start; };
    active.erase(std::remove_if(active.begin(), active.end(), expired), active.end());
    int64_t offset = 0;
    size_t position = 0;
    for (; position < active.size(); ++position) {
      offset = align_up(offset, problem.alignment(buffer));
      if (active[position].offset - offset >= problem.sizes[i]) break;
      offset = active[position].top;
    }
    offset = align_up(offset, problem.alignment(buffer));
    const int64_t top = offset + problem.sizes[i];
    active.insert(active.begin() + static_cast<int64_t>(position), {offset, top, problem.ends[i]});
    placement.offsets[i] = offset;
    placement.height = std::max(placement.height, top);
  }
  return placement;
}

int64_t linear_scan_steps(const PreparedProblem& problem) {
  if (has_equal_sizes(problem)) return problem.num_buffers;
  // Born in a section less dead by then: what is alive at each birth, the section's own included.
  std::vector<int64_t> alive(problem.loads.size() + 1, 0);
  for (size_t i = 0; i < problem.sizes.size(); ++i) {
    ++alive[problem.starts[i]];
    --alive[problem.ends[i]];
  }
  std::partial_sum(alive.begin(), alive.end(), alive.begin());
  int64_t steps = 0;
  for (int32_t start : problem.starts) steps += alive[start];
  return steps;
}

}  // namespace memomalloc::planner
