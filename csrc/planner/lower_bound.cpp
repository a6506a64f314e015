#include "planner/lower_bound.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>
#include <vector>

#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

// Problems have a handful of alignments. With more, the largest are what costs memory.
constexpr size_t kMaxAlignments = 32;
// Pairs of a pin and another buffer, and buffers of sections: of more, only the tops of pins are looked at.
constexpr size_t kMaxPairs = 10'000'000;
constexpr int64_t kMaxInSections = 1'000'000;

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

// The top that a buffer has at the lowest place that the pinned ones, by increasing offset, leave to it.
int64_t lowest_top(const PreparedProblem& problem, const std::vector<int32_t>& pinned, int32_t buffer) {
  int64_t offset = 0;
  for (int32_t other : pinned) {
    if (problem.starts[other] >= problem.ends[buffer] || problem.starts[buffer] >= problem.ends[other])
      continue;
    if (offset + problem.sizes[buffer] <= problem.pin(other)) break;
    offset = std::max(offset, align_up(problem.pin(other) + problem.sizes[other], problem.alignment(buffer)));
  }
  return offset + problem.sizes[buffer];
}

// For a section that has `pinned`, by increasing offset, and `free`, by decreasing size.
int64_t bound_of_gaps(const PreparedProblem& problem, const std::vector<int32_t>& pinned,
                      const std::vector<int32_t>& free) {
  std::vector<int64_t> gaps;
  int64_t top = 0;
  for (int32_t buffer : pinned) {
    gaps.push_back(problem.pin(buffer) - top);
    top = std::max(top, problem.pin(buffer) + problem.sizes[buffer]);
  }
  std::sort(gaps.begin(), gaps.end(), std::greater<>());
  int64_t bound = top;
  int64_t size_of_free = 0;
  int64_t size_of_gaps = 0;
  size_t next_gap = 0;
  for (int32_t buffer : free) {
    size_of_free += problem.sizes[buffer];
    for (; next_gap < gaps.size() && gaps[next_gap] >= problem.sizes[buffer]; ++next_gap) {
      size_of_gaps += gaps[next_gap];
    }
    bound = std::max(bound, top + size_of_free - size_of_gaps);
  }
  return bound;
}

int64_t bound_of_pins(const PreparedProblem& problem) {
  std::vector<int32_t> pinned;
  std::vector<int32_t> free;
  for (int32_t i = 0; i < problem.num_buffers; ++i) (problem.pin(i) == kFree ? free : pinned).push_back(i);
  int64_t bound = top_of_pins(problem);
  if (pinned.empty() || pinned.size() * free.size() > kMaxPairs) return bound;
  std::sort(pinned.begin(), pinned.end(),
            [&](int32_t a, int32_t b) { return problem.pin(a) < problem.pin(b); });
  for (int32_t buffer : free) bound = std::max(bound, lowest_top(problem, pinned, buffer));

  if (num_in_sections(problem) > kMaxInSections) return bound;
  std::sort(free.begin(), free.end(),
            [&](int32_t a, int32_t b) { return problem.sizes[a] > problem.sizes[b]; });
  struct Section {
    std::vector<int32_t> pinned, free;
  };
  std::vector<Section> sections(problem.loads.size());
  for (int32_t i : pinned) {
    for (int32_t s = problem.starts[i]; s < problem.ends[i]; ++s) sections[s].pinned.push_back(i);
  }
  for (int32_t i : free) {
    for (int32_t s = problem.starts[i]; s < problem.ends[i]; ++s) sections[s].free.push_back(i);
  }
  for (const Section& section : sections) {
    bound = std::max(bound, bound_of_gaps(problem, section.pinned, section.free));
  }
  return bound;
}

}  // namespace

int64_t lower_bound_of(const PreparedProblem& problem) {
  int64_t bound = problem.loads.empty() ? 0 : *std::max_element(problem.loads.begin(), problem.loads.end());
  if (problem.has_pins()) bound = std::max(bound, bound_of_pins(problem));
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
