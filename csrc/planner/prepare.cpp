#include "planner/prepare.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "planner/lower_bound.hpp"

namespace memomalloc::planner {
namespace {

// Every size, pin and alignment is a multiple of the unit, so that some best plan uses multiples of it only.
void divide_by_unit(PreparedProblem& problem) {
  int64_t unit = 0;
  for (int64_t size : problem.sizes) unit = std::gcd(unit, size);
  for (int64_t pin : problem.pins) {
    if (pin != kFree) unit = std::gcd(unit, pin);
  }
  if (unit == 0) unit = 1;
  const bool implied = std::all_of(problem.alignments.begin(), problem.alignments.end(),
                                   [unit](int64_t alignment) { return unit % alignment == 0; });
  if (implied) {
    problem.alignments.clear();
  } else {
    for (int64_t alignment : problem.alignments) unit = std::gcd(unit, alignment);
    for (int64_t& alignment : problem.alignments) alignment /= unit;
  }
  for (int64_t& size : problem.sizes) size /= unit;
  for (int64_t& pin : problem.pins) {
    if (pin != kFree) pin /= unit;
  }
  problem.unit = unit;
}

void compute_loads(PreparedProblem& problem) {
  std::vector<int64_t> change(problem.num_sections + 1, 0);
  for (size_t i = 0; i < problem.sizes.size(); ++i) {
    change[problem.starts[i]] += problem.sizes[i];
    change[problem.ends[i]] -= problem.sizes[i];
  }
  problem.loads.resize(problem.num_sections);
  int64_t load = 0;
  for (size_t section = 0; section < problem.loads.size(); ++section) {
    load += change[section];
    problem.loads[section] = load;
  }
  problem.lower_bound = lower_bound_of(problem);
}

}  // namespace

PreparedProblem prepare(const Problem& problem) {
  PreparedProblem prepared;
  const auto alignment = [&](size_t i) { return problem.alignments.empty() ? 1 : problem.alignments[i]; };
  const auto pin = [&](size_t i) { return problem.pins.empty() ? kFree : problem.pins[i]; };
  for (size_t i = 0; i < problem.sizes.size(); ++i) {
    if (problem.sizes[i] > 0) prepared.origins.push_back(static_cast<int32_t>(i));
  }
  const auto content = [&](int32_t buffer) {
    const size_t i = buffer;
    return std::make_tuple(problem.starts[i], problem.ends[i], problem.sizes[i], alignment(i), pin(i));
  };
  std::stable_sort(prepared.origins.begin(), prepared.origins.end(),
                   [&](int32_t a, int32_t b) { return content(a) < content(b); });

  const size_t n = prepared.origins.size();
  prepared.num_buffers = static_cast<int32_t>(n);
  prepared.sizes.resize(n);
  prepared.starts.resize(n);
  prepared.ends.resize(n);
  bool aligned = false;
  bool pinned = false;
  for (size_t i = 0; i < n; ++i) {
    const auto origin = prepared.origins[i];
    prepared.sizes[i] = problem.sizes[origin];
    aligned = aligned || alignment(origin) != 1;
    pinned = pinned || pin(origin) != kFree;
  }
  for (size_t i = 0; i < n && (aligned || pinned); ++i) {
    const auto origin = prepared.origins[i];
    if (aligned) prepared.alignments.push_back(alignment(origin));
    if (pinned) prepared.pins.push_back(pin(origin));
  }

  // Walk births and deaths in time order (at one tick deaths come first: lifetimes are half-open). A birth
  // after a death opens a new section.
  std::vector<int32_t> by_death(n);
  std::iota(by_death.begin(), by_death.end(), 0);
  const auto death = [&](int32_t buffer) { return problem.ends[prepared.origins[buffer]]; };
  std::stable_sort(by_death.begin(), by_death.end(),
                   [&](int32_t a, int32_t b) { return death(a) < death(b); });
  int32_t section = 0;
  bool died = false;
  size_t next_death = 0;
  for (size_t birth = 0; birth < n; ++birth) {
    const int64_t tick = problem.starts[prepared.origins[birth]];
    for (; next_death < n && death(by_death[next_death]) <= tick; ++next_death) {
      prepared.ends[by_death[next_death]] = section + 1;
      died = true;
    }
    if (died) ++section;
    died = false;
    prepared.starts[birth] = section;
  }
  for (; next_death < n; ++next_death) prepared.ends[by_death[next_death]] = section + 1;
  prepared.num_sections = n == 0 ? 0 : section + 1;

  divide_by_unit(prepared);
  compute_loads(prepared);
  return prepared;
}

std::vector<PreparedProblem> split_into_parts(const PreparedProblem& whole) {
  std::vector<PreparedProblem> parts;
  int32_t part_end = 0;  // one past the last section of the part that is being filled
  for (int32_t buffer = 0; buffer < whole.num_buffers; ++buffer) {
    const size_t i = buffer;
    if (parts.empty() || whole.starts[i] >= part_end) {
      parts.emplace_back();
      parts.back().unit = whole.unit;
    }
    PreparedProblem& part = parts.back();
    part_end = std::max(part_end, whole.ends[i]);
    part.origins.push_back(buffer);
    part.sizes.push_back(whole.sizes[i]);
    part.starts.push_back(whole.starts[i]);
    part.ends.push_back(whole.ends[i]);
    if (!whole.alignments.empty()) part.alignments.push_back(whole.alignments[i]);
    if (!whole.pins.empty()) part.pins.push_back(whole.pins[i]);
  }
  for (PreparedProblem& part : parts) {
    part.num_buffers = static_cast<int32_t>(part.sizes.size());
    const int32_t first = part.starts.front();
    for (int32_t& start : part.starts) start -= first;
    for (int32_t& end : part.ends) end -= first;
    part.num_sections = *std::max_element(part.ends.begin(), part.ends.end());
    compute_loads(part);
  }
  return parts;
}

std::vector<int64_t> to_bytes(const Problem& problem, const PreparedProblem& prepared,
                              const Placement& placement) {
  std::vector<int64_t> offsets(problem.sizes.size(), 0);
  for (size_t i = 0; i < problem.pins.size(); ++i) {
    if (problem.pins[i] != kFree) offsets[i] = problem.pins[i];
  }
  for (size_t i = 0; i < prepared.origins.size(); ++i) {
    offsets[prepared.origins[i]] = placement.offsets[i] * prepared.unit;
  }
  return offsets;
}

int64_t lower_bound_in_bytes(const Problem& problem) {
  const PreparedProblem prepared = prepare(problem);
  return prepared.lower_bound * prepared.unit;
}

int64_t height_of(const PreparedProblem& problem, const std::vector<int64_t>& offsets) {
  int64_t height = 0;
  for (size_t i = 0; i < offsets.size(); ++i) height = std::max(height, offsets[i] + problem.sizes[i]);
  return height;
}

std::vector<int64_t> peak_load_of_each(const PreparedProblem& problem) {
  // A segment tree over the loads, leaves at [m, 2m).
  const auto m = problem.num_sections;
  std::vector<int64_t> tree(2 * m, 0);
  std::copy(problem.loads.begin(), problem.loads.end(), tree.begin() + static_cast<int64_t>(m));
  for (size_t node = m; node-- > 1;) tree[node] = std::max(tree[2 * node], tree[2 * node + 1]);
  std::vector<int64_t> peaks(problem.sizes.size(), 0);
  for (size_t i = 0; i < peaks.size(); ++i) {
    size_t left = problem.starts[i] + m;
    size_t right = problem.ends[i] + m;
    for (; left < right; left /= 2, right /= 2) {
      if (left % 2 == 1) peaks[i] = std::max(peaks[i], tree[left++]);
      if (right % 2 == 1) peaks[i] = std::max(peaks[i], tree[--right]);
    }
  }
  return peaks;
}

std::vector<int32_t> num_born_before(const PreparedProblem& problem) {
  std::vector<int32_t> born_before(problem.loads.size() + 1, 0);
  for (int32_t start : problem.starts) ++born_before[start + 1];
  std::partial_sum(born_before.begin(), born_before.end(), born_before.begin());
  return born_before;
}

int64_t num_in_sections(const PreparedProblem& problem) {
  int64_t num = 0;
  for (int32_t i = 0; i < problem.num_buffers; ++i) num += problem.width(i);
  return num;
}

}  // namespace memomalloc::planner
