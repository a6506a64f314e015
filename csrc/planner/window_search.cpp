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
// For an effort of one, times the number of buffers.
constexpr int64_t kNodesTimesBuffers = 2'000'000;
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

void WindowSearch::improve(Placement& best, int64_t target, Budget& budget) {
  if (best.height <= target || is_done()) return;
  const auto top = [&](int32_t buffer) { return best.offsets[buffer] + problem_.sizes[buffer]; };
  int64_t floor = target;  // no window needs to be lower
  using Item = std::pair<int64_t, int32_t>;
  std::vector<Item> high;
  for (int32_t buffer = 0; buffer < problem_.num_buffers; ++buffer) {
    if (top(buffer) > floor && problem_.pin(buffer) == kFree) high.emplace_back(top(buffer), buffer);
  }
  std::priority_queue<Item> highest(std::less<Item>(), std::move(high));
  while (!highest.empty() && highest.top().first > floor && !budget.spent()) {
    const auto [height, buffer] = highest.top();
    highest.pop();
    if (top(buffer) != height) continue;  // it was moved since; its new top is in the queue as well
    const int64_t reached = lower_window(buffer, floor, best, budget);
    floor = std::max(floor, std::min(reached, height));
    for (int32_t moved : free_) {
      if (top(moved) > floor) highest.emplace(top(moved), moved);
    }
  }
  work_ns_ += kScanCostPerBuffer_ns * problem_.num_buffers;
  const int64_t old_height = std::exchange(best.height, height_of(problem_, best.offsets));
  budget.found(best.height);
  if (best.height == old_height) effort_ *= 2;
}

int64_t WindowSearch::lower_window(int32_t buffer, int64_t floor, Placement& best, Budget& budget) {
  int64_t scale = 1;
  while (scale * scale < effort_) ++scale;
  int64_t reached = kNoCutoff;
  for (int32_t num_births : kNumBirths) {
    const int64_t scaled = std::min<int64_t>(num_births * scale, problem_.num_buffers);
    // Half of all buffers are no window any more.
    if (reached != kNoCutoff && 4 * scaled > problem_.num_buffers) break;
    reached = lower_window(buffer, static_cast<int32_t>(scaled), floor, best, budget);
    if (reached <= floor || budget.spent()) break;
  }
  return reached;
}

int64_t WindowSearch::lower_window(int32_t buffer, int32_t num_births, int64_t floor, Placement& best,
                                   Budget& budget) {
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
  const Goal goal{std::max(floor / unit, prepared.lower_bound), false};
  for (GreedyOrder order : kOrders) {
    if (placement.height <= goal.target) break;
    work_ns_ += greedy_cost_ns(prepared);
    auto found = greedy(prepared, order, GreedyFit::kFirst, budget, placement.height);
    if (found) placement = std::move(*found);
  }
  if (placement.height > goal.target && is_small_enough_for_tree_search(prepared)) {
    TreeSearch tree(prepared, seed_);
    tree.improve(placement, goal, kNodesTimesBuffers * effort_ / prepared.num_buffers, budget);
    work_ns_ += tree_search_node_cost_ns(prepared) * static_cast<double>(tree.num_nodes());
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
