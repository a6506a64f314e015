#include "planner/containment_tree.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace memomalloc::planner {
namespace {

constexpr int32_t kNoRank = std::numeric_limits<int32_t>::max();
constexpr int32_t kLeafSize = 8;

}  // namespace

ContainmentTree::ContainmentTree(const PreparedProblem& problem) {
  const size_t n = problem.sizes.size();
  buffers_.resize(n);
  std::iota(buffers_.begin(), buffers_.end(), 0);
  leaf_of_buffer_.resize(n);
  if (n == 0) return;
  nodes_.reserve(n / 2 + 2);
  nodes_.push_back({});
  nodes_[0].parent = -1;
  build(0, 0, problem.num_buffers, problem);
  points_.resize(n);
  point_of_buffer_.resize(n);
  for (size_t point = 0; point < n; ++point) {
    const auto buffer = buffers_[point];
    points_[point] = {problem.starts[buffer], problem.ends[buffer], kNoRank};
    point_of_buffer_[buffer] = static_cast<int32_t>(point);
  }
  buffer_of_rank_.resize(n);
}

void ContainmentTree::build(int32_t node, int32_t first, int32_t last, const PreparedProblem& problem) {
  const auto start = [&](int32_t buffer) { return problem.starts[buffer]; };
  const auto end = [&](int32_t buffer) { return problem.ends[buffer]; };
  Node& self = nodes_[node];
  self.first = first;
  self.last = last;
  self.child = 0;
  self.min_start = self.min_end = std::numeric_limits<int32_t>::max();
  self.max_start = self.max_end = -1;
  for (int32_t point = first; point < last; ++point) {
    const int32_t buffer = buffers_[point];
    self.min_start = std::min(self.min_start, start(buffer));
    self.max_start = std::max(self.max_start, start(buffer));
    self.min_end = std::min(self.min_end, end(buffer));
    self.max_end = std::max(self.max_end, end(buffer));
  }
  if (last - first <= kLeafSize) {
    for (int32_t point = first; point < last; ++point) {
      leaf_of_buffer_[buffers_[point]] = node;
    }
    return;
  }
  const bool by_start = self.max_start - self.min_start >= self.max_end - self.min_end;
  const int32_t child = static_cast<int32_t>(nodes_.size());
  self.child = child;
  nodes_.push_back({});  // `self` is not used below: it may have moved
  nodes_.push_back({});
  nodes_[child].parent = node;
  nodes_[child + 1].parent = node;
  const int32_t middle = first + (last - first) / 2;
  std::nth_element(buffers_.begin() + first, buffers_.begin() + middle, buffers_.begin() + last,
                   [&](int32_t a, int32_t b) { return by_start ? start(a) < start(b) : end(a) < end(b); });
  build(child, first, middle, problem);
  build(child + 1, middle, last, problem);
}

int32_t ContainmentTree::best_rank_of_leaf(const Node& leaf) const {
  int32_t best = kNoRank;
  for (int32_t point = leaf.first; point < leaf.last; ++point) {
    best = std::min(best, points_[point].rank);
  }
  return best;
}

void ContainmentTree::set_ranks(const std::vector<int32_t>& ranks) {
  for (size_t point = 0; point < points_.size(); ++point) {
    const int32_t buffer = buffers_[point];
    const int32_t rank = ranks[buffer];
    points_[point].rank = rank;
    buffer_of_rank_[rank] = buffer;
  }
  // Children come after their parent.
  for (size_t node = nodes_.size(); node-- > 0;) {
    Node& self = nodes_[node];
    const auto child = self.child;
    self.min_rank =
        child == 0 ? best_rank_of_leaf(self) : std::min(nodes_[child].min_rank, nodes_[child + 1].min_rank);
  }
}

void ContainmentTree::search(int32_t node, int32_t left, int32_t right, int32_t& best) const {
  const Node& self = nodes_[node];
  if (self.min_rank >= best || self.max_start < left || self.min_end > right) return;
  if (self.min_start >= left && self.max_end <= right) {
    best = self.min_rank;
    return;
  }
  if (self.child == 0) {
    for (int32_t i = self.first; i < self.last; ++i) {
      const Point& point = points_[i];
      if (point.start >= left && point.end <= right && point.rank < best) best = point.rank;
    }
    return;
  }
  const int32_t other = nodes_[self.child].min_rank <= nodes_[self.child + 1].min_rank ? 0 : 1;
  search(self.child + other, left, right, best);
  search(self.child + 1 - other, left, right, best);
}

int32_t ContainmentTree::best_inside(int32_t left, int32_t right) const {
  int32_t best = kNoRank;
  if (!nodes_.empty()) search(0, left, right, best);
  return best == kNoRank ? -1 : buffer_of_rank_[best];
}

void ContainmentTree::remove(int32_t buffer) {
  points_[point_of_buffer_[buffer]].rank = kNoRank;
  int32_t node = leaf_of_buffer_[buffer];
  nodes_[node].min_rank = best_rank_of_leaf(nodes_[node]);
  for (node = nodes_[node].parent; node >= 0; node = nodes_[node].parent) {
    Node& self = nodes_[node];
    const auto child = self.child;
    const int32_t min_rank = std::min(nodes_[child].min_rank, nodes_[child + 1].min_rank);
    if (min_rank == self.min_rank) return;
    self.min_rank = min_rank;
  }
}

}  // namespace memomalloc::planner
