#include "planner/min_cost_flow.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "planner/greedy.hpp"
#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

constexpr int64_t kStepsPerClock = 200'000;  // about a millisecond
constexpr double kEnough_s = 1e9;

constexpr int64_t kInfinite = std::numeric_limits<int64_t>::max() / 4;

// Assigns each buffer a predecessor or none, by successive shortest paths over the residual flow, with
// potentials that keep all reduced costs at or above zero (Edmonds and Karp 1972). Columns [0, n) are the
// predecessors, column n + j stands for new memory of buffer j.
class CheapestPredecessors {
 public:
  CheapestPredecessors(const PreparedProblem& problem, Budget& budget)
      : problem_(problem),
        n_(problem.num_buffers),
        row_of_column_(2 * n_, -1),
        column_of_row_(n_, -1),
        budget_(budget, kStepsPerClock) {
    row_potential_.assign(n_, 0);
    column_potential_.assign(2 * n_, 0);
    for (int32_t row = 0; row < n_ && augment(row); ++row) {
    }
  }

  // -1: new memory.
  int32_t of(int32_t buffer) const { return column_of_row_[buffer] < n_ ? column_of_row_[buffer] : -1; }

 private:
  int64_t cost(int32_t row, int32_t column) const {
    if (column >= n_) return column - n_ == row ? problem_.sizes[row] : kInfinite;
    if (problem_.ends[column] > problem_.starts[row]) return kInfinite;
    return std::max<int64_t>(0, problem_.sizes[row] - problem_.sizes[column]);
  }

  // Dijkstra from a free row to the nearest free column, then flips the path. False if the budget was spent.
  bool augment(int32_t start) {
    distance_.assign(2 * n_, kInfinite);
    from_.assign(2 * n_, start);
    done_.assign(2 * n_, 0);
    int32_t row = start;
    int64_t travelled = 0;
    int32_t column = -1;
    while (true) {
      if (budget_.spent_after(n_)) return false;
      relax(row, travelled);
      column = -1;
      for (int32_t c = 0; c < 2 * n_; ++c) {
        if (!done_[c] && (column < 0 || distance_[c] < distance_[column])) column = c;
      }
      done_[column] = 1;
      travelled = distance_[column];
      if (row_of_column_[column] < 0) break;
      row = row_of_column_[column];
    }
    row_potential_[start] += travelled;
    for (int32_t c = 0; c < 2 * n_; ++c) {
      if (!done_[c] || c == column) continue;
      column_potential_[c] -= travelled - distance_[c];
      row_potential_[row_of_column_[c]] += travelled - distance_[c];
    }
    while (column >= 0) {
      const int32_t new_row = from_[column];
      row_of_column_[column] = new_row;
      std::swap(column_of_row_[new_row], column);
      if (new_row == start) break;
    }
    return true;
  }

  void relax(int32_t row, int64_t travelled) {
    const auto relax_column = [&](int32_t column) {
      if (done_[column]) return;
      const int64_t step = cost(row, column);
      if (step >= kInfinite) return;
      const int64_t distance = travelled + step - row_potential_[row] - column_potential_[column];
      if (distance < distance_[column]) {
        distance_[column] = distance;
        from_[column] = row;
      }
    };
    for (int32_t column = 0; column < n_; ++column) relax_column(column);
    relax_column(n_ + row);
  }

  const PreparedProblem& problem_;
  int32_t n_;
  std::vector<int32_t> row_of_column_;
  std::vector<int32_t> column_of_row_;
  PacedBudget budget_;
  std::vector<int64_t> row_potential_;
  std::vector<int64_t> column_potential_;
  std::vector<int64_t> distance_;
  std::vector<int32_t> from_;
  std::vector<char> done_;
};

}  // namespace

Placement min_cost_flow(const PreparedProblem& problem, Budget& budget) {
  if (problem.num_buffers > kMinCostFlowMaxBuffers)
    throw std::invalid_argument("min_cost_flow: too many buffers");
  const CheapestPredecessors predecessors(problem, budget);
  // Buffers are ordered by birth, so a predecessor has its object before its successor asks.
  std::vector<int64_t> object_sizes;
  std::vector<int32_t> object_of(problem.sizes.size());
  for (int32_t buffer = 0; buffer < problem.num_buffers; ++buffer) {
    const int32_t predecessor = predecessors.of(buffer);
    if (predecessor < 0) object_sizes.push_back(0);
    object_of[buffer] =
        predecessor < 0 ? static_cast<int32_t>(object_sizes.size()) - 1 : object_of[predecessor];
    int64_t& size = object_sizes[object_of[buffer]];
    size = std::max(size, problem.sizes[buffer]);
  }
  std::vector<int64_t> bases(object_sizes.size(), 0);
  std::partial_sum(object_sizes.begin(), object_sizes.end(), bases.begin());
  Placement placement;
  for (int32_t object : object_of) placement.offsets.push_back(bases[object] - object_sizes[object]);
  placement.height = bases.empty() ? 0 : bases.back();
  if (problem.alignments.empty()) return placement;
  const std::vector<int32_t> order = order_by(placement.offsets);
  // So few buffers take no time that a budget would have to bound.
  Budget enough(kEnough_s, nullptr);
  return place_in_order(problem, order, GreedyFit::kFirst, enough).value();
}

double min_cost_flow_cost_ns(const PreparedProblem& problem) {
  const double n = problem.num_buffers;
  return n * n * n;
}

}  // namespace memomalloc::planner
