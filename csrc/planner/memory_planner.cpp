#include "planner/memory_planner.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <utility>

#include "planner/body_packing.hpp"
#include "planner/luby.hpp"
#include "planner/plan.hpp"
#include "planner/prepare.hpp"
#include "planner/random.hpp"

namespace memomalloc::planner {
namespace {

// Of the time, for the plan of boxes.
constexpr double kShareOfBoxes = 0.3;
// Deeper searches would need too much stack.
constexpr size_t kMaxRelationsOfSearch = 6000;
constexpr int64_t kUnitOfNodes = 60;  // and one for each body
constexpr double kSmallestSpread = 1e-3;
constexpr double kLargestSpread = 0.3;

class MemoryPlanner {
 public:
  MemoryPlanner(const DeviceProblem& problem, const Bodies& bodies, int64_t memory,
                const std::vector<int32_t>& members, const std::vector<Place>& from, uint64_t seed,
                Budget& budget)
      : memory_(problem.memories[static_cast<size_t>(memory)]),
        bodies_(bodies),
        index_(memory),
        members_(members),
        from_(from),
        seed_(seed),
        budget_(budget),
        relations_(bodies, members, memory_) {}

  MemoryPlan plan() {
    result_.lower_bound = relations_.lower_bound();
    if (members_.empty()) {
      result_.proven = true;
      return std::move(result_);
    }
    if (memory_.capacity >= 0 && result_.lower_bound > memory_.capacity) {
      result_.proven = true;
      return std::move(result_);
    }
    for (int32_t i = 0; i < relations_.num_bodies(); ++i) {
      // Not even alone.
      if (relations_.line().highest(body(i), max_bytes()) < 0) {
        result_.proven = true;
        return std::move(result_);
      }
    }
    if (plan_boxes()) return std::move(result_);
    if (!relations_.too_many()) search();
    if (!best_) return std::move(result_);
    result_.bytes = best_->bytes;
    for (int64_t base : best_->bases) result_.places.push_back(relations_.line().place(index_, base));
    return std::move(result_);
  }

 private:
  const Body& body(int32_t i) const { return relations_.body(i); }
  bool has_capacity() const { return memory_.capacity >= 0; }
  int64_t max_bytes() const {
    return has_capacity() ? memory_.capacity : std::numeric_limits<int64_t>::max() / 4;
  }
  int64_t target() const { return has_capacity() ? memory_.capacity : relations_.lower_bound(); }
  bool is_done() const { return best_ && best_->bytes <= target(); }

  // Every body as a box that holds all it may need: what the engine for boxes plans. True if that is all
  // there is to do, because the boxes are the bodies.
  bool plan_boxes() {
    bool exact = true;
    Problem boxes;
    bool pinned = false;
    std::vector<bool> has_banks(members_.size(), false);
    for (const Separation& pair : relations_.banks()) {
      has_banks[static_cast<size_t>(pair.first)] = has_banks[static_cast<size_t>(pair.second)] = true;
      exact = false;
    }
    bool aligned = false;
    for (int32_t i = 0; i < relations_.num_bodies(); ++i) {
      const Body& own = body(i);
      const bool is_banked = has_banks[static_cast<size_t>(i)];
      exact = exact && (own.is_rectangle() || own.extent == 0);
      const int64_t unit = is_banked ? std::lcm(own.alignment, memory_.bank) : own.alignment;
      boxes.sizes.push_back(is_banked ? align_up(own.extent, memory_.bank) : own.extent);
      // What is in use at no time only has to lie within the memory.
      boxes.starts.push_back(own.start());
      boxes.ends.push_back(std::max(own.end(), own.start() + 1));
      boxes.alignments.push_back(unit);
      aligned = aligned || unit != 1;
      boxes.pins.push_back(own.pin.memory < 0 ? kFree : relations_.line().base(own.pin));
      pinned = pinned || own.pin.memory >= 0;
    }
    if (!aligned) boxes.alignments.clear();
    if (!pinned) boxes.pins.clear();
    // Those that must not overlap are made to live together.
    for (const Relation& relation : relations_.all()) {
      const auto a = static_cast<size_t>(relation.first);
      const auto b = static_cast<size_t>(relation.second);
      if (boxes.starts[a] < boxes.ends[b] && boxes.starts[b] < boxes.ends[a]) continue;
      exact = false;
      const auto [early, late] = boxes.starts[a] < boxes.starts[b] ? std::pair(a, b) : std::pair(b, a);
      boxes.ends[early] = boxes.starts[late] + 1;
    }
    for (const Separation& pair : bodies_.separations) {
      // Too many to have relations: these remain.
      if (!relations_.too_many()) break;
      extend(boxes, pair, exact);
    }
    if (pinned && !pins_are_disjoint(boxes)) return false;
    Request request;
    request.seed = seed_;
    // Where there would be too many relations, that is all there is.
    const double share = exact || relations_.too_many() ? 1 : kShareOfBoxes;
    request.time_limit_s = share * budget_.remaining_s();
    request.poll = [this](int64_t) {
      budget_.spent();
      return !budget_.cancelled();
    };
    request.warm_start = warm_offsets();
    if (has_capacity() && exact && memory_.chunk == 0) request.capacity = memory_.capacity;
    const Result found = planner::plan(boxes, request);
    if (found.offsets.size() != boxes.sizes.size()) {
      result_.proven = exact && found.proven_infeasible;
      return exact;
    }
    // With more chunks than one the bytes would be more than a whole chunk: what is best in one is best.
    const bool one_chunk = memory_.chunk == 0 || found.arena <= std::min(memory_.chunk, max_bytes());
    exact = exact && one_chunk;
    std::vector<int64_t> bases = found.offsets;
    int64_t bytes = 0;
    for (int32_t i = 0; i < relations_.num_bodies(); ++i) {
      bytes = std::max(bytes, relations_.line().bytes(body(i), bases[static_cast<size_t>(i)]));
    }
    by_offset_ = order_by(bases);
    if (memory_.chunk == 0 && bytes > max_bytes()) {
      for (int32_t i = 0; i < relations_.num_bodies(); ++i) {
        const int64_t base = bases[static_cast<size_t>(i)];
        const bool is_within = relations_.line().bytes(body(i), base) <= max_bytes();
        result_.partly.push_back(is_within ? relations_.line().place(index_, base) : Place{});
      }
    }
    if (one_chunk && bytes <= max_bytes()) {
      best_ = Packing{std::move(bases), bytes};
      budget_.found(bytes);
    }
    if (exact) result_.proven = has_capacity() ? found.proven_infeasible : found.proven_optimal;
    if (exact && best_) {
      for (int64_t base : best_->bases) result_.places.push_back(relations_.line().place(index_, base));
      result_.bytes = best_->bytes;
    }
    return exact;
  }

  void extend(Problem& boxes, const Separation& pair, bool& exact) const {
    const auto position = [&](int32_t body) {
      return std::find(members_.begin(), members_.end(), body) - members_.begin();
    };
    const auto a = static_cast<size_t>(position(pair.first));
    const auto b = static_cast<size_t>(position(pair.second));
    exact = false;
    if (a == members_.size() || b == members_.size()) return;
    for (size_t i : {a, b}) {
      if (!pair.banks || memory_.bank == 0) continue;
      boxes.alignments.resize(boxes.sizes.size(), 1);
      boxes.alignments[i] = std::lcm(boxes.alignments[i], memory_.bank);
      boxes.sizes[i] = align_up(boxes.sizes[i], memory_.bank);
    }
    const auto [early, late] = boxes.starts[a] < boxes.starts[b] ? std::pair(a, b) : std::pair(b, a);
    boxes.ends[early] = std::max(boxes.ends[early], boxes.starts[late] + 1);
  }

  static bool pins_are_disjoint(const Problem& boxes) {
    for (size_t i = 0; i < boxes.pins.size(); ++i) {
      if (boxes.pins[i] == kFree) continue;
      if (!boxes.alignments.empty() && boxes.pins[i] % boxes.alignments[i] != 0) return false;
      for (size_t j = 0; j < i; ++j) {
        if (boxes.pins[j] == kFree) continue;
        if (boxes.starts[i] < boxes.ends[j] && boxes.starts[j] < boxes.ends[i] &&
            boxes.pins[i] < boxes.pins[j] + boxes.sizes[j] &&
            boxes.pins[j] < boxes.pins[i] + boxes.sizes[i]) {
          return false;
        }
      }
    }
    return true;
  }

  // Bases of the earlier plan on the line; kFree where it has none.
  std::vector<int64_t> warm_offsets() const {
    std::vector<int64_t> offsets;
    for (const Place& place : from_) {
      offsets.push_back(place.memory == index_ ? relations_.line().base(place) : kFree);
    }
    return offsets;
  }

  void keep(std::optional<Packing> packing) {
    if (!packing || packing->bytes > max_bytes() || (best_ && packing->bytes >= best_->bytes)) return;
    best_ = std::move(packing);
    budget_.found(best_->bytes);
  }

  int64_t next_max_bytes() const { return best_ ? best_->bytes - 1 : max_bytes(); }

  void search() {
    const auto n = members_.size();
    std::vector<std::vector<int32_t>> orders;
    if (!by_offset_.empty()) orders.push_back(by_offset_);
    if (!from_.empty()) {
      std::vector<int64_t> keys = warm_offsets();
      for (int64_t& key : keys) key = key == kFree ? std::numeric_limits<int64_t>::max() : key;
      orders.push_back(order_by(keys));
    }
    const auto by = [&](auto key) {
      std::vector<double> keys;
      for (int32_t i = 0; i < relations_.num_bodies(); ++i) keys.push_back(-key(body(i)));
      orders.push_back(order_by(keys));
    };
    const auto width = [](const Body& own) {
      return static_cast<double>(own.end()) - static_cast<double>(own.start());
    };
    by([](const Body& own) { return static_cast<double>(own.extent); });
    by([&](const Body& own) { return static_cast<double>(own.extent) * width(own); });
    by([&](const Body& own) { return width(own); });
    by([](const Body& own) { return -static_cast<double>(own.start()); });
    for (const std::vector<int32_t>& order : orders) {
      if (is_done()) break;
      keep(first_fit(relations_, order, next_max_bytes()));
      // Any plan is better than none.
      if (best_ && budget_.spent()) return finish();
    }
    if (is_done()) return finish();

    Random random(seed_);
    std::vector<std::vector<double>> ranks;
    for (const std::vector<int32_t>& order : orders) {
      ranks.emplace_back(n);
      for (size_t k = 0; k < n; ++k)
        ranks.back()[static_cast<size_t>(order[k])] = static_cast<double>(k) / static_cast<double>(n);
    }
    std::vector<double> best_keys;
    const bool is_small = relations_.all().size() <= kMaxRelationsOfSearch;
    RelationSearch exact(relations_);
    int64_t excluded = relations_.lower_bound() - 1;
    for (int64_t round = 1; !is_done() && !budget_.spent(); ++round) {
      std::vector<double> keys =
          best_keys.empty() || random.below(4) == 0 ? ranks[random.below(ranks.size())] : best_keys;
      const double spread = kSmallestSpread * std::pow(kLargestSpread / kSmallestSpread, random.uniform());
      for (double& key : keys) key += spread * random.bell();
      std::optional<Packing> packing = first_fit(relations_, order_by(keys), next_max_bytes());
      if (packing) {
        keep(std::move(packing));
        best_keys = keys;
        continue;
      }
      if (!is_small) continue;
      // Half of the questions are for the lowest that is possible, half for just below the best.
      const bool lowest = !has_capacity() && best_ && random.below(2) == 0;
      const int64_t within = has_capacity() ? memory_.capacity : lowest ? excluded + 1 : next_max_bytes();
      std::vector<double> priorities(n);
      for (size_t i = 0; i < n; ++i) priorities[i] = -keys[i];
      const int64_t limit = (kUnitOfNodes + static_cast<int64_t>(n)) * luby(round);
      const RelationSearch::Verdict verdict = exact.search(within, priorities, limit, budget_);
      if (verdict == RelationSearch::Verdict::kFits) keep(exact.packing());
      if (verdict == RelationSearch::Verdict::kNone) {
        excluded = std::max(excluded, within);
        // Without a capacity and without a plan it is pins that lie on each other.
        if (within >= max_bytes() || (best_ && excluded + 1 >= best_->bytes)) {
          proven_ = true;
          break;
        }
      }
    }
    finish();
  }

  void finish() {
    result_.proven = proven_ || (best_ && !has_capacity() && best_->bytes == relations_.lower_bound());
  }

  const Memory& memory_;
  const Bodies& bodies_;
  int64_t index_;
  const std::vector<int32_t>& members_;
  const std::vector<Place>& from_;
  uint64_t seed_;
  Budget& budget_;
  Relations relations_;
  std::vector<int32_t> by_offset_;
  std::optional<Packing> best_;
  MemoryPlan result_;
  bool proven_ = false;
};

}  // namespace

MemoryPlan plan_memory(const DeviceProblem& problem, const Bodies& bodies, int64_t memory,
                       const std::vector<int32_t>& members, const std::vector<Place>& from, uint64_t seed,
                       Budget& budget) {
  return MemoryPlanner(problem, bodies, memory, members, from, seed, budget).plan();
}

}  // namespace memomalloc::planner
