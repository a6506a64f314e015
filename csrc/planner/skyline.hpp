// The skyline planner: always fill the lowest place of the roof.
//
// Its ancestor is the best-fit heuristic for rectangle packing that Sekiyama, Imai, Negishi and Kawachiya use
// in "Profile-guided memory optimization for deep neural networks" (2018).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "planner/budget.hpp"
#include "planner/containment_tree.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

// What a buffer is preferred for, largest first. The later keys break the ties of the earlier.
enum class SkylineKey { kWidth, kArea, kPeakLoad, kSize };
using SkylineOrder = std::array<SkylineKey, 3>;

// The orders that are tried, the one that most often succeeds first.
inline constexpr std::array<SkylineOrder, 5> kSkylineOrders = {{
    {SkylineKey::kWidth, SkylineKey::kArea, SkylineKey::kPeakLoad},
    {SkylineKey::kPeakLoad, SkylineKey::kWidth, SkylineKey::kArea},
    {SkylineKey::kArea, SkylineKey::kWidth, SkylineKey::kPeakLoad},
    {SkylineKey::kPeakLoad, SkylineKey::kArea, SkylineKey::kWidth},
    {SkylineKey::kSize, SkylineKey::kWidth, SkylineKey::kPeakLoad},
}};

// rank[i] is the position of buffer i in the given order.
std::vector<int32_t> skyline_ranks(const PreparedProblem& problem, const std::vector<int64_t>& peak_loads,
                                   const SkylineOrder& order);

// Places all buffers of one problem, any number of times with different ranks, reusing its memory.
class SkylineBuilder {
 public:
  explicit SkylineBuilder(const PreparedProblem& problem);

  // Keeps the roof of what is placed as segments. Takes one that is lower than its neighbours; of the
  // unplaced buffers that live inside it, places the one with the smallest rank; where there is none, lifts
  // the segment to its lower neighbour. About three steps per buffer. Honours alignments, ignores pins.
  //
  // No other segment has a say in what lives inside a valley, so the order of valleys changes nothing but the
  // time: the next is the nearest, whose memory is still in the cache.
  //
  // False if the budget was spent before all were placed, or the placement would be as high as the cutoff.
  bool place(const std::vector<int32_t>& ranks, Placement& placement, Budget& budget,
             int64_t cutoff = kNoCutoff);

 private:
  struct Segment {
    int64_t height;
    int32_t left, right;
    int32_t previous, next;  // -1: none
  };

  int32_t add_segment(int64_t height, int32_t left, int32_t right, int32_t previous, int32_t next);
  // The first valley downhill.
  int32_t descend(int32_t segment) const;
  void merge_with_equal_neighbours(int32_t segment);
  void discard(int32_t segment);
  void lift(int32_t segment);
  void split(int32_t segment, int32_t start, int32_t end, int64_t top);

  const PreparedProblem& problem_;
  ContainmentTree unplaced_;
  std::vector<Segment> segments_;
  int32_t first_unused_ = -1;  // of the segments that were merged into others, by `next`
};

struct SkylineOutcome {
  Placement placement;
  size_t order;  // that gave it
};

// The best of the orders from `first` up to `last`; stops at the first whose height is at most `target`, or
// when the budget is spent. None if no order was seen to its end, or all would be as high as the cutoff.
std::optional<SkylineOutcome> skyline(const PreparedProblem& problem, int64_t target, Budget& budget,
                                      size_t first = 0, size_t last = kSkylineOrders.size(),
                                      int64_t cutoff = kNoCutoff);

// About how many nanoseconds one order takes.
double skyline_cost_ns(const PreparedProblem& problem);

}  // namespace memomalloc::planner
