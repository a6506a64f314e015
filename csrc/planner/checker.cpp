#include "planner/checker.hpp"

#include <algorithm>
#include <numeric>
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

// A set of numbers below n: a bit for each, and above every 64 bits one that says whether any is set. So
// small that it stays in the cache where a tree of nodes would not.
class BitSet {
 public:
  static constexpr size_t kNone = ~size_t{0};

  explicit BitSet(size_t n) {
    do {
      n = (n + 63) / 64;
      levels_.emplace_back(n, 0);
    } while (n > 1);
  }

  void insert(size_t number) {
    for (std::vector<uint64_t>& level : levels_) {
      level[number / 64] |= uint64_t{1} << number % 64;
      number /= 64;
    }
  }

  void erase(size_t number) {
    for (std::vector<uint64_t>& level : levels_) {
      level[number / 64] &= ~(uint64_t{1} << number % 64);
      if (level[number / 64] != 0) return;
      number /= 64;
    }
  }

  // The largest below `number`, or kNone.
  size_t previous(size_t number) const {
    for (size_t i = 0; i < levels_.size(); ++i, number /= 64) {
      const uint64_t lower = levels_[i][number / 64] & ((uint64_t{1} << number % 64) - 1);
      if (lower == 0) continue;
      number = number / 64 * 64 + highest_bit(lower);
      while (i-- > 0) number = number * 64 + highest_bit(levels_[i][number]);
      return number;
    }
    return kNone;
  }

  // The smallest above `number`, or kNone.
  size_t next(size_t number) const {
    for (size_t i = 0; i < levels_.size(); ++i, number /= 64) {
      const uint64_t higher = levels_[i][number / 64] & (~uint64_t{1} << number % 64);
      if (higher == 0) continue;
      number = number / 64 * 64 + lowest_bit(higher);
      while (i-- > 0) number = number * 64 + lowest_bit(levels_[i][number]);
      return number;
    }
    return kNone;
  }

 private:
  static size_t highest_bit(uint64_t word) { return 63 - static_cast<size_t>(__builtin_clzll(word)); }
  static size_t lowest_bit(uint64_t word) { return static_cast<size_t>(__builtin_ctzll(word)); }

  std::vector<std::vector<uint64_t>> levels_;
};

}  // namespace

std::pair<int64_t, int64_t> find_overlap(size_t n, const int64_t* sizes, const int64_t* starts,
                                         const int64_t* ends, const int64_t* offsets) {
  std::vector<int64_t> by_offset(n);
  std::iota(by_offset.begin(), by_offset.end(), 0);
  std::sort(by_offset.begin(), by_offset.end(),
            [&](int64_t a, int64_t b) { return offsets[a] < offsets[b]; });
  std::vector<size_t> rank(n);
  for (size_t i = 0; i < n; ++i) rank[static_cast<size_t>(by_offset[i])] = i;
  // Of the live buffers none overlap each other, so a new one can only clash with its two neighbours.
  BitSet live(n);
  std::pair<int64_t, int64_t> overlap{-1, -1};
  const auto birth = [&](int64_t buffer) {
    const size_t own = rank[static_cast<size_t>(buffer)];
    const size_t below = live.previous(own);
    const size_t above = live.next(own);
    if (below != BitSet::kNone && offsets[by_offset[below]] + sizes[by_offset[below]] > offsets[buffer]) {
      overlap = {by_offset[below], buffer};
      return false;
    }
    if (above != BitSet::kNone && offsets[buffer] + sizes[buffer] > offsets[by_offset[above]]) {
      overlap = {by_offset[above], buffer};
      return false;
    }
    live.insert(own);
    return true;
  };
  sweep(n, sizes, starts, ends, birth,
        [&](int64_t buffer) { live.erase(rank[static_cast<size_t>(buffer)]); });
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
