#include "planner/tree_search.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "planner/prepare.hpp"
#include "planner/skyline.hpp"

namespace memomalloc::planner {
namespace {

constexpr int64_t kUnitOfNodes = 100;  // and one for each buffer
constexpr std::array<BranchOn, 4> kBranchings = {BranchOn::kFullestSection, BranchOn::kLowestFloor,
                                                 BranchOn::kFewestChoices, BranchOn::kFailures};
// Noise on the keys, which are between 0 and 1: one of these at random.
constexpr std::array<double, 4> kSpreads = {0.01, 0.02, 0.05, 0.1};
// For the unperturbed orders, which are often enough.
constexpr int64_t kFirstUnits = 2;
// One run of so many goes to each strategy in turn, the others to those with the best scores.
constexpr size_t kRunsPerTurn = 4;
// Of the runs, those that start from the keys that came furthest with the strategy, and not from its order.
constexpr double kShareFromBest = 0.5;
// A score is the share of the buffers that were placed at a time, to this power.
constexpr double kScorePower = 4;
constexpr double kLeastScore = 1e-6;
// What the first round spends on its first question at most, times the number of buffers: a node costs about
// as much as there are buffers.
constexpr int64_t kFirstNodesTimesBuffers = 10'000'000;
constexpr int64_t kNodesGrowth = 4;

int64_t num_halvings(int64_t range) {
  int64_t num = 1;
  for (; range > 2; range /= 2) ++num;
  return num;
}

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
      num_nodes_in_round_(kFirstNodesTimesBuffers / problem.num_buffers) {
  const std::vector<int64_t> peak_loads = peak_load_of_each(problem);
  for (const SkylineOrder& order : kSkylineOrders)
    orders_.push_back(skyline_ranks(problem, peak_loads, order));
  for (size_t order = 0; order < orders_.size(); ++order) {
    for (BranchOn branch_on : kBranchings) strategies_.push_back({branch_on, order});
  }
  buffers_.resize(problem.sizes.size());
  ranks_.resize(problem.sizes.size());
}

TreeSearch::Strategy& TreeSearch::next_strategy() {
  const auto turn = static_cast<size_t>(num_runs_);
  if (turn < strategies_.size()) return strategies_[turn];
  if (turn % kRunsPerTurn == 0) return strategies_[turn / kRunsPerTurn % strategies_.size()];
  double sum = 0;
  for (const Strategy& strategy : strategies_) sum += strategy.mean_score();
  double left = sum * random_.uniform();
  for (Strategy& strategy : strategies_) {
    left -= strategy.mean_score();
    if (left < 0) return strategy;
  }
  return strategies_.back();
}

void TreeSearch::next_ranks(const Strategy& strategy) {
  const std::vector<int32_t>& order = orders_[strategy.order];
  const auto n = static_cast<double>(order.size());
  const bool is_first = strategy.num_runs == 0;
  if (!is_first && random_.uniform() < kShareFromBest) {
    keys_ = strategy.best_keys;
  } else {
    keys_.resize(order.size());
    for (size_t i = 0; i < order.size(); ++i) keys_[i] = order[i] / n;
  }
  if (!is_first) {
    const double spread = kSpreads[random_.below(kSpreads.size())];
    for (double& key : keys_) key += spread * random_.bell();
  }
  std::iota(buffers_.begin(), buffers_.end(), 0);
  std::sort(buffers_.begin(), buffers_.end(),
            [&](int32_t a, int32_t b) { return keys_[a] != keys_[b] ? keys_[a] < keys_[b] : a < b; });
  for (size_t rank = 0; rank < buffers_.size(); ++rank) ranks_[buffers_[rank]] = static_cast<int32_t>(rank);
}

void TreeSearch::learn(Strategy& strategy) {
  const double share_placed = static_cast<double>(tree_.most_placed()) / problem_.num_buffers;
  const double score = std::pow(share_placed, kScorePower) + kLeastScore;
  ++strategy.num_runs;
  strategy.sum_of_scores += score;
  if (score < strategy.best_score) return;
  strategy.best_score = score;
  strategy.best_keys = keys_;
}

Verdict TreeSearch::fits(int64_t capacity, int64_t num_nodes, Budget& budget) {
  while (num_nodes > 0 && !budget.spent()) {
    Strategy& strategy = next_strategy();
    next_ranks(strategy);
    const int64_t unit = kUnitOfNodes + problem_.num_buffers;
    const int64_t round = num_runs_ / static_cast<int64_t>(strategies_.size());
    const int64_t limit = unit * (round == 0 ? kFirstUnits : luby(round));
    const Verdict verdict = tree_.search(capacity, strategy.branch_on, ranks_, limit, budget);
    learn(strategy);
    ++num_runs_;
    num_nodes -= tree_.num_nodes();
    num_nodes_ += tree_.num_nodes();
    if (verdict != Verdict::kUnknown) return verdict;
  }
  return Verdict::kUnknown;
}

void TreeSearch::improve(Placement& best, const Goal& goal, Budget& budget) {
  const int64_t wanted = std::max(goal.target, excluded_ + 1);
  int64_t not_found = wanted - 1;
  int64_t capacity = wanted;
  int64_t num_nodes = num_nodes_in_round_;
  while (not_found + 1 < best.height && best.height > goal.target && !budget.spent()) {
    const Verdict verdict = fits(capacity, num_nodes, budget);
    if (verdict == Verdict::kFits) {
      best = tree_.placement();
      budget.found(best.height);
    } else {
      not_found = capacity;
      if (verdict == Verdict::kNone) excluded_ = capacity;
    }
    if (goal.decide) break;
    if (capacity == wanted) num_nodes = num_nodes_in_round_ / num_halvings(best.height - not_found);
    capacity = not_found + (best.height - not_found) / 2;
  }
  num_nodes_in_round_ *= kNodesGrowth;
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
