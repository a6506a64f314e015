#include "planner/tree_search.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <new>
#include <numeric>
#include <utility>

#include "planner/luby.hpp"
#include "planner/prepare.hpp"
#include "planner/skyline.hpp"

namespace memomalloc::planner {
namespace {

constexpr int64_t kUnitOfDeadEnds = 200;
constexpr std::array<BranchOn, 4> kBranchings = {BranchOn::kFullestSection, BranchOn::kLowestFloor,
                                                 BranchOn::kFewestChoices, BranchOn::kFailures};
// Noise on the keys, which are between 0 and 1: one of these at random.
constexpr std::array<double, 4> kSpreads = {0.01, 0.02, 0.05, 0.1};
// For the unperturbed orders, which are often enough.
constexpr int64_t kFirstUnits = 2;
// One run of so many goes to each strategy in turn, the others to those with the best scores.
constexpr size_t kRunsPerTurn = 8;
// Of the runs, those that start from the keys that came furthest with the strategy, and not from its order.
constexpr double kShareFromBest = 0.5;
// A score is the share of the buffers that were placed at a time, to this power.
constexpr double kScorePower = 8;
constexpr double kLeastScore = 1e-6;
// Shares of the way from the target to the best placement.
constexpr std::array<double, 4> kRungs = {0, 0.5, 0.8, 0.95};
// The target can be reached more often than not: it gets as many nodes as so many others; and the more, the
// further its runs came.
constexpr double kWeightOfTarget = 3;
constexpr double kMoreForTarget = 12;
constexpr double kTargetPower = 4;

// A run begins by going through the lists of neighbours and sections. What placing a buffer changes are its
// neighbours, in all sections that they live in.
constexpr double kStartCostPerByte_ns = 1;
constexpr double kNodeCostPerByte_ns = 12;
constexpr double kLeastNodeCost_ns = 2000;

TreeSearchCost cost_of(const PreparedProblem& problem) {
  const auto num_bytes = static_cast<double>(BranchAndBound::memory_of(problem));
  return {kStartCostPerByte_ns * num_bytes,
          std::max(kLeastNodeCost_ns, kNodeCostPerByte_ns * num_bytes / problem.num_buffers)};
}

}  // namespace

double tree_search_run_cost_ns(const PreparedProblem& problem) {
  const TreeSearchCost cost = cost_of(problem);
  return cost.start_ns + problem.num_buffers * cost.node_ns;
}

bool is_small_enough_for_tree_search(const PreparedProblem& problem) {
  return problem.num_buffers <= kTreeSearchMaxBuffers &&
         BranchAndBound::memory_of(problem) <= kTreeSearchMaxMemory;
}

TreeSearch::TreeSearch(const PreparedProblem& problem, uint64_t seed)
    : problem_(problem),
      random_(seed),
      tree_(problem),
      excluded_(problem.lower_bound - 1),
      cost_(cost_of(problem)),
      work_ns_(cost_.start_ns) {
  const std::vector<int64_t> peak_loads = peak_load_of_each(problem);
  for (const SkylineOrder& order : kSkylineOrders)
    orders_.push_back(skyline_ranks(problem, peak_loads, order));
  for (double height : kRungs) {
    rungs_.push_back({height});
    for (size_t order = 0; order < orders_.size(); ++order) {
      for (BranchOn branch_on : kBranchings) rungs_.back().strategies.push_back({branch_on, order});
    }
  }
  buffers_.resize(problem.sizes.size());
  ranks_.resize(problem.sizes.size());
}

TreeSearch::Strategy& TreeSearch::next_strategy(Rung& rung) {
  std::vector<Strategy>& strategies = rung.strategies;
  const auto turn = static_cast<size_t>(rung.num_runs);
  if (turn < strategies.size()) return strategies[turn];
  if (turn % kRunsPerTurn == 0) return strategies[turn / kRunsPerTurn % strategies.size()];
  double sum = 0;
  for (const Strategy& strategy : strategies) sum += strategy.mean_score();
  double left = sum * random_.uniform();
  for (Strategy& strategy : strategies) {
    left -= strategy.mean_score();
    if (left < 0) return strategy;
  }
  return strategies.back();
}

void TreeSearch::next_ranks(const Strategy& strategy) {
  const std::vector<int32_t>& order = orders_[strategy.order];
  const auto n = static_cast<float>(order.size());
  const bool is_first = strategy.num_runs == 0;
  if (!strategy.best_keys.empty() && random_.uniform() < kShareFromBest) {
    keys_ = strategy.best_keys;
  } else {
    keys_.resize(order.size());
    for (size_t i = 0; i < order.size(); ++i) keys_[i] = static_cast<float>(order[i]) / n;
  }
  if (!is_first) {
    const double spread = kSpreads[random_.below(kSpreads.size())];
    for (float& key : keys_) key += static_cast<float>(spread * random_.bell());
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

TreeSearch::Rung& TreeSearch::next_rung(int64_t lowest, int64_t highest, bool decide) {
  // The one that had the least work for its weight.
  Rung* next = &rungs_.front();
  if (!decide) {
    const double weight = kWeightOfTarget + kMoreForTarget * std::pow(most_placed_at_target(), kTargetPower);
    double least_ns = next->work_ns / weight;
    for (size_t i = 1; i < rungs_.size(); ++i) {
      if (rungs_[i].work_ns >= least_ns) continue;
      next = &rungs_[i];
      least_ns = next->work_ns;
    }
  }
  const int64_t capacity =
      lowest + static_cast<int64_t>(next->height * static_cast<double>(highest - 1 - lowest));
  if (capacity != next->capacity) {
    // How far a run comes depends on the capacity; the priorities that came furthest are a good start still.
    for (Strategy& strategy : next->strategies) strategy.best_score = 0;
    next->capacity = capacity;
  }
  return *next;
}

Verdict TreeSearch::run(Rung& rung, Budget& budget) {
  Strategy& strategy = next_strategy(rung);
  next_ranks(strategy);
  const int64_t round = rung.num_runs / static_cast<int64_t>(rung.strategies.size());
  const int64_t limit = kUnitOfDeadEnds * (round == 0 ? kFirstUnits : luby(round));
  const Verdict verdict = tree_.search(rung.capacity, strategy.branch_on, ranks_, limit, budget);
  learn(strategy);
  ++rung.num_runs;
  const double work_ns = cost_.start_ns + cost_.node_ns * static_cast<double>(tree_.num_nodes());
  rung.work_ns += work_ns;
  work_ns_ += work_ns;
  if (&rung == &rungs_.front())
    most_placed_at_target_ = std::max(most_placed_at_target_, tree_.most_placed());
  return verdict;
}

void TreeSearch::improve(Placement& best, const Goal& goal, double work_ns, Budget& budget) {
  const double last_ns = work_ns_ + work_ns;
  while (work_ns_ < last_ns && !is_done(best, goal) && !budget.spent()) {
    const int64_t lowest = std::max(goal.target, excluded_ + 1);
    Rung& rung = next_rung(lowest, best.height, goal.decide);
    const int64_t capacity = rung.capacity;
    const Verdict verdict = run(rung, budget);
    if (verdict == Verdict::kFits) {
      best = tree_.placement();
      budget.found(best.height);
    } else if (verdict == Verdict::kNone) {
      excluded_ = std::max(excluded_, capacity);
    }
  }
}

bool TreeSearch::is_done(const Placement& best, const Goal& goal) const {
  return best.height <= goal.target || excluded_ + 1 >= best.height ||
         (goal.decide && excluded_ >= goal.target);
}

PartOutcome improve_by_tree_search(const PreparedProblem& part, Placement from, const Goal& goal,
                                   uint64_t seed, Budget& budget) {
  if (!is_small_enough_for_tree_search(part)) return {std::move(from), false};
  Placement best = std::move(from);
  bool proven = false;
  try {
    TreeSearch tree(part, seed);
    tree.improve(best, goal, std::numeric_limits<double>::infinity(), budget);
    proven = tree.is_done(best, goal);
  } catch (const std::bad_alloc&) {
    // What was found before memory ran out.
  }
  return {std::move(best), proven};
}

}  // namespace memomalloc::planner
