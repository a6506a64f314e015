// Which of some buffers are alive during a time?
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "planner/prepare.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

// A tree over blocks of buffers in the order of their births that knows the last end of those that were
// added. A query visits little more than what it finds.
class BirthIndex {
 public:
  // Borrows the problem. Nothing is added yet.
  explicit BirthIndex(const PreparedProblem& problem)
      : problem_(problem), added_(problem.sizes.size(), 0), born_before_(num_born_before(problem)) {
    const size_t num_blocks = (problem.sizes.size() + kBlock - 1) / kBlock;
    while (num_leaves_ < num_blocks) num_leaves_ *= 2;
    last_ends_.assign(2 * num_leaves_, 0);
  }

  void add(int32_t buffer) {
    added_[buffer] = 1;
    const int32_t end = problem_.ends[buffer];
    for (size_t node = num_leaves_ + static_cast<size_t>(buffer) / kBlock; node > 0 && last_ends_[node] < end;
         node /= 2) {
      last_ends_[node] = end;
    }
  }

  // Calls visit(buffer) for each that was added and is alive in one of the sections [start, end), by birth.
  template <typename Visit>
  void for_each_alive(int32_t start, int32_t end, Visit visit) const {
    // Those that start before `end`, and of these those that end after `start`.
    search(1, num_leaves_, born_before_[end], start, visit);
  }

 private:
  static constexpr size_t kBlock = 8;

  // `num_below`: leaves below the node; `last`: one past the last buffer that is asked for, from the node's
  // first on.
  template <typename Visit>
  void search(size_t node, size_t num_below, int64_t last, int32_t start, Visit& visit) const {
    if (last <= 0 || last_ends_[node] <= start) return;
    if (num_below > 1) {
      const size_t half = num_below / 2;
      search(2 * node, half, last, start, visit);
      search(2 * node + 1, half, last - static_cast<int64_t>(half * kBlock), start, visit);
      return;
    }
    const size_t first = (node - num_leaves_) * kBlock;
    const size_t end = std::min(added_.size(), first + std::min(kBlock, static_cast<size_t>(last)));
    for (size_t i = first; i < end; ++i) {
      if (added_[i] && problem_.ends[i] > start) visit(static_cast<int32_t>(i));
    }
  }

  const PreparedProblem& problem_;
  std::vector<char> added_;
  std::vector<int32_t> born_before_;  // as num_born_before says
  size_t num_leaves_ = 1;
  std::vector<int32_t> last_ends_;  // a heap over the blocks
};

}  // namespace memomalloc::planner
