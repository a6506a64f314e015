#include "planner/tree_search.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "planner/prepare.hpp"
#include "planner/skyline.hpp"

namespace memomalloc::planner {
namespace {

constexpr int64_t kUnitOfNodesPerBuffer = 2;
constexpr std::array<BranchOn, 4> kBranchings = {BranchOn::kFullestSection, BranchOn::kLowestFloor,
                                                 BranchOn::kFewestChoices, BranchOn::kFailures};
// Noise on the rank as a share of the number of buffers: one of these at random.
constexpr std::array<double, 4> kSpreads = {0.01, 0.02, 0.05, 0.1};
// What the first round spends on one capacity at most.
constexpr int64_t kFirstNodes = 50'000;
constexpr int64_t kNodesGrowth = 4;

// The i-th number of the sequence, i from 1.
int64_t luby(int64_t i) {
  while (true) {
    int64_t power = 1;
    while (2 * power - 1 < i) power *= 2;
    if (i == 2 * power - 1) return power;
    i -= power - 1;
  }
}

}  // namespace

TreeSearch::TreeSearch(const PreparedProblem& problem, uint64_t seed)
    : problem_(problem),
      random_(seed),
      tree_(problem),
      excluded_(problem.lower_bound - 1),
      num_nodes_per_question_(kFirstNodes) {
  const std::vector<int64_t> peak_loads = peak_load_of_each(problem);
  for (const SkylineOrder& order : kSkylineOrders)
    orders_.push_back(skyline_ranks(problem, peak_loads, order));
}

const std::vector<int32_t>& TreeSearch::next_ranks() {
  const auto round = static_cast<size_t>(num_runs_) / kBranchings.size();
  const std::vector<int32_t>& order = orders_[round % orders_.size()];
  if (round < orders_.size()) return order;
  const double spread = kSpreads[random_.below(kSpreads.size())] * static_cast<double>(order.size());
  std::vector<std::pair<double, int32_t>> keys;
  for (size_t i = 0; i < order.size(); ++i) {
    keys.emplace_back(order[i] + spread * random_.bell(), static_cast<int32_t>(i));
  }
  std::sort(keys.begin(), keys.end());
  perturbed_.resize(order.size());
  for (size_t rank = 0; rank < keys.size(); ++rank)
    perturbed_[keys[rank].second] = static_cast<int32_t>(rank);
  return perturbed_;
}

Verdict TreeSearch::fits(int64_t capacity, int64_t num_nodes, Budget& budget) {
  while (num_nodes > 0 && !budget.spent()) {
    const BranchOn branch_on = kBranchings[static_cast<size_t>(num_runs_) % kBranchings.size()];
    const int64_t round = num_runs_ / static_cast<int64_t>(kBranchings.size());
    const int64_t unit = 100 + kUnitOfNodesPerBuffer * problem_.num_buffers;
    const int64_t limit = unit * luby(round + 1);
    const Verdict verdict = tree_.search(capacity, branch_on, next_ranks(), limit, budget);
    ++num_runs_;
    num_nodes -= tree_.num_nodes();
    if (verdict != Verdict::kUnknown) return verdict;
  }
  return Verdict::kUnknown;
}

void TreeSearch::improve(Placement& best, const Goal& goal, Budget& budget) {
  const int64_t wanted = std::max(goal.target, excluded_ + 1);
  int64_t not_found = wanted - 1;
  int64_t capacity = wanted;
  while (not_found + 1 < best.height && best.height > goal.target && !budget.spent()) {
    const Verdict verdict = fits(capacity, num_nodes_per_question_, budget);
    if (verdict == Verdict::kFits) {
      best = tree_.placement();
      budget.found(best.height);
    } else {
      not_found = capacity;
      if (verdict == Verdict::kNone) excluded_ = capacity;
    }
    if (goal.decide) break;
    capacity = not_found + (best.height - not_found) / 2;
  }
  num_nodes_per_question_ *= kNodesGrowth;
}

bool TreeSearch::is_done(const Placement& best, const Goal& goal) const {
  return best.height <= goal.target || excluded_ + 1 >= best.height ||
         (goal.decide && excluded_ >= goal.target);
}

PartOutcome improve_by_tree_search(const PreparedProblem& part, Placement from, const Goal& goal,
                                   uint64_t seed, Budget& budget) {
  TreeSearch tree(part, seed);
  Placement best = std::move(from);
  while (!tree.is_done(best, goal) && !budget.spent()) tree.improve(best, goal, budget);
  const bool proven = tree.is_done(best, goal);
  return {std::move(best), proven};
}

}  // namespace memomalloc::planner
