#include "planner/window_search.hpp"

#include <algorithm>
#include <optional>
#include <queue>
#include <utility>

#include "planner/greedy.hpp"
#include "planner/prepare.hpp"
#include "planner/tree_search.hpp"

namespace memomalloc::planner {
namespace {

// Births before and after the buffer that is to be lowered, in turn, times the root of the effort.
constexpr int32_t kNumBirths[] = {32, 128, 512};
constexpr size_t kMaxBuffers = 4000;
// Of the tree search in a window, for an effort of one.
constexpr double kWorkOfTree_ns = 2e7;
// About what these take.
constexpr double kCostPerBuffer_ns = 300;
constexpr double kScanCostPerBuffer_ns = 5;
constexpr GreedyOrder kOrders[] = {GreedyOrder::kSize, GreedyOrder::kBreadth, GreedyOrder::kArea,
                                   GreedyOrder::kDuration};

}  // namespace

WindowSearch::WindowSearch(const PreparedProblem& problem, uint64_t seed)
    : problem_(problem), seed_(seed), index_(problem) {
  for (int32_t buffer = 0; buffer < problem.num_buffers; ++buffer) index_.add(buffer);
}

void WindowSearch::begin_round(const Placement& best, int64_t target) {
  floor_ = target;
  height_at_start_ = best.height;
  std::vector<Item> high;
  for (int32_t buffer = 0; buffer < problem_.num_buffers; ++buffer) {
    const int64_t top = best.offsets[buffer] + problem_.sizes[buffer];
    if (top > floor_ && problem_.pin(buffer) == kFree) high.emplace_back(top, buffer);
  }
  highest_ = std::priority_queue<Item>(std::less<Item>(), std::move(high));
}

void WindowSearch::improve(Placement& best, int64_t target, double work_ns, Budget& budget) {
  if (best.height <= target || is_done()) return;
  const double last_ns = work_ns_ + work_ns;
  // Somebody else may have found another placement.
  if (best.height != height_) begin_round(best, target);
  const auto top = [&](int32_t buffer) { return best.offsets[buffer] + problem_.sizes[buffer]; };
  const auto is_over = [&] { return highest_.empty() || highest_.top().first <= floor_; };
  while (!is_over() && work_ns_ < last_ns && !budget.spent()) {
    const auto [height, buffer] = highest_.top();
    highest_.pop();
    if (top(buffer) != height) continue;  // it was moved since; its new top is in the queue as well
    const int64_t reached = lower_window(buffer, best, budget);
    floor_ = std::max(floor_, std::min(reached, height));
    for (int32_t moved : free_) {
      if (top(moved) > floor_) highest_.emplace(top(moved), moved);
    }
  }
  work_ns_ += kScanCostPerBuffer_ns * problem_.num_buffers;
  best.height = height_of(problem_, best.offsets);
  budget.found(best.height);
  height_ = best.height;
  if (!is_over()) return;
  if (best.height == height_at_start_) effort_ *= 2;
  height_ = kNoCutoff;  // another round
}

int64_t WindowSearch::lower_window(int32_t buffer, Placement& best, Budget& budget) {
  int64_t scale = 1;
  while (scale * scale < effort_) ++scale;
  int64_t reached = kNoCutoff;
  for (int32_t num_births : kNumBirths) {
    const int64_t scaled = std::min<int64_t>(num_births * scale, problem_.num_buffers);
    // Half of all buffers are no window any more.
    if (reached != kNoCutoff && 4 * scaled > problem_.num_buffers) break;
    reached = lower_window(buffer, static_cast<int32_t>(scaled), best, budget);
    if (reached <= floor_ || budget.spent()) break;
  }
  return reached;
}

int64_t WindowSearch::lower_window(int32_t buffer, int32_t num_births, Placement& best, Budget& budget) {
  const int32_t left = std::min(problem_.starts[buffer], problem_.starts[std::max(0, buffer - num_births)]);
  const int32_t last = std::min(problem_.num_buffers - 1, buffer + num_births);
  const int32_t right = std::max(problem_.ends[buffer], problem_.starts[last] + 1);
  free_.clear();
  beyond_.clear();
  index_.for_each_alive(left, right, [&](int32_t other) {
    const bool inside = problem_.starts[other] >= left && problem_.ends[other] <= right;
    (inside && problem_.pin(other) == kFree ? free_ : beyond_).push_back(other);
  });
  const int64_t old_height = best.offsets[buffer] + problem_.sizes[buffer];
  work_ns_ += kCostPerBuffer_ns * static_cast<double>(free_.size() + beyond_.size());
  if (free_.size() + beyond_.size() > kMaxBuffers) {
    free_ = {buffer};
    return old_height;
  }

  Problem window;
  for (const std::vector<int32_t>* part : {&free_, &beyond_}) {
    for (int32_t other : *part) {
      window.sizes.push_back(problem_.sizes[other]);
      window.starts.push_back(std::max(left, problem_.starts[other]));
      window.ends.push_back(std::min(right, problem_.ends[other]));
      if (!problem_.alignments.empty()) window.alignments.push_back(problem_.alignments[other]);
      window.pins.push_back(part == &free_ ? kFree : best.offsets[other]);
    }
  }
  const PreparedProblem prepared = prepare(window);
  const int64_t unit = prepared.unit;
  Placement placement;
  for (int32_t origin : prepared.origins) {
    const auto i = static_cast<size_t>(origin);
    const int32_t other = i < free_.size() ? free_[i] : beyond_[i - free_.size()];
    placement.offsets.push_back(best.offsets[other] / unit);
  }
  placement.height = height_of(prepared, placement.offsets);
  // A placement is as high as its highest pin at least, which the window cannot lower.
  const Goal goal{std::max(floor_ / unit, prepared.lower_bound), false};
  for (GreedyOrder order : kOrders) {
    if (placement.height <= goal.target) break;
    work_ns_ += greedy_cost_ns(prepared);
    auto found = greedy(prepared, order, GreedyFit::kFirst, budget, placement.height);
    if (found) placement = std::move(*found);
  }
  const double work_of_tree_ns = kWorkOfTree_ns * static_cast<double>(effort_);
  if (placement.height > goal.target && is_small_enough_for_tree_search(prepared) &&
      tree_search_run_cost_ns(prepared) <= work_of_tree_ns) {
    TreeSearch tree(prepared, seed_);
    tree.improve(placement, goal, work_of_tree_ns, budget);
    work_ns_ += tree.work_ns();
  }
  int64_t reached = 0;
  for (size_t k = 0; k < prepared.origins.size(); ++k) {
    const auto i = static_cast<size_t>(prepared.origins[k]);
    if (i >= free_.size()) continue;
    best.offsets[free_[i]] = placement.offsets[k] * unit;
    reached = std::max(reached, best.offsets[free_[i]] + problem_.sizes[free_[i]]);
  }
  return reached;
}

}  // namespace memomalloc::planner
