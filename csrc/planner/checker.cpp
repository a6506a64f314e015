#include "planner/checker.hpp"

#include <algorithm>
#include <map>
#include <vector>

namespace memomalloc::checker {
namespace {

struct Event {
  int64_t tick;
  int64_t buffer;
};

// The buffers that have bytes, by increasing tick.
std::vector<Event> sorted_events(size_t n, const int64_t* sizes, const int64_t* ticks) {
  std::vector<Event> events;
  events.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    if (sizes[i] > 0) events.push_back({ticks[i], static_cast<int64_t>(i)});
  }
  const auto earlier = [](const Event& a, const Event& b) { return a.tick < b.tick; };
  if (!std::is_sorted(events.begin(), events.end(), earlier))
    std::sort(events.begin(), events.end(), earlier);
  return events;
}

// Calls birth(i) and death(i) in time order; at one tick, deaths first. Stops when birth returns false.
template <typename Birth, typename Death>
void sweep(size_t n, const int64_t* sizes, const int64_t* starts, const int64_t* ends, Birth birth,
           Death death) {
  const std::vector<Event> births = sorted_events(n, sizes, starts);
  const std::vector<Event> deaths = sorted_events(n, sizes, ends);
  size_t next_death = 0;
  for (const Event& event : births) {
    while (next_death < deaths.size() && deaths[next_death].tick <= event.tick) {
      death(deaths[next_death++].buffer);
    }
    if (!birth(event.buffer)) return;
  }
}

}  // namespace

std::pair<int64_t, int64_t> find_overlap(size_t n, const int64_t* sizes, const int64_t* starts,
                                         const int64_t* ends, const int64_t* offsets) {
  // The live buffers by offset. None overlap each other, so a new one can only clash with its two neighbours.
  std::map<int64_t, int64_t> live;
  std::pair<int64_t, int64_t> overlap{-1, -1};
  const auto birth = [&](int64_t buffer) {
    const auto [place, inserted] = live.emplace(offsets[buffer], buffer);
    if (!inserted) {
      overlap = {place->second, buffer};
      return false;
    }
    if (place != live.begin()) {
      const int64_t below = std::prev(place)->second;
      if (offsets[below] + sizes[below] > offsets[buffer]) {
        overlap = {below, buffer};
        return false;
      }
    }
    const auto above = std::next(place);
    if (above != live.end() && offsets[buffer] + sizes[buffer] > above->first) {
      overlap = {above->second, buffer};
      return false;
    }
    return true;
  };
  sweep(n, sizes, starts, ends, birth, [&](int64_t buffer) { live.erase(offsets[buffer]); });
  return overlap;
}

int64_t peak_live_bytes(size_t n, const int64_t* sizes, const int64_t* starts, const int64_t* ends) {
  int64_t live = 0;
  int64_t peak = 0;
  const auto birth = [&](int64_t buffer) {
    live += sizes[buffer];
    peak = std::max(peak, live);
    return true;
  };
  sweep(n, sizes, starts, ends, birth, [&](int64_t buffer) { live -= sizes[buffer]; });
  return peak;
}

}  // namespace memomalloc::checker
