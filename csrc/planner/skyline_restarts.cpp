#include "planner/skyline_restarts.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "planner/parts.hpp"
#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

constexpr double kSmallestSpread = 1e-3;
constexpr double kLargestSpread = 0.3;
constexpr double kShareFromOrders = 0.25;  // of the runs that start from an order and not from the best run

}  // namespace

SkylineRestarts::SkylineRestarts(const PreparedProblem& problem, uint64_t seed)
    : problem_(problem), random_(seed), builder_(problem) {
  const std::vector<int64_t> peak_loads = peak_load_of_each(problem);
  const auto n = static_cast<double>(problem.num_buffers);
  for (const SkylineOrder& order : kSkylineOrders) {
    std::vector<double> keys;
    for (int32_t rank : skyline_ranks(problem, peak_loads, order)) keys.push_back(rank / n);
    orders_.push_back(std::move(keys));
  }
  buffers_.resize(problem.sizes.size());
  ranks_.resize(problem.sizes.size());
}

void SkylineRestarts::run(int64_t target, Budget& budget) {
  do {
    next_keys(target);
    place();
    ++num_runs_;
    // Equally good counts as better: it lets the search drift over plateaus.
    if (num_runs_ == 1 || current_.height <= best_.height) {
      std::swap(best_, current_);
      std::swap(best_keys_, keys_);
    }
    budget.found(best_.height);
  } while (best_.height > target && !budget.spent());
}

void SkylineRestarts::next_keys(int64_t target) {
  if (num_runs_ < orders_.size()) {
    keys_ = orders_[num_runs_];
    return;
  }
  const bool from_orders = random_.uniform() < kShareFromOrders;
  keys_ = from_orders ? orders_[random_.below(orders_.size())] : best_keys_;
  const double spread = kSmallestSpread * std::pow(kLargestSpread / kSmallestSpread, random_.uniform());
  const bool favour_high = random_.below(3) == 0;
  for (size_t i = 0; i < keys_.size(); ++i) {
    keys_[i] += spread * random_.bell();
    if (favour_high && best_.offsets[i] + problem_.sizes[i] > target)
      keys_[i] -= spread * 3 * random_.uniform();
  }
}

void SkylineRestarts::place() {
  std::iota(buffers_.begin(), buffers_.end(), 0);
  std::sort(buffers_.begin(), buffers_.end(),
            [&](int32_t a, int32_t b) { return keys_[a] != keys_[b] ? keys_[a] < keys_[b] : a < b; });
  for (size_t rank = 0; rank < buffers_.size(); ++rank) ranks_[buffers_[rank]] = static_cast<int32_t>(rank);
  builder_.place(ranks_, current_);
}

Placement skyline_restarts(const PreparedProblem& problem, int64_t target, uint64_t seed, Budget& budget) {
  const auto improve = [&](const PreparedProblem& part, Placement, const Goal& goal, Budget& part_budget) {
    SkylineRestarts restarts(part, seed);
    restarts.run(goal.target, part_budget);
    return PartOutcome{restarts.best(), false};
  };
  return improve_parts(problem, skyline(problem, target, budget), {target, false}, budget, improve).placement;
}

}  // namespace memomalloc::planner
