#include "planner/skyline.hpp"

#include <algorithm>
#include <numeric>

#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

constexpr int64_t kStepsPerClock = 4096;

}  // namespace

std::vector<int32_t> skyline_ranks(const PreparedProblem& problem, const std::vector<int64_t>& peak_loads,
                                   const SkylineOrder& order) {
  // A single precision float orders all but nearly equal keys; the buffer's number decides those.
  struct Keyed {
    std::array<float, 3> keys;
    int32_t buffer;
  };
  std::vector<Keyed> keyed(problem.sizes.size());
  for (size_t i = 0; i < keyed.size(); ++i) {
    const auto buffer = static_cast<int32_t>(i);
    const auto size = static_cast<float>(problem.sizes[i]);
    const auto width = static_cast<float>(problem.width(buffer));
    keyed[i].buffer = buffer;
    for (size_t k = 0; k < order.size(); ++k) {
      switch (order[k]) {
        case SkylineKey::kWidth:
          keyed[i].keys[k] = width;
          break;
        case SkylineKey::kArea:
          keyed[i].keys[k] = size * width;
          break;
        case SkylineKey::kPeakLoad:
          keyed[i].keys[k] = static_cast<float>(peak_loads[i]);
          break;
        case SkylineKey::kSize:
          keyed[i].keys[k] = size;
          break;
      }
    }
  }
  std::sort(keyed.begin(), keyed.end(), [](const Keyed& a, const Keyed& b) {
    return a.keys != b.keys ? a.keys > b.keys : a.buffer < b.buffer;
  });
  std::vector<int32_t> ranks(keyed.size());
  for (size_t rank = 0; rank < keyed.size(); ++rank) {
    ranks[keyed[rank].buffer] = static_cast<int32_t>(rank);
  }
  return ranks;
}

SkylineBuilder::SkylineBuilder(const PreparedProblem& problem) : problem_(problem), unplaced_(problem) {}

int32_t SkylineBuilder::add_segment(int64_t height, int32_t left, int32_t right, int32_t previous,
                                    int32_t next) {
  int32_t segment = first_unused_;
  if (segment < 0) {
    segment = static_cast<int32_t>(segments_.size());
    segments_.emplace_back();
  } else {
    first_unused_ = segments_[segment].next;
  }
  segments_[segment] = {height, left, right, previous, next};
  if (previous >= 0) segments_[previous].next = segment;
  if (next >= 0) segments_[next].previous = segment;
  return segment;
}

int32_t SkylineBuilder::descend(int32_t segment) const {
  while (true) {
    const Segment& self = segments_[segment];
    if (self.previous >= 0 && segments_[self.previous].height < self.height) {
      segment = self.previous;
    } else if (self.next >= 0 && segments_[self.next].height < self.height) {
      segment = self.next;
    } else {
      return segment;
    }
  }
}

void SkylineBuilder::discard(int32_t segment) {
  segments_[segment].next = first_unused_;
  first_unused_ = segment;
}

void SkylineBuilder::merge_with_equal_neighbours(int32_t segment) {
  Segment& self = segments_[segment];
  if (const int32_t next = self.next; next >= 0 && segments_[next].height == self.height) {
    self.right = segments_[next].right;
    self.next = segments_[next].next;
    if (self.next >= 0) segments_[self.next].previous = segment;
    discard(next);
  }
  if (const int32_t previous = self.previous; previous >= 0 && segments_[previous].height == self.height) {
    self.left = segments_[previous].left;
    self.previous = segments_[previous].previous;
    if (self.previous >= 0) segments_[self.previous].next = segment;
    discard(previous);
  }
}

void SkylineBuilder::lift(int32_t segment) {
  Segment& self = segments_[segment];
  // A segment without neighbours spans all sections, so every unplaced buffer fits into it: it is never
  // lifted.
  if (self.previous < 0) {
    self.height = segments_[self.next].height;
  } else if (self.next < 0) {
    self.height = segments_[self.previous].height;
  } else {
    self.height = std::min(segments_[self.previous].height, segments_[self.next].height);
  }
  merge_with_equal_neighbours(segment);
}

void SkylineBuilder::split(int32_t segment, int32_t start, int32_t end, int64_t top) {
  const Segment old = segments_[segment];
  if (start > old.left) add_segment(old.height, old.left, start, old.previous, segment);
  if (end < old.right) add_segment(old.height, end, old.right, segment, old.next);
  Segment& raised = segments_[segment];
  raised.left = start;
  raised.right = end;
  raised.height = top;
  merge_with_equal_neighbours(segment);
}

bool SkylineBuilder::place(const std::vector<int32_t>& ranks, Placement& placement, Budget& budget,
                           int64_t cutoff) {
  placement.offsets.assign(problem_.sizes.size(), 0);
  placement.height = 0;
  segments_.clear();
  first_unused_ = -1;
  if (problem_.num_buffers == 0) return true;
  unplaced_.set_ranks(ranks);
  int32_t segment = add_segment(0, 0, problem_.num_sections, -1, -1);
  int32_t num_unplaced = problem_.num_buffers;
  for (int64_t step = 1; num_unplaced > 0; ++step) {
    if (step % kStepsPerClock == 0 && budget.spent()) return false;
    segment = descend(segment);
    const Segment& valley = segments_[segment];
    const int32_t buffer = unplaced_.best_inside(valley.left, valley.right);
    if (buffer < 0) {
      lift(segment);
      continue;
    }
    const int64_t offset = align_up(valley.height, problem_.alignment(buffer));
    const int64_t top = offset + problem_.sizes[buffer];
    placement.offsets[buffer] = offset;
    placement.height = std::max(placement.height, top);
    if (placement.height >= cutoff) return false;
    unplaced_.remove(buffer);
    --num_unplaced;
    split(segment, problem_.starts[buffer], problem_.ends[buffer], top);
  }
  return true;
}

std::optional<SkylineOutcome> skyline(const PreparedProblem& problem, int64_t target, Budget& budget,
                                      size_t first, size_t last, int64_t cutoff) {
  const std::vector<int64_t> peak_loads = peak_load_of_each(problem);
  SkylineBuilder builder(problem);
  std::optional<SkylineOutcome> best;
  Placement placement;
  for (size_t order = first; order < last; ++order) {
    const std::vector<int32_t> ranks = skyline_ranks(problem, peak_loads, kSkylineOrders[order]);
    if (builder.place(ranks, placement, budget, cutoff)) {
      cutoff = placement.height;
      budget.found(cutoff);
      if (!best) best.emplace();
      std::swap(best->placement, placement);
      best->order = order;
      if (best->placement.height <= target) break;
    }
    if (budget.spent()) break;
  }
  return best;
}

double skyline_cost_ns(const PreparedProblem& problem) { return 800.0 * problem.num_buffers; }

}  // namespace memomalloc::planner
