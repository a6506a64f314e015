#include "planner/linear_scan.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <queue>
#include <vector>

#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

constexpr int64_t kStepsPerClock = 500'000;  // about a millisecond

struct Active {
  int64_t offset;
  int64_t top;
  int32_t end;
};

// Every free place fits, so the lowest is the one that was handed back or the one above all.
Placement scan_equal_sizes(const PreparedProblem& problem) {
  const std::vector<int32_t> by_end = order_by(problem.ends);
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

std::optional<Placement> linear_scan(const PreparedProblem& problem, GreedyFit fit, Budget& budget,
                                     int64_t cutoff) {
  if (has_equal_sizes(problem)) return scan_equal_sizes(problem);
  Placement placement;
  placement.offsets.assign(problem.sizes.size(), 0);
  std::vector<Active> active;  // by increasing offset
  PacedBudget paced(budget, kStepsPerClock);
  for (int32_t buffer = 0; buffer < problem.num_buffers; ++buffer) {
    const size_t i = buffer;
    const int32_t start = problem.starts[i];
    const int64_t size = problem.sizes[i];
    const int64_t alignment = problem.alignment(buffer);
    if (paced.spent_after(static_cast<int64_t>(active.size()))) return std::nullopt;
    // Those that have expired leave the list as the search for a gap passes them.
    int64_t roof = 0;
    int64_t offset = -1;
    int64_t smallest_gap = std::numeric_limits<int64_t>::max();
    size_t position = 0;
    size_t kept = 0;
    for (const Active& other : active) {
      if (other.end <= start) continue;
      const int64_t lowest = align_up(roof, alignment);
      const int64_t gap = other.offset - lowest;
      if (gap >= size && gap < smallest_gap && (fit == GreedyFit::kBest || offset < 0)) {
        offset = lowest;
        smallest_gap = gap;
        position = kept;
      }
      roof = other.top;
      active[kept++] = other;
    }
    active.resize(kept);
    if (offset < 0) {
      offset = align_up(roof, alignment);
      position = kept;
    }
    const int64_t top = offset + size;
    active.insert(active.begin() + static_cast<int64_t>(position), {offset, top, problem.ends[i]});
    placement.offsets[i] = offset;
    placement.height = std::max(placement.height, top);
    if (placement.height >= cutoff) return std::nullopt;
  }
  return placement;
}

double linear_scan_cost_ns(const PreparedProblem& problem) {
  if (has_equal_sizes(problem)) return 100.0 * problem.num_buffers;
  // Born in a section less dead by then: what is alive at each birth, the section's own included.
  std::vector<int64_t> alive(problem.loads.size() + 1, 0);
  for (size_t i = 0; i < problem.sizes.size(); ++i) {
    ++alive[problem.starts[i]];
    --alive[problem.ends[i]];
  }
  std::partial_sum(alive.begin(), alive.end(), alive.begin());
  double cost = 0;
  for (int32_t start : problem.starts) cost += 30 + 1.5 * static_cast<double>(alive[start]);
  return cost;
}

}  // namespace memomalloc::planner
