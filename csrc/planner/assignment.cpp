#include "planner/assignment.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "planner/prepare.hpp"
#include "planner/random.hpp"

namespace memomalloc::planner {
namespace {

constexpr int kMaxPrices = 3000;
// In steps of the loops over slabs.
constexpr double kMaxPriceWork = 1e8;
constexpr int kPricesPerGuess = 40;
// The share of the last direction that the next one keeps.
constexpr double kMomentum = 0.6;
constexpr int kPatience = 15;
constexpr double kShareOfPrices = 0.2;
constexpr double kShareOfGuess = 0.2;
constexpr size_t kMaxGuesses = 24;
// Of what is left, for whether one improvement fits.
constexpr double kShareOfImprovement = 0.05;
constexpr size_t kFewBodies = 30;
constexpr double kShareOfImprovements = 0.9;
// Of the cost, what is accepted more at the beginning, in the mean.
constexpr double kHeat = 0.004;
// Of the cost, for sums of floating point numbers.
constexpr double kTolerance = 1e-9;
// Deeper searches would need too much stack.
constexpr size_t kMaxBodiesOfSearch = 20'000;

// Largest loads over ranges of sections, with addition to ranges.
class LoadTree {
 public:
  explicit LoadTree(size_t num_sections) {
    while (num_leaves_ < std::max<size_t>(1, num_sections)) num_leaves_ *= 2;
    largest_.assign(2 * num_leaves_, 0);
    added_.assign(2 * num_leaves_, 0);
  }
  void add(size_t left, size_t right, int64_t bytes) { add(1, 0, num_leaves_, left, right, bytes); }
  int64_t largest(size_t left, size_t right) const { return largest(1, 0, num_leaves_, left, right); }

 private:
  void add(size_t node, size_t low, size_t high, size_t left, size_t right, int64_t bytes) {
    if (right <= low || high <= left) return;
    if (left <= low && high <= right) {
      largest_[node] += bytes;
      added_[node] += bytes;
      return;
    }
    const size_t middle = (low + high) / 2;
    add(2 * node, low, middle, left, right, bytes);
    add(2 * node + 1, middle, high, left, right, bytes);
    largest_[node] = added_[node] + std::max(largest_[2 * node], largest_[2 * node + 1]);
  }
  int64_t largest(size_t node, size_t low, size_t high, size_t left, size_t right) const {
    if (right <= low || high <= left) return std::numeric_limits<int64_t>::min() / 2;
    if (left <= low && high <= right) return largest_[node];
    const size_t middle = (low + high) / 2;
    return added_[node] + std::max(largest(2 * node, low, middle, left, right),
                                   largest(2 * node + 1, middle, high, left, right));
  }

  size_t num_leaves_ = 1;
  std::vector<int64_t> largest_;
  std::vector<int64_t> added_;
};

// Bytes in use over sections.
struct Use {
  size_t left;
  size_t right;
  int64_t bytes;
};

class Assigner {
 public:
  Assigner(const DeviceProblem& problem, const Bodies& bodies, const Assignment& from, const Realise& realise,
           uint64_t seed, Budget& budget)
      : memories_(problem.memories),
        bodies_(bodies.bodies),
        from_(from),
        realise_(realise),
        random_(seed),
        budget_(budget),
        num_memories_(problem.memories.size()) {
    find_uses();
    for (size_t m = 0; m < num_memories_; ++m) loads_.emplace_back(num_sections_);
    prices_.assign(num_memories_, std::vector<double>(num_sections_ + 1, 0));
    for (const Body& body : bodies_) outcome_.lower_bound += *cheapest(body);
  }

  AssignmentOutcome assign() {
    if (from_.size() == bodies_.size()) try_guess(from_);
    find_prices();
    for (const std::pair<int64_t, Assignment>& guess : guesses_) {
      if (is_done() || (!outcome_.best.empty() && guess.first >= outcome_.cost)) break;
      try_guess(guess.second);
      // The first one is tried whatever the time.
      if (budget_.spent()) break;
    }
    // Where there are few, all assignments will be looked at.
    if (bodies_.size() > kFewBodies) improve();
    if (!is_done() && !budget_.spent() && bodies_.size() <= kMaxBodiesOfSearch) search();
    if (!is_done() && !outcome_.proven && bodies_.size() <= kFewBodies) improve();
    if (is_done()) outcome_.proven = true;
    if (outcome_.proven && !outcome_.best.empty()) outcome_.lower_bound = outcome_.cost;
    return std::move(outcome_);
  }

 private:
  static const int64_t* cheapest(const Body& body) {
    const int64_t* best = nullptr;
    for (const int64_t& cost : body.costs) {
      if (cost != kForbidden && (best == nullptr || cost < *best)) best = &cost;
    }
    return best;
  }

  void find_uses() {
    std::vector<int64_t> ticks;
    for (const Body& body : bodies_) {
      for (const Slab& slab : body.slabs) {
        ticks.push_back(slab.start);
        ticks.push_back(slab.end);
      }
    }
    std::sort(ticks.begin(), ticks.end());
    ticks.erase(std::unique(ticks.begin(), ticks.end()), ticks.end());
    num_sections_ = ticks.empty() ? 1 : ticks.size();
    const auto section = [&](int64_t tick) {
      return static_cast<size_t>(std::lower_bound(ticks.begin(), ticks.end(), tick) - ticks.begin());
    };
    uses_.resize(bodies_.size());
    for (size_t i = 0; i < bodies_.size(); ++i) {
      for (const Slab& slab : bodies_[i].slabs) {
        uses_[i].push_back({section(slab.start), section(slab.end), slab.upper - slab.lower});
        ++num_uses_;
      }
    }
  }

  bool may_lie(size_t body, size_t memory) const { return bodies_[body].costs[memory] != kForbidden; }
  bool is_bounded(size_t memory) const { return memories_[memory].capacity >= 0; }
  bool is_done() const { return !outcome_.best.empty() && outcome_.cost <= outcome_.lower_bound; }

  void put(size_t body, size_t memory, int64_t sign) {
    if (!is_bounded(memory)) return;
    for (const Use& use : uses_[body]) loads_[memory].add(use.left, use.right, sign * use.bytes);
  }

  // Whether the bytes of a memory are enough, tick by tick. A body's slabs of one time add up: so it is put
  // there first.
  bool has_room(size_t body, size_t memory) {
    if (!is_bounded(memory)) return true;
    put(body, memory, 1);
    const bool fits = is_within(body, memory);
    put(body, memory, -1);
    return fits;
  }

  int64_t cost_of(const Assignment& assignment) const {
    int64_t cost = 0;
    for (size_t i = 0; i < assignment.size(); ++i)
      cost += bodies_[i].costs[static_cast<size_t>(assignment[i])];
    return cost;
  }

  void try_guess(const Assignment& guess) {
    for (size_t i = 0; i < guess.size(); ++i) {
      if (guess[i] < 0 || !may_lie(i, static_cast<size_t>(guess[i]))) return;
    }
    Budget share = budget_.slice(kShareOfGuess);
    const Realisation found = realise_(guess, true, share);
    if (found.fits) keep(found.assignment);
  }

  void keep(const Assignment& assignment) {
    const int64_t cost = cost_of(assignment);
    if (!outcome_.best.empty() && cost >= outcome_.cost) return;
    outcome_.best = assignment;
    outcome_.cost = cost;
  }

  // Of a body in a memory, with what its bytes and ticks are worth there.
  double reduced_cost(size_t body, size_t memory) const {
    auto cost = static_cast<double>(bodies_[body].costs[memory]);
    for (const Use& use : uses_[body]) {
      cost += static_cast<double>(use.bytes) * (sums_[memory][use.right] - sums_[memory][use.left]);
    }
    return cost;
  }

  void sum_prices() {
    sums_.assign(num_memories_, std::vector<double>(num_sections_ + 1, 0));
    for (size_t m = 0; m < num_memories_; ++m) {
      for (size_t s = 0; s < num_sections_; ++s) sums_[m][s + 1] = sums_[m][s] + prices_[m][s];
    }
  }

  // The value of the relaxation at the prices there are; `loads` is what each memory would have at each
  // section.
  double relaxed(std::vector<std::vector<double>>& loads) const {
    double value = 0;
    loads.assign(num_memories_, std::vector<double>(num_sections_ + 1, 0));
    for (size_t i = 0; i < bodies_.size(); ++i) {
      size_t best = num_memories_;
      double least = 0;
      for (size_t m = 0; m < num_memories_; ++m) {
        if (!may_lie(i, m)) continue;
        const double cost = reduced_cost(i, m);
        if (best < num_memories_ && cost >= least) continue;
        best = m;
        least = cost;
      }
      value += least;
      for (const Use& use : uses_[i]) {
        loads[best][use.left] += static_cast<double>(use.bytes);
        loads[best][use.right] -= static_cast<double>(use.bytes);
      }
    }
    for (size_t m = 0; m < num_memories_; ++m) {
      if (!is_bounded(m)) continue;
      double load = 0;
      for (size_t s = 0; s <= num_sections_; ++s) {
        load += loads[m][s];
        loads[m][s] = load;
      }
      value -= sums_[m][num_sections_] * static_cast<double>(memories_[m].capacity);
    }
    return value;
  }

  // Prices by subgradients. On the way, assignments by what bodies cost at them.
  void find_prices() {
    sum_prices();
    best_prices_ = prices_;
    guess();
    Budget share = budget_.slice(kShareOfPrices);
    const auto work = static_cast<double>(num_memories_ * (num_uses_ + num_sections_) + bodies_.size() * 20);
    const int rounds = std::min(kMaxPrices, static_cast<int>(kMaxPriceWork / (1 + work)) + 4);
    std::vector<std::vector<double>> loads;
    std::vector<std::vector<double>> directions(num_memories_, std::vector<double>(num_sections_, 0));
    double best_value = -std::numeric_limits<double>::infinity();
    double scale = 1;
    int since = 0;
    for (int round = 0; round < rounds && !share.spent(); ++round) {
      const double value = relaxed(loads);
      if (value > best_value) {
        best_value = value;
        best_prices_ = prices_;
        since = 0;
        const double sure = value - kTolerance * (1 + std::abs(value)) * static_cast<double>(bodies_.size());
        outcome_.lower_bound = std::max(outcome_.lower_bound, static_cast<int64_t>(std::ceil(sure - 1e-6)));
      } else if (++since > kPatience) {
        scale *= 0.7;
        since = 0;
      }
      double norm = 0;
      for (size_t m = 0; m < num_memories_; ++m) {
        if (!is_bounded(m)) continue;
        for (size_t s = 0; s < num_sections_; ++s) {
          double& way = directions[m][s];
          way =
              kMomentum * way + (1 - kMomentum) * (loads[m][s] - static_cast<double>(memories_[m].capacity));
          if (way > 0 || prices_[m][s] > 0) norm += way * way;
        }
      }
      if (norm == 0) break;
      const double goal =
          guesses_.empty() ? std::abs(value) * 1.1 + 1 : static_cast<double>(guesses_.front().first);
      const double step = scale * std::max(goal - value, 1e-3 * (1 + std::abs(value))) / norm;
      for (size_t m = 0; m < num_memories_; ++m) {
        if (!is_bounded(m)) continue;
        for (size_t s = 0; s < num_sections_; ++s) {
          prices_[m][s] = std::max(0.0, prices_[m][s] + step * directions[m][s]);
        }
      }
      sum_prices();
      if (round % kPricesPerGuess == kPricesPerGuess - 1) guess();
    }
    prices_ = best_prices_;
    sum_prices();
    guess();
  }

  // Bodies one after the other, those first that lose most elsewhere; each in the cheapest memory with room.
  void guess() {
    std::vector<std::vector<std::pair<double, int32_t>>> choices(bodies_.size());
    std::vector<double> keys;
    for (size_t i = 0; i < bodies_.size(); ++i) {
      for (size_t m = 0; m < num_memories_; ++m) {
        if (may_lie(i, m)) choices[i].emplace_back(reduced_cost(i, m), static_cast<int32_t>(m));
      }
      std::sort(choices[i].begin(), choices[i].end());
      double volume = 1;
      for (const Use& use : uses_[i]) {
        volume += static_cast<double>(use.bytes) * static_cast<double>(use.right - use.left);
      }
      const double loss = choices[i].size() < 2 ? std::numeric_limits<double>::infinity()
                                                : choices[i][1].first - choices[i][0].first;
      keys.push_back(-loss / volume);
    }
    Assignment assignment(bodies_.size(), -1);
    bool complete = true;
    const std::vector<int32_t> order = order_by(keys);
    for (int32_t body : order) {
      const auto i = static_cast<size_t>(body);
      for (const auto& [cost, memory] : choices[i]) {
        if (!has_room(i, static_cast<size_t>(memory))) continue;
        assignment[i] = memory;
        put(i, static_cast<size_t>(memory), 1);
        break;
      }
      complete = complete && assignment[i] >= 0;
    }
    // What room is left goes to who gains most.
    for (int32_t body : order) {
      const auto i = static_cast<size_t>(body);
      if (!complete || choices[i].size() < 2) continue;
      move_where_cheaper(i, assignment);
    }
    for (size_t i = 0; i < bodies_.size(); ++i) {
      if (assignment[i] >= 0) put(i, static_cast<size_t>(assignment[i]), -1);
    }
    if (!complete) return;
    const std::pair<int64_t, Assignment> found{cost_of(assignment), std::move(assignment)};
    const auto place = std::lower_bound(guesses_.begin(), guesses_.end(), found);
    if (place != guesses_.end() && *place == found) return;
    guesses_.insert(place, found);
    if (guesses_.size() > kMaxGuesses) guesses_.pop_back();
  }

  // Moves one body to a cheaper memory and whatever must make room for it elsewhere, and lets others take
  // what room is left: again and again. As in annealing, a little more cost is accepted, less and less. What
  // costs less than the best is kept if it can be placed.
  void improve() {
    if (outcome_.best.empty()) return;
    Budget share = budget_.slice(kShareOfImprovements);
    const double time_s = share.remaining_s();
    Assignment current = outcome_.best;
    int64_t cost = outcome_.cost;
    while (!is_done() && !share.spent()) {
      Assignment trial = current;
      std::vector<int32_t> dear;
      for (size_t i = 0; i < trial.size(); ++i) {
        if (bodies_[i].costs[static_cast<size_t>(trial[i])] > *cheapest(bodies_[i]))
          dear.push_back(static_cast<int32_t>(i));
      }
      if (dear.empty()) return;
      for (size_t i = 0; i < trial.size(); ++i) put(i, static_cast<size_t>(trial[i]), 1);
      const bool moved = move_in(trial, static_cast<size_t>(dear[random_.below(dear.size())]));
      if (moved) fill(trial, dear);
      for (size_t i = 0; i < trial.size(); ++i) put(i, static_cast<size_t>(trial[i]), -1);
      if (!moved) continue;
      const int64_t trial_cost = cost_of(trial);
      const double heat =
          kHeat * static_cast<double>(outcome_.cost) * share.remaining_s() / std::max(time_s, 1e-9);
      if (static_cast<double>(trial_cost - cost) > -heat * std::log(1 - random_.uniform())) continue;
      if (trial_cost < outcome_.cost) {
        Budget own = share.slice(kShareOfImprovement);
        const Realisation found = realise_(trial, true, own);
        if (found.fits) keep(found.assignment);
        // What cannot be placed is no way to go on.
        if (!found.fits || found.assignment != trial) {
          current = outcome_.best;
          cost = outcome_.cost;
          continue;
        }
      }
      current = std::move(trial);
      cost = trial_cost;
    }
  }

  // Into a cheaper memory, with as little loss as random choices give.
  bool move_in(Assignment& trial, size_t body) {
    const auto from = static_cast<size_t>(trial[body]);
    std::vector<size_t> cheaper;
    for (size_t m = 0; m < num_memories_; ++m) {
      if (may_lie(body, m) && bodies_[body].costs[m] < bodies_[body].costs[from]) cheaper.push_back(m);
    }
    const size_t to = cheaper[random_.below(cheaper.size())];
    put(body, from, -1);
    put(body, to, 1);
    trial[body] = static_cast<int32_t>(to);
    std::vector<std::pair<double, size_t>> others;
    for (size_t i = 0; i < trial.size(); ++i) {
      if (i == body || static_cast<size_t>(trial[i]) != to || !meet(i, body)) continue;
      int64_t bytes = 1;
      for (const Use& use : uses_[i]) bytes = std::max(bytes, use.bytes);
      others.emplace_back((0.2 + random_.uniform()) * loss(i, to) / static_cast<double>(bytes), i);
    }
    std::sort(others.begin(), others.end());
    for (const auto& [key, i] : others) {
      if (is_within(body, to)) break;
      // Only what lies where there is too much.
      if (is_within(i, to) || !std::isfinite(key)) continue;
      put(i, to, -1);
      size_t next = num_memories_;
      for (size_t m = 0; m < num_memories_; ++m) {
        if (m == to || !may_lie(i, m) || !has_room(i, m)) continue;
        if (next == num_memories_ || bodies_[i].costs[m] < bodies_[i].costs[next]) next = m;
      }
      if (next == num_memories_) next = to;
      put(i, next, 1);
      trial[i] = static_cast<int32_t>(next);
    }
    return is_within(body, to);
  }

  // Lets bodies that lie where it is dear take what room there is.
  void fill(Assignment& trial, std::vector<int32_t>& dear) {
    std::vector<std::pair<double, int32_t>> order;
    for (int32_t body : dear) {
      const auto i = static_cast<size_t>(body);
      const auto gain =
          static_cast<double>(bodies_[i].costs[static_cast<size_t>(trial[i])] - *cheapest(bodies_[i]));
      order.emplace_back(-gain * (0.5 + random_.uniform()), body);
    }
    std::sort(order.begin(), order.end());
    for (const auto& [key, body] : order) {
      move_where_cheaper(static_cast<size_t>(body), trial);
    }
  }

  // Moves a body to the cheapest of the memories that are cheaper than its own and have room.
  void move_where_cheaper(size_t i, Assignment& assignment) {
    for (size_t m = 0; m < num_memories_; ++m) {
      const auto now = static_cast<size_t>(assignment[i]);
      if (!may_lie(i, m) || bodies_[i].costs[m] >= bodies_[i].costs[now] || !has_room(i, m)) continue;
      put(i, now, -1);
      put(i, m, 1);
      assignment[i] = static_cast<int32_t>(m);
    }
  }

  bool meet(size_t a, size_t b) const {
    return bodies_[a].start() < bodies_[b].end() && bodies_[b].start() < bodies_[a].end();
  }

  // Whether what a memory holds is within its capacity, as long as a body in it lives.
  bool is_within(size_t body, size_t memory) const {
    if (!is_bounded(memory)) return true;
    return std::all_of(uses_[body].begin(), uses_[body].end(), [&](const Use& use) {
      return loads_[memory].largest(use.left, use.right) <= memories_[memory].capacity;
    });
  }

  // What a body costs more in the cheapest other memory.
  double loss(size_t body, size_t memory) const {
    double least = std::numeric_limits<double>::infinity();
    for (size_t m = 0; m < num_memories_; ++m) {
      if (m == memory || !may_lie(body, m)) continue;
      least = std::min(least, static_cast<double>(bodies_[body].costs[m] - bodies_[body].costs[memory]));
    }
    return least;
  }

  // All assignments, depth first.
  void search() {
    std::vector<double> keys;
    reduced_.assign(bodies_.size(), {});
    for (size_t i = 0; i < bodies_.size(); ++i) {
      std::vector<double> sorted;
      for (size_t m = 0; m < num_memories_; ++m) {
        reduced_[i].push_back(may_lie(i, m) ? reduced_cost(i, m) : 0);
        if (may_lie(i, m)) sorted.push_back(reduced_[i].back());
      }
      std::sort(sorted.begin(), sorted.end());
      keys.push_back(sorted.size() < 2 ? -std::numeric_limits<double>::infinity() : sorted[0] - sorted[1]);
    }
    order_ = order_by(keys);
    // What is still to come costs so much at least, from each depth on.
    cheapest_rest_.assign(bodies_.size() + 1, 0);
    reduced_rest_.assign(bodies_.size() + 1, 0);
    for (size_t depth = bodies_.size(); depth-- > 0;) {
      const auto i = static_cast<size_t>(order_[depth]);
      double least = std::numeric_limits<double>::infinity();
      for (size_t m = 0; m < num_memories_; ++m) {
        if (may_lie(i, m)) least = std::min(least, reduced_[i][m]);
      }
      cheapest_rest_[depth] = cheapest_rest_[depth + 1] + *cheapest(bodies_[i]);
      reduced_rest_[depth] = reduced_rest_[depth + 1] + least;
    }
    for (size_t m = 0; m < num_memories_; ++m) {
      if (is_bounded(m))
        worth_of_capacities_ += sums_[m][num_sections_] * static_cast<double>(memories_[m].capacity);
    }
    current_.assign(bodies_.size(), -1);
    is_complete_ = true;
    descend(0, 0, 0);
    outcome_.proven = is_complete_ && !is_stopped_;
  }

  bool cannot_be_cheaper(int64_t at_least, double relaxed_at_least) const {
    if (outcome_.best.empty()) return false;
    if (at_least >= outcome_.cost) return true;
    const double value = relaxed_at_least - worth_of_capacities_;
    const double slack =
        kTolerance * (1 + std::abs(value) + worth_of_capacities_) * static_cast<double>(bodies_.size());
    return value - slack > static_cast<double>(outcome_.cost) - 1 + 1e-6;
  }

  void descend(size_t depth, int64_t cost, double reduced) {
    if (budget_.spent()) is_stopped_ = true;
    if (is_stopped_ || is_done()) return;
    if (cannot_be_cheaper(cost + cheapest_rest_[depth], reduced + reduced_rest_[depth])) return;
    if (depth == order_.size()) {
      Budget share = budget_.slice(kShareOfGuess);
      const Realisation found = realise_(current_, false, share);
      if (found.fits) keep(current_);
      if (!found.fits && !found.proven) is_complete_ = false;
      return;
    }
    const auto i = static_cast<size_t>(order_[depth]);
    std::vector<std::pair<double, size_t>> choices;
    for (size_t m = 0; m < num_memories_; ++m) {
      if (may_lie(i, m)) choices.emplace_back(reduced_[i][m], m);
    }
    std::sort(choices.begin(), choices.end());
    for (const auto& [added, m] : choices) {
      if (!has_room(i, m)) continue;
      put(i, m, 1);
      current_[i] = static_cast<int32_t>(m);
      descend(depth + 1, cost + bodies_[i].costs[m], reduced + added);
      put(i, m, -1);
    }
    current_[i] = -1;
  }

  const std::vector<Memory>& memories_;
  const std::vector<Body>& bodies_;
  const Assignment& from_;
  const Realise& realise_;
  Random random_;
  Budget& budget_;
  size_t num_memories_;
  size_t num_sections_ = 1;
  size_t num_uses_ = 0;
  std::vector<std::vector<Use>> uses_;  // of each body
  std::vector<LoadTree> loads_;         // of each memory
  std::vector<std::vector<double>> prices_;
  std::vector<std::vector<double>> best_prices_;
  std::vector<std::vector<double>> sums_;
  std::vector<std::pair<int64_t, Assignment>> guesses_;  // by cost
  AssignmentOutcome outcome_;

  std::vector<std::vector<double>> reduced_;
  std::vector<int32_t> order_;
  std::vector<int64_t> cheapest_rest_;
  std::vector<double> reduced_rest_;
  double worth_of_capacities_ = 0;
  Assignment current_;
  bool is_complete_ = false;  // each assignment that was looked at either fits or is proven not to
  bool is_stopped_ = false;
};

}  // namespace

AssignmentOutcome assign(const DeviceProblem& problem, const Bodies& bodies, const Assignment& from,
                         const Realise& realise, uint64_t seed, Budget& budget) {
  return Assigner(problem, bodies, from, realise, seed, budget).assign();
}

}  // namespace memomalloc::planner
