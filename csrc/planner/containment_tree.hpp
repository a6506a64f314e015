// Which unplaced buffer comes next among those whose lifetime lies inside an interval?
#pragma once

#include <cstdint>
#include <vector>

#include "planner/problem.hpp"

namespace memomalloc::planner {

// A kd-tree over the points (start, end) of all buffers. Each node knows the smallest rank below it; a buffer
// is deleted by giving it no rank. The shape depends on the lifetimes only and is built once in O(n log n);
// setting other ranks is O(n). A query visits O(sqrt n) nodes at worst, few in practice.
class ContainmentTree {
 public:
  explicit ContainmentTree(const PreparedProblem& problem);

  // Gives buffer i the rank ranks[i] (smaller is better, each once) and brings back deleted buffers.
  void set_ranks(const std::vector<int32_t>& ranks);

  // The best buffer with start >= left and end <= right, or -1.
  int32_t best_inside(int32_t left, int32_t right) const;

  void remove(int32_t buffer);

 private:
  struct Node {
    int32_t min_start, max_start, min_end, max_end;
    int32_t min_rank;
    int32_t first, last;  // its points
    int32_t parent;
    int32_t child;  // its two children are child and child + 1; 0: a leaf
  };
  struct Point {
    int32_t start, end, rank;
  };

  void build(int32_t node, int32_t first, int32_t last, const PreparedProblem& problem);
  void search(int32_t node, int32_t left, int32_t right, int32_t& best) const;
  int32_t best_rank_of_leaf(const Node& leaf) const;

  std::vector<Node> nodes_;
  std::vector<Point> points_;
  std::vector<int32_t> buffers_;  // the buffer of each point
  std::vector<int32_t> point_of_buffer_;
  std::vector<int32_t> leaf_of_buffer_;
  std::vector<int32_t> buffer_of_rank_;
};

}  // namespace memomalloc::planner
