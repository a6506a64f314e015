#include "planner/device_checker.hpp"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "planner/checker.hpp"

namespace memomalloc::checker {
namespace {

constexpr int64_t kMaxOffset = int64_t{1} << 61;

// Where in which memory: two places in different ones never share a byte.
using Space = std::pair<int64_t, int64_t>;

// Bytes that are in use for a while.
struct Rectangles {
  std::vector<int64_t> sizes;
  std::vector<int64_t> starts;
  std::vector<int64_t> ends;
  std::vector<int64_t> offsets;
  std::vector<int64_t> buffers;

  void add(int64_t offset, int64_t top, int64_t start, int64_t end, int64_t buffer) {
    if (offset >= top) return;
    offsets.push_back(offset);
    sizes.push_back(top - offset);
    starts.push_back(start);
    ends.push_back(end);
    buffers.push_back(buffer);
  }
};

bool share_bytes(int64_t first, int64_t first_top, int64_t second, int64_t second_top) {
  return first < second_top && second < first_top && first < first_top && second < second_top;
}

// Those that alias may share bytes with each other: what they use together, tick by tick.
void add_group(const DeviceView& problem, const std::vector<size_t>& lifetimes, const int64_t* offsets,
               Rectangles& rectangles) {
  std::vector<int64_t> ticks;
  for (size_t k : lifetimes) {
    ticks.push_back(problem.lifetime_starts[k]);
    ticks.push_back(problem.lifetime_ends[k]);
  }
  std::sort(ticks.begin(), ticks.end());
  ticks.erase(std::unique(ticks.begin(), ticks.end()), ticks.end());
  for (size_t t = 0; t + 1 < ticks.size(); ++t) {
    std::vector<std::pair<int64_t, std::pair<int64_t, int64_t>>> used;
    for (size_t k : lifetimes) {
      if (problem.lifetime_starts[k] > ticks[t] || problem.lifetime_ends[k] <= ticks[t]) continue;
      const int64_t buffer = problem.lifetime_buffers[k];
      const int64_t lower = offsets[buffer] + problem.lifetime_lowers[k];
      const int64_t upper = offsets[buffer] + problem.lifetime_uppers[k];
      if (lower < upper) used.push_back({lower, {upper, buffer}});
    }
    std::sort(used.begin(), used.end());
    for (size_t k = 0; k < used.size();) {
      const int64_t lower = used[k].first;
      const int64_t buffer = used[k].second.second;
      int64_t upper = lower;
      for (; k < used.size() && (used[k].first <= upper); ++k) upper = std::max(upper, used[k].second.first);
      rectangles.add(lower, upper, ticks[t], ticks[t + 1], buffer);
    }
  }
}

DeviceFinding fault_of_one(const DeviceView& problem, int64_t i, int64_t memory, int64_t chunk,
                           int64_t offset) {
  const auto m = static_cast<int64_t>(problem.num_memories);
  if (memory < 0 || memory >= m || offset < 0 || offset > kMaxOffset || chunk < 0 ||
      (chunk > 0 && problem.chunks[memory] == 0)) {
    return {DeviceFault::kNoPlace, i};
  }
  if (problem.costs[i * m + memory] < 0) return {DeviceFault::kForbidden, i};
  if (offset % problem.alignments[i] != 0) return {DeviceFault::kMisaligned, i};
  if (problem.pin_memories[i] >= 0 && (problem.pin_memories[i] != memory || problem.pin_chunks[i] != chunk ||
                                       problem.pin_offsets[i] != offset)) {
    return {DeviceFault::kNotAtItsPin, i};
  }
  const int64_t chunk_bytes = problem.chunks[memory];
  const int64_t top = offset + problem.sizes[i];
  if (problem.sizes[i] == 0) return {};
  if (chunk_bytes > 0 && top > chunk_bytes) return {DeviceFault::kAcrossChunks, i};
  const int64_t capacity = problem.capacities[memory];
  // All chunks but the last count as whole.
  if (capacity >= 0 && (top > capacity || (chunk > 0 && chunk > (capacity - top) / chunk_bytes))) {
    return {DeviceFault::kBeyondCapacity, i};
  }
  return {};
}

}  // namespace

DeviceFinding find_device_fault(const DeviceView& problem, const int64_t* memories, const int64_t* chunks,
                                const int64_t* offsets) {
  const auto n = static_cast<int64_t>(problem.num_buffers);
  std::map<int64_t, int64_t> first_of_group;
  for (int64_t i = 0; i < n; ++i) {
    const DeviceFinding found = fault_of_one(problem, i, memories[i], chunks[i], offsets[i]);
    if (found.fault != DeviceFault::kNone) return found;
    if (problem.groups[i] < 0) continue;
    const int64_t first = first_of_group.emplace(problem.groups[i], i).first->second;
    if (memories[first] != memories[i] || chunks[first] != chunks[i] ||
        offsets[first] - problem.sub_offsets[first] != offsets[i] - problem.sub_offsets[i]) {
      return {DeviceFault::kNotAliased, first, i};
    }
  }

  const auto space_of = [&](int64_t i) { return Space{memories[i], chunks[i]}; };
  std::map<Space, Rectangles> spaces;
  std::map<int64_t, std::vector<size_t>> lifetimes_of_group;
  for (size_t k = 0; k < problem.num_lifetimes; ++k) {
    const int64_t i = problem.lifetime_buffers[k];
    if (problem.groups[i] >= 0) {
      lifetimes_of_group[problem.groups[i]].push_back(k);
    } else {
      spaces[space_of(i)].add(offsets[i] + problem.lifetime_lowers[k],
                              offsets[i] + problem.lifetime_uppers[k], problem.lifetime_starts[k],
                              problem.lifetime_ends[k], i);
    }
  }
  for (const auto& [group, lifetimes] : lifetimes_of_group) {
    add_group(problem, lifetimes, offsets, spaces[space_of(problem.lifetime_buffers[lifetimes.front()])]);
  }
  for (const auto& [space, used] : spaces) {
    const auto [first, second] = find_overlap(used.sizes.size(), used.sizes.data(), used.starts.data(),
                                              used.ends.data(), used.offsets.data());
    if (first >= 0) return {DeviceFault::kOverlap, used.buffers[first], used.buffers[second]};
  }

  for (size_t k = 0; k < problem.num_disjoint; ++k) {
    const int64_t a = problem.disjoint[2 * k];
    const int64_t b = problem.disjoint[2 * k + 1];
    if (space_of(a) == space_of(b) &&
        share_bytes(offsets[a], offsets[a] + problem.sizes[a], offsets[b], offsets[b] + problem.sizes[b])) {
      return {DeviceFault::kNotDisjoint, a, b};
    }
  }
  for (size_t k = 0; k < problem.num_different_banks; ++k) {
    const int64_t a = problem.different_banks[2 * k];
    const int64_t b = problem.different_banks[2 * k + 1];
    const int64_t bank = problem.banks[memories[a]];
    if (space_of(a) != space_of(b) || bank == 0 || problem.sizes[a] == 0 || problem.sizes[b] == 0) continue;
    const auto last_bank = [&](int64_t i) { return (offsets[i] + problem.sizes[i] - 1) / bank; };
    if (offsets[a] / bank <= last_bank(b) && offsets[b] / bank <= last_bank(a)) {
      return {DeviceFault::kSameBank, a, b};
    }
  }
  return {};
}

}  // namespace memomalloc::checker
