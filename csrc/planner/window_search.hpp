// Lowers a placement where it is highest, a short time at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <queue>
#include <utility>
#include <vector>

#include "planner/birth_index.hpp"
#include "planner/budget.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

// Where there are many buffers, few of them make a placement as high as it is. This takes the highest, a
// window of time around it, and plans anew what lives inside the window alone, by greedy orders and a short
// tree search; what lives beyond it stays where it is, as if it were pinned. A window needs to be no lower
// than those before turned out to be, so that the search ends where the highest cannot be lowered, and begins
// again with larger windows and more nodes. Deterministic for a seed and an amount of work.
class WindowSearch {
 public:
  // Borrows the problem. O(n) memory.
  WindowSearch(const PreparedProblem& problem, uint64_t seed);

  // Lowers `best` until it is within the target, so much work was done, about, or the budget is spent; goes
  // on from where the last one ended. A round that did not help is followed by one of more effort.
  void improve(Placement& best, int64_t target, double work_ns, Budget& budget);

  // Of all rounds, in nanoseconds, about.
  double work_ns() const { return work_ns_; }

  // No larger window, no more nodes will be tried.
  bool is_done() const { return effort_ > kMaxEffort; }

 private:
  static constexpr int64_t kMaxEffort = int64_t{1} << 20;

  using Item = std::pair<int64_t, int32_t>;  // a top and its buffer

  void begin_round(const Placement& best, int64_t target);
  // Plans a window around a buffer anew. Returns the height that its free buffers have then.
  int64_t lower_window(int32_t buffer, Placement& best, Budget& budget);
  // With so many births before and after it.
  int64_t lower_window(int32_t buffer, int32_t num_births, Placement& best, Budget& budget);

  const PreparedProblem& problem_;
  uint64_t seed_;
  BirthIndex index_;
  int64_t effort_ = 1;
  double work_ns_ = 0;
  // The round that goes on.
  std::priority_queue<Item> highest_;
  int64_t floor_ = 0;  // no window needs to be lower
  int64_t height_at_start_ = 0;
  int64_t height_ = kNoCutoff;   // when it was left last
  std::vector<int32_t> free_;    // of the last window
  std::vector<int32_t> beyond_;  // alive in it, and before or after it
};

}  // namespace memomalloc::planner
