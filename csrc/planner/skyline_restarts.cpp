#include "planner/skyline_restarts.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "planner/greedy.hpp"
#include "planner/parts.hpp"
#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

constexpr double kSmallestSpread = 1e-3;
constexpr double kLargestSpread = 0.3;
constexpr double kShareFromOrders = 0.25;  // of the runs that start from an order and not from the best run
constexpr double kShareOfAll = 0.25;       // of the other runs, those that perturb all keys

// How much of the placed buffers lies above a height, in bytes times sections.
double area_above(int64_t height, const PreparedProblem& problem, const Placement& placement) {
  double area = 0;
  for (int32_t i = 0; i < problem.num_buffers; ++i) {
    const int64_t bytes = std::min(problem.sizes[i], placement.offsets[i] + problem.sizes[i] - height);
    if (bytes > 0) area += static_cast<double>(bytes) * problem.width(i);
  }
  return area;
}

}  // namespace

SkylineRestarts::SkylineRestarts(const PreparedProblem& problem, size_t best_order, uint64_t seed,
                                 Builder builder)
    : problem_(problem), random_(seed), best_order_(best_order), builder_(builder) {}

void SkylineRestarts::run(int64_t target, Budget& budget, int64_t max_runs) {
  for (; max_runs > 0 && best_.height > target && !budget.spent(); --max_runs) {
    next_keys(target);
    if (!place(budget)) continue;
    // Of equal heights, the one that has less above the target; equally good counts as better: it lets the
    // search drift over plateaus.
    const double excess = area_above(target, problem_, current_);
    if (current_.height == best_.height && excess > best_excess_) continue;
    best_excess_ = excess;
    std::swap(best_, current_);
    std::swap(best_keys_, keys_);
    budget.found(best_.height);
  }
}

const std::vector<float>& SkylineRestarts::order(size_t which) {
  std::vector<float>& keys = orders_[which];
  if (keys.empty()) {
    if (peak_loads_.empty()) peak_loads_ = peak_load_of_each(problem_);
    const auto n = static_cast<float>(problem_.num_buffers);
    for (int32_t rank : skyline_ranks(problem_, peak_loads_, kSkylineOrders[which])) {
      keys.push_back(static_cast<float>(rank) / n);
    }
  }
  return keys;
}

void SkylineRestarts::next_keys(int64_t target) {
  double share = 1;  // of the keys that are perturbed
  if (best_keys_.empty() || random_.uniform() < kShareFromOrders) {
    keys_ = order(best_keys_.empty() ? best_order_ : random_.below(orders_.size()));
  } else {
    keys_ = best_keys_;
    if (random_.uniform() >= kShareOfAll) share = std::pow(problem_.num_buffers, -random_.uniform());
  }
  const double spread = kSmallestSpread * std::pow(kLargestSpread / kSmallestSpread, random_.uniform());
  const bool favour_high = random_.below(3) == 0 && !best_.offsets.empty();
  for (size_t i = 0; i < keys_.size(); ++i) {
    if (share < 1 && random_.uniform() >= share) continue;
    keys_[i] += static_cast<float>(spread * random_.bell());
    if (favour_high && best_.offsets[i] + problem_.sizes[i] > target)
      keys_[i] -= static_cast<float>(spread * 3 * random_.uniform());
  }
}

bool SkylineRestarts::place(Budget& budget) {
  buffers_.resize(problem_.sizes.size());
  std::iota(buffers_.begin(), buffers_.end(), 0);
  std::sort(buffers_.begin(), buffers_.end(),
            [&](int32_t a, int32_t b) { return keys_[a] != keys_[b] ? keys_[a] < keys_[b] : a < b; });
  const int64_t cutoff = best_.height == kNoCutoff ? kNoCutoff : best_.height + 1;
  if (builder_ == Builder::kFirstFit) {
    auto placed = place_in_order(problem_, buffers_, GreedyFit::kFirst, budget, cutoff);
    if (placed) current_ = std::move(*placed);
    return placed.has_value();
  }
  if (skyline_ == nullptr) skyline_ = std::make_unique<SkylineBuilder>(problem_);
  ranks_.resize(problem_.sizes.size());
  for (size_t rank = 0; rank < buffers_.size(); ++rank) ranks_[buffers_[rank]] = static_cast<int32_t>(rank);
  return skyline_->place(ranks_, current_, budget, cutoff);
}

Placement skyline_restarts(const PreparedProblem& problem, SkylineOutcome from, int64_t target, uint64_t seed,
                           Budget& budget) {
  const auto improve = [&](const PreparedProblem& part, Placement best, const Goal& goal, uint64_t round,
                           Budget& part_budget) {
    SkylineRestarts restarts(part, from.order, seed + round);
    restarts.run(goal.target, part_budget);
    return PartOutcome{restarts.best().height < best.height ? restarts.best() : std::move(best), false};
  };
  return improve_parts(problem, std::move(from.placement), {target, false}, budget, improve).placement;
}

}  // namespace memomalloc::planner
