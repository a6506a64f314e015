#include "planner/next_fit.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "planner/lower_bound.hpp"
#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

constexpr int64_t kStepsPerClock = 500'000;  // a millisecond or a few
constexpr int64_t kQuickStepsPerBuffer = 16;
// The bisection ends where the range is so small a share of the height.
constexpr int64_t kFinest = 4000;

// The live buffers in a ring, ordered by offset.
class Ring {
 public:
  explicit Ring(const PreparedProblem& problem)
      : problem_(problem),
        base_(top_of_pins(problem)),
        next_(problem.sizes.size() + 1),
        previous_(problem.sizes.size() + 1),
        by_end_(order_by(problem.ends)) {}

  int64_t base() const { return base_; }

  // Whether everything was placed below `height`; `steps` are counted down, and it is given up at 0.
  bool place(int64_t height, int64_t& steps, Placement& placement, Budget* budget) {
    const int32_t ground = problem_.num_buffers;  // stands for the ground in the ring
    next_[ground] = previous_[ground] = ground;
    placement.offsets.assign(problem_.sizes.size(), 0);
    placement.height = base_;
    int32_t last = ground;  // the search goes on above it
    size_t next_dead = 0;
    int64_t clock = kStepsPerClock;
    for (int32_t buffer = 0; buffer < problem_.num_buffers; ++buffer) {
      if (problem_.pin(buffer) != kFree) {
        placement.offsets[buffer] = problem_.pin(buffer);
        continue;
      }
      for (; problem_.ends[by_end_[next_dead]] <= problem_.starts[buffer]; ++next_dead) {
        const int32_t dead = by_end_[next_dead];
        if (problem_.pin(dead) != kFree) continue;
        if (last == dead) last = previous_[dead];
        next_[previous_[dead]] = next_[dead];
        previous_[next_[dead]] = previous_[dead];
      }
      const int64_t size = problem_.sizes[buffer];
      const int64_t alignment = problem_.alignment(buffer);
      int32_t below = last;
      bool all_seen = false;
      int64_t offset = 0;
      while (true) {
        if (--steps <= 0) return false;
        if (--clock <= 0) {
          if (budget != nullptr && budget->spent()) return false;
          clock = kStepsPerClock;
        }
        const int64_t top = below == ground ? base_ : placement.offsets[below] + problem_.sizes[below];
        const int32_t above = next_[below];
        const int64_t ceiling = above == ground ? height : placement.offsets[above];
        offset = align_up(top, alignment);
        if (offset <= ceiling - size) break;
        below = above;
        if (below != last) continue;
        if (all_seen) return false;
        all_seen = true;
      }
      placement.offsets[buffer] = offset;
      placement.height = std::max(placement.height, offset + size);
      next_[buffer] = next_[below];
      previous_[buffer] = below;
      previous_[next_[below]] = buffer;
      next_[below] = buffer;
      last = buffer;
    }
    return true;
  }

 private:
  const PreparedProblem& problem_;
  int64_t base_;
  std::vector<int32_t> next_;  // by increasing offset, round by the ground
  std::vector<int32_t> previous_;
  std::vector<int32_t> by_end_;
};

}  // namespace

std::optional<Placement> next_fit(const PreparedProblem& problem, int64_t target, Budget& budget) {
  Ring ring(problem);
  int64_t unlimited = std::numeric_limits<int64_t>::max();
  std::optional<Placement> best;
  Placement placement;
  int64_t too_low = std::max(target, ring.base()) - 1;
  int64_t enough = kNoCutoff;  // until there is a placement: then its height
  int64_t height = too_low + 1;
  while (!budget.spent()) {
    if (ring.place(height, unlimited, placement, &budget)) {
      best = placement;
      enough = placement.height;
    } else {
      too_low = height;
    }
    if (enough - too_low <= 1 + enough / kFinest || enough <= target) break;
    // Up by an eighth at a time until one will do: beyond that a ring is no good.
    const int64_t step = too_low - too_low / 8 * 7 + 1;
    height = enough == kNoCutoff ? too_low + step : too_low + (enough - too_low) / 2;
  }
  return best;
}

double next_fit_cost_ns(const PreparedProblem& problem) { return 400.0 * problem.num_buffers; }

Placement quick_placement(const PreparedProblem& problem) {
  Ring ring(problem);
  Placement placement;
  int64_t height = ring.base() + problem.lower_bound;
  for (int i = 0; i < 3; ++i) {
    height += height / 4;
    int64_t steps = kQuickStepsPerBuffer * problem.num_buffers;
    if (ring.place(height, steps, placement, nullptr)) return placement;
  }
  // As bump does.
  placement.height = ring.base();
  placement.offsets.assign(problem.sizes.size(), 0);
  for (int32_t buffer = 0; buffer < problem.num_buffers; ++buffer) {
    const bool pinned = problem.pin(buffer) != kFree;
    const int64_t offset =
        pinned ? problem.pin(buffer) : align_up(placement.height, problem.alignment(buffer));
    placement.offsets[buffer] = offset;
    placement.height = std::max(placement.height, offset + problem.sizes[buffer]);
  }
  return placement;
}

}  // namespace memomalloc::planner
