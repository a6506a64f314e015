#include "planner/skyline_restarts.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "planner/parts.hpp"
#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

constexpr double kSmallestSpread = 1e-3;
constexpr double kLargestSpread = 0.3;
constexpr double kShareFromOrders = 0.25;  // of the runs that start from an order and not from the best run

}  // namespace

SkylineRestarts::SkylineRestarts(const PreparedProblem& problem, uint64_t seed)
    : problem_(problem), random_(seed) {}

void SkylineRestarts::run(int64_t target, Budget& budget, int64_t max_runs) {
  for (; max_runs > 0 && best_.height > target && !budget.spent(); --max_runs) {
    next_keys(target);
    if (!place(budget)) return;
    ++num_runs_;
    // Equally good counts as better: it lets the search drift over plateaus.
    if (current_.height <= best_.height) {
      std::swap(best_, current_);
      std::swap(best_keys_, keys_);
    }
    budget.found(best_.height);
  }
}

const std::vector<double>& SkylineRestarts::order(size_t which) {
  std::vector<double>& keys = orders_[which];
  if (keys.empty()) {
    if (peak_loads_.empty()) peak_loads_ = peak_load_of_each(problem_);
    const auto n = static_cast<double>(problem_.num_buffers);
    for (int32_t rank : skyline_ranks(problem_, peak_loads_, kSkylineOrders[which])) keys.push_back(rank / n);
  }
  return keys;
}

void SkylineRestarts::next_keys(int64_t target) {
  if (num_runs_ < orders_.size()) {
    keys_ = order(num_runs_);
    return;
  }
  const bool from_orders = random_.uniform() < kShareFromOrders;
  keys_ = from_orders ? order(random_.below(orders_.size())) : best_keys_;
  const double spread = kSmallestSpread * std::pow(kLargestSpread / kSmallestSpread, random_.uniform());
  const bool favour_high = random_.below(3) == 0;
  for (size_t i = 0; i < keys_.size(); ++i) {
    keys_[i] += spread * random_.bell();
    if (favour_high && best_.offsets[i] + problem_.sizes[i] > target)
      keys_[i] -= spread * 3 * random_.uniform();
  }
}

bool SkylineRestarts::place(Budget& budget) {
  if (builder_ == nullptr) builder_ = std::make_unique<SkylineBuilder>(problem_);
  buffers_.resize(problem_.sizes.size());
  ranks_.resize(problem_.sizes.size());
  std::iota(buffers_.begin(), buffers_.end(), 0);
  std::sort(buffers_.begin(), buffers_.end(),
            [&](int32_t a, int32_t b) { return keys_[a] != keys_[b] ? keys_[a] < keys_[b] : a < b; });
  for (size_t rank = 0; rank < buffers_.size(); ++rank) ranks_[buffers_[rank]] = static_cast<int32_t>(rank);
  return builder_->place(ranks_, current_, &budget);
}

Placement skyline_restarts(const PreparedProblem& problem, int64_t target, uint64_t seed, Budget& budget) {
  const auto improve = [&](const PreparedProblem& part, Placement from, const Goal& goal,
                           Budget& part_budget) {
    SkylineRestarts restarts(part, seed);
    restarts.run(goal.target, part_budget);
    return PartOutcome{restarts.best().height < from.height ? restarts.best() : std::move(from), false};
  };
  return improve_parts(problem, skyline(problem, target, budget), {target, false}, budget, improve).placement;
}

}  // namespace memomalloc::planner
