#include "planner/lower_bound.hpp"

#include <algorithm>
#include <numeric>
#include <queue>
#include <utility>
#include <vector>

namespace memomalloc::planner {
namespace {

// Problems have a handful of alignments. With more, the largest are what costs memory.
constexpr size_t kMaxAlignments = 32;

bool is_aligned(const PreparedProblem& problem, int32_t buffer, int64_t alignment) {
  const int64_t pin = problem.pin(buffer);
  return (pin == kFree ? problem.alignment(buffer) : pin) % alignment == 0;
}

// Sections one after the other, with the multiples of `alignment` that are needed and the most that the
// highest group may lack of one.
int64_t bound_for_alignment(const PreparedProblem& problem, int64_t alignment) {
  std::vector<int64_t> change(problem.loads.size() + 1, 0);
  for (int32_t i = 0; i < problem.num_buffers; ++i) {
    const int64_t size = problem.sizes[i];
    const int64_t multiples =
        size / alignment + (size % alignment != 0 && is_aligned(problem, i, alignment) ? 1 : 0);
    change[problem.starts[i]] += multiples;
    change[problem.ends[i]] -= multiples;
  }
  std::priority_queue<std::pair<int64_t, int32_t>>
      missing;  // of the aligned, and their ends; the dead stay inside
  int64_t bound = 0;
  int64_t multiples = 0;
  int32_t next = 0;
  for (int32_t section = 0; section < problem.num_sections; ++section) {
    multiples += change[section];
    for (; next < problem.num_buffers && problem.starts[next] == section; ++next) {
      if (!is_aligned(problem, next, alignment)) continue;
      missing.push({align_up(problem.sizes[next], alignment) - problem.sizes[next], problem.ends[next]});
    }
    while (!missing.empty() && missing.top().second <= section) missing.pop();
    // Without any aligned buffer it is one group, whose lowest is none of them.
    const int64_t highest_lacks = missing.empty() ? 0 : missing.top().first;
    bound = std::max(bound, multiples * alignment - highest_lacks);
  }
  return bound;
}

}  // namespace

int64_t lower_bound_of(const PreparedProblem& problem) {
  int64_t bound = problem.loads.empty() ? 0 : *std::max_element(problem.loads.begin(), problem.loads.end());
  bound = std::max(bound, top_of_pins(problem));
  std::vector<int64_t> alignments = problem.alignments;
  std::sort(alignments.begin(), alignments.end());
  alignments.erase(std::unique(alignments.begin(), alignments.end()), alignments.end());
  for (size_t i = alignments.size(), used = 0; i-- > 0 && used < kMaxAlignments; ++used) {
    if (alignments[i] > 1) bound = std::max(bound, bound_for_alignment(problem, alignments[i]));
  }
  return bound;
}

int64_t top_of_pins(const PreparedProblem& problem) {
  int64_t top = 0;
  for (int32_t buffer = 0; buffer < problem.num_buffers; ++buffer) {
    if (problem.pin(buffer) != kFree) top = std::max(top, problem.pin(buffer) + problem.sizes[buffer]);
  }
  return top;
}

}  // namespace memomalloc::planner
