#include "planner/bodies.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

namespace memomalloc::planner {
namespace {

// The bytes that are in use together, tick by tick, as few slabs as that takes.
std::vector<Slab> slabs_of(const std::vector<Slab>& lifetimes) {
  if (lifetimes.size() == 1) return lifetimes;
  std::vector<int64_t> ticks;
  for (const Slab& lifetime : lifetimes) {
    ticks.push_back(lifetime.start);
    ticks.push_back(lifetime.end);
  }
  std::sort(ticks.begin(), ticks.end());
  ticks.erase(std::unique(ticks.begin(), ticks.end()), ticks.end());
  std::vector<Slab> slabs;
  std::map<std::pair<int64_t, int64_t>, size_t> open;  // those that end at the tick, by their bytes
  for (size_t t = 0; t + 1 < ticks.size(); ++t) {
    std::vector<std::pair<int64_t, int64_t>> used;
    for (const Slab& lifetime : lifetimes) {
      if (lifetime.start <= ticks[t] && ticks[t] < lifetime.end)
        used.emplace_back(lifetime.lower, lifetime.upper);
    }
    std::sort(used.begin(), used.end());
    std::map<std::pair<int64_t, int64_t>, size_t> still_open;
    for (size_t k = 0; k < used.size();) {
      std::pair<int64_t, int64_t> bytes = used[k];
      for (; k < used.size() && used[k].first <= bytes.second; ++k) {
        bytes.second = std::max(bytes.second, used[k].second);
      }
      const auto before = open.find(bytes);
      if (before != open.end()) {
        slabs[before->second].end = ticks[t + 1];
        still_open.insert(*before);
      } else {
        still_open.emplace(bytes, slabs.size());
        slabs.push_back({bytes.first, bytes.second, ticks[t], ticks[t + 1]});
      }
    }
    open = std::move(still_open);
  }
  return slabs;
}

}  // namespace

int64_t Body::end() const {
  int64_t end = start();
  for (const Slab& slab : slabs) end = std::max(end, slab.end);
  return end;
}

Bodies bodies_of(const DeviceProblem& problem) {
  const size_t n = problem.num_buffers();
  const size_t m = problem.memories.size();
  Bodies found;
  found.body_of.resize(n);
  found.sub_offsets.assign(n, 0);
  std::map<int64_t, int32_t> body_of_group;
  for (size_t i = 0; i < n; ++i) {
    auto body = static_cast<int32_t>(found.bodies.size());
    if (problem.groups[i] >= 0) {
      body = body_of_group.emplace(problem.groups[i], body).first->second;
      found.sub_offsets[i] = problem.sub_offsets[i];
    }
    if (static_cast<size_t>(body) == found.bodies.size()) {
      found.bodies.emplace_back();
      found.bodies.back().costs.assign(m, 0);
    }
    found.body_of[i] = body;
    Body& own = found.bodies[static_cast<size_t>(body)];
    own.buffers.push_back(static_cast<int64_t>(i));
    own.alignment = std::lcm(own.alignment, problem.alignments[i]);
    if (problem.sizes[i] > 0) own.extent = std::max(own.extent, found.sub_offsets[i] + problem.sizes[i]);
    for (size_t k = 0; k < m; ++k) {
      const int64_t cost = problem.cost(i, k);
      own.costs[k] = cost == kForbidden || own.costs[k] == kForbidden ? kForbidden : own.costs[k] + cost;
    }
    if (problem.pins[i].memory >= 0) {
      own.pin = problem.pins[i];
      own.pin.offset -= found.sub_offsets[i];
    }
  }
  std::vector<std::vector<Slab>> lifetimes(found.bodies.size());
  for (const Lifetime& lifetime : problem.lifetimes) {
    if (lifetime.lower >= lifetime.upper) continue;
    const auto i = static_cast<size_t>(lifetime.buffer);
    lifetimes[static_cast<size_t>(found.body_of[i])].push_back({found.sub_offsets[i] + lifetime.lower,
                                                                found.sub_offsets[i] + lifetime.upper,
                                                                lifetime.start, lifetime.end});
  }
  for (size_t b = 0; b < found.bodies.size(); ++b) {
    Body& body = found.bodies[b];
    if (!lifetimes[b].empty()) body.slabs = slabs_of(lifetimes[b]);
    std::sort(body.slabs.begin(), body.slabs.end(), [](const Slab& a, const Slab& other) {
      return a.start != other.start ? a.start < other.start : a.lower < other.lower;
    });
    for (size_t k = 0; k < m; ++k) {
      if (body.pin.memory >= 0 && static_cast<size_t>(body.pin.memory) != k) body.costs[k] = kForbidden;
    }
  }
  const auto separate = [&](const std::pair<int64_t, int64_t>& pair, bool banks) {
    const auto a = static_cast<size_t>(pair.first);
    const auto b = static_cast<size_t>(pair.second);
    if (problem.sizes[a] == 0 || problem.sizes[b] == 0 || found.body_of[a] == found.body_of[b]) return;
    found.separations.push_back({found.body_of[a], found.body_of[b], found.sub_offsets[a],
                                 found.sub_offsets[a] + problem.sizes[a], found.sub_offsets[b],
                                 found.sub_offsets[b] + problem.sizes[b], banks});
  };
  for (const auto& pair : problem.disjoint) separate(pair, false);
  for (const auto& pair : problem.different_banks) separate(pair, true);
  return found;
}

}  // namespace memomalloc::planner
