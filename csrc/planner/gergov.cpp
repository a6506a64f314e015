#include "planner/gergov.hpp"

#include <algorithm>
#include <list>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "planner/greedy.hpp"
#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

constexpr int64_t kStepsPerClock = 500'000;  // about a millisecond

struct Segment {
  int64_t height;
  int32_t left;
  int32_t right;
};

// The unplaced buffer whose lifetime meets the segment longest, or -1.
int32_t longest_meeting(const PreparedProblem& problem, const std::vector<int32_t>& unplaced,
                        const Segment& segment) {
  int32_t best = -1;
  int32_t longest = 0;
  for (int32_t buffer : unplaced) {
    const int32_t common =
        std::min(problem.ends[buffer], segment.right) - std::max(problem.starts[buffer], segment.left);
    if (common > longest) {
      best = buffer;
      longest = common;
    }
  }
  return best;
}

// Offsets within the lower bound; buffers that are alive together may overlap.
std::optional<std::vector<int64_t>> build_towers(const PreparedProblem& problem, Budget& budget) {
  std::vector<int64_t> offsets(problem.sizes.size(), 0);
  std::vector<int32_t> unplaced(problem.sizes.size());
  std::iota(unplaced.begin(), unplaced.end(), 0);
  std::list<Segment> roof = {{0, 0, problem.num_sections}};
  PacedBudget paced(budget, kStepsPerClock);
  while (!unplaced.empty()) {
    if (paced.spent_after(static_cast<int64_t>(roof.size() + unplaced.size()))) return std::nullopt;
    const auto lowest = std::min_element(
        roof.begin(), roof.end(), [](const Segment& a, const Segment& b) { return a.height < b.height; });
    const int32_t buffer = longest_meeting(problem, unplaced, *lowest);
    if (buffer < 0) {
      // Nothing will be placed here any more: leave it to the neighbours.
      if (lowest != roof.begin()) {
        std::prev(lowest)->right = lowest->right;
      } else {
        std::next(lowest)->left = lowest->left;
      }
      roof.erase(lowest);
      continue;
    }
    const int32_t left = std::max(problem.starts[buffer], lowest->left);
    const int32_t right = std::min(problem.ends[buffer], lowest->right);
    offsets[buffer] = lowest->height;
    unplaced.erase(std::lower_bound(unplaced.begin(), unplaced.end(), buffer));
    if (left > lowest->left) roof.insert(lowest, {lowest->height, lowest->left, left});
    if (right < lowest->right) roof.insert(std::next(lowest), {lowest->height, right, lowest->right});
    *lowest = {lowest->height + problem.sizes[buffer], left, right};
  }
  return offsets;
}

}  // namespace

std::optional<Placement> gergov(const PreparedProblem& problem, Budget& budget, int64_t cutoff) {
  if (problem.num_buffers > kGergovMaxBuffers) throw std::invalid_argument("gergov: too many buffers");
  const std::optional<std::vector<int64_t>> towers = build_towers(problem, budget);
  if (!towers) return std::nullopt;
  const std::vector<int64_t>& offsets = *towers;
  std::vector<int32_t> by_offset = order_by(offsets);

  // The first colour that none of those has that share bytes while alive.
  std::vector<int32_t> colours(problem.sizes.size(), -1);
  std::vector<char> taken;
  PacedBudget paced(budget, kStepsPerClock);
  for (size_t i = 0; i < by_offset.size(); ++i) {
    if (paced.spent_after(static_cast<int64_t>(i))) return std::nullopt;
    const int32_t buffer = by_offset[i];
    taken.assign(i + 1, 0);
    for (size_t j = 0; j < i; ++j) {
      const int32_t other = by_offset[j];
      const bool alive =
          problem.starts[other] < problem.ends[buffer] && problem.starts[buffer] < problem.ends[other];
      if (alive && offsets[other] + problem.sizes[other] > offsets[buffer]) taken[colours[other]] = 1;
    }
    colours[buffer] = static_cast<int32_t>(std::find(taken.begin(), taken.end(), 0) - taken.begin());
  }
  std::stable_sort(by_offset.begin(), by_offset.end(),
                   [&](int32_t a, int32_t b) { return colours[a] < colours[b]; });
  return place_in_order(problem, by_offset, GreedyFit::kFirst, budget, cutoff);
}

double gergov_cost_ns(const PreparedProblem& problem) {
  const double n = problem.num_buffers;
  return 3 * n * n;
}

}  // namespace memomalloc::planner
