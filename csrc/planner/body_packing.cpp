#include "planner/body_packing.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

namespace memomalloc::planner {
namespace {

// Bases that are raised more often between two nodes creep: it is given up.
constexpr int64_t kMaxStepsPerBody = 200;
constexpr int64_t kNodesPerClock = 64;
// The problem's sums leave all chunks that are needed below it.
constexpr int64_t kLongestLine = int64_t{1} << 61;

int64_t align_down(int64_t offset, int64_t alignment) { return offset - offset % alignment; }

bool meet(const Slab& a, const Slab& b) { return a.start < b.end && b.start < a.end; }

int64_t common_alignment(const Bodies& bodies, const std::vector<int32_t>& members, const Memory& memory) {
  if (memory.chunk == 0) return 1;
  int64_t alignment = std::max<int64_t>(1, memory.bank);
  for (int32_t member : members) {
    alignment = std::lcm(alignment, bodies.bodies[static_cast<size_t>(member)].alignment);
  }
  return alignment;
}

}  // namespace

AddressLine::AddressLine(const Memory& memory, int64_t alignment) : chunk_(memory.chunk), bank_(memory.bank) {
  if (chunk_ > 0) stride_ = align_up(chunk_, alignment);
}

int64_t AddressLine::conform(const Body& body, int64_t base) const {
  const int64_t aligned = align_up(base, body.alignment);
  if (chunk_ == 0) return aligned;
  return aligned % stride_ + body.extent > chunk_ ? (aligned / stride_ + 1) * stride_ : aligned;
}

int64_t AddressLine::highest(const Body& body, int64_t bytes) const {
  const int64_t room = bytes - body.extent;
  if (room < 0 || (chunk_ > 0 && body.extent > chunk_)) return -1;
  if (chunk_ == 0) return align_down(room, body.alignment);
  const int64_t last = std::min(room / chunk_, kLongestLine / stride_);
  return last * stride_ + align_down(std::min(chunk_ - body.extent, room - last * chunk_), body.alignment);
}

int64_t AddressLine::bytes(const Body& body, int64_t base) const {
  if (body.extent == 0) return 0;
  return chunk_ == 0 ? base + body.extent : base / stride_ * chunk_ + base % stride_ + body.extent;
}

Place AddressLine::place(int64_t memory, int64_t base) const {
  return chunk_ == 0 ? Place{memory, 0, base} : Place{memory, base / stride_, base % stride_};
}

Relations::Relations(const Bodies& bodies, std::vector<int32_t> members, const Memory& memory)
    : bodies_(bodies),
      members_(std::move(members)),
      line_(memory, common_alignment(bodies, members_, memory)),
      of_(members_.size()) {
  find_lower_bound();
  std::map<std::pair<int32_t, int32_t>, std::vector<Separation>> separations;
  std::vector<int32_t> position(bodies.bodies.size(), -1);
  for (int32_t i = 0; i < num_bodies(); ++i)
    position[static_cast<size_t>(members_[static_cast<size_t>(i)])] = i;
  for (const Separation& separation : bodies.separations) {
    int32_t a = position[static_cast<size_t>(separation.first)];
    int32_t b = position[static_cast<size_t>(separation.second)];
    if (a < 0 || b < 0 || (separation.banks && memory.bank == 0)) continue;
    Separation own = separation;
    own.first = a;
    own.second = b;
    if (a > b) {
      std::swap(own.first, own.second);
      std::swap(own.first_lower, own.second_lower);
      std::swap(own.first_upper, own.second_upper);
    }
    separations[{own.first, own.second}].push_back(own);
  }
  // Those of which slabs are alive together, by a sweep over births.
  struct Alive {
    int64_t start;
    int64_t end;
    int32_t body;
  };
  std::vector<Alive> births;
  for (int32_t i = 0; i < num_bodies(); ++i) {
    for (const Slab& slab : body(i).slabs) births.push_back({slab.start, slab.end, i});
  }
  std::stable_sort(births.begin(), births.end(),
                   [](const Alive& a, const Alive& b) { return a.start < b.start; });
  std::vector<Alive> alive;
  std::vector<std::pair<int32_t, int32_t>> pairs;
  for (const Alive& birth : births) {
    alive.erase(std::remove_if(alive.begin(), alive.end(),
                               [&](const Alive& other) { return other.end <= birth.start; }),
                alive.end());
    for (const Alive& other : alive) {
      if (other.body != birth.body) pairs.push_back(std::minmax(birth.body, other.body));
    }
    alive.push_back(birth);
    if (pairs.size() + separations.size() > kMaxRelations) {
      // Two bodies may meet many times.
      std::sort(pairs.begin(), pairs.end());
      pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
      too_many_ = pairs.size() + separations.size() > kMaxRelations / 2;
    }
    if (too_many_) return;
  }
  std::sort(pairs.begin(), pairs.end());
  pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
  pairs.erase(std::remove_if(pairs.begin(), pairs.end(),
                             [&](const auto& pair) { return separations.count(pair) > 0; }),
              pairs.end());
  for (const auto& [pair, own] : separations) relate(pair.first, pair.second, own);
  for (const auto& [a, b] : pairs) relate(a, b, {});
  for (size_t k = 0; k < relations_.size(); ++k) {
    of_[static_cast<size_t>(relations_[k].first)].push_back(static_cast<uint32_t>(k));
    of_[static_cast<size_t>(relations_[k].second)].push_back(static_cast<uint32_t>(k));
  }
}

void Relations::relate(int32_t first, int32_t second, const std::vector<Separation>& separations) {
  std::vector<OpenInterval> found;
  for (const Slab& a : body(first).slabs) {
    for (const Slab& b : body(second).slabs) {
      if (b.start >= a.end) break;
      if (meet(a, b)) found.push_back({a.lower - b.upper, a.upper - b.lower});
    }
  }
  const auto first_banks = static_cast<uint32_t>(banks_.size());
  for (const Separation& separation : separations) {
    if (separation.banks) {
      banks_.push_back(separation);
    } else {
      found.push_back({separation.first_lower - separation.second_upper,
                       separation.first_upper - separation.second_lower});
    }
  }
  std::sort(found.begin(), found.end(),
            [](const OpenInterval& a, const OpenInterval& b) { return a.low < b.low; });
  const auto first_interval = static_cast<uint32_t>(intervals_.size());
  for (const OpenInterval& interval : found) {
    // Between two open intervals that touch there is one whole number.
    if (intervals_.size() > first_interval && interval.low < intervals_.back().high) {
      intervals_.back().high = std::max(intervals_.back().high, interval.high);
    } else {
      intervals_.push_back(interval);
    }
  }
  const auto last_interval = static_cast<uint32_t>(intervals_.size());
  const auto last_banks = static_cast<uint32_t>(banks_.size());
  if (first_interval == last_interval && first_banks == last_banks) return;
  relations_.push_back({first, second, first_interval, last_interval, first_banks, last_banks});
}

bool Relations::keeps(const Relation& relation, int64_t first_base, int64_t second_base) const {
  const int64_t distance = second_base - first_base;
  for (uint32_t k = relation.first_interval; k < relation.last_interval; ++k) {
    if (intervals_[k].low < distance && distance < intervals_[k].high) return false;
  }
  for (uint32_t k = relation.first_banks; k < relation.last_banks; ++k) {
    const Separation& pair = banks_[k];
    const int64_t bank = line_.bank();
    if (first_base + pair.first_lower < align_up(second_base + pair.second_upper, bank) &&
        align_down(second_base + pair.second_lower, bank) < first_base + pair.first_upper) {
      return false;
    }
  }
  return true;
}

void Relations::find_lower_bound() {
  std::vector<std::pair<int64_t, int64_t>> changes;  // at one tick, what dies comes first
  for (int32_t i = 0; i < num_bodies(); ++i) {
    const Body& own = body(i);
    for (const Slab& slab : own.slabs) {
      changes.emplace_back(slab.start, slab.upper - slab.lower);
      changes.emplace_back(slab.end, slab.lower - slab.upper);
    }
    const int64_t base = own.pin.memory < 0 ? 0 : line_.base(own.pin);
    lower_bound_ = std::max(lower_bound_, line_.bytes(own, base));
  }
  std::sort(changes.begin(), changes.end());
  int64_t load = 0;
  for (const auto& [tick, change] : changes) {
    load += change;
    lower_bound_ = std::max(lower_bound_, load);
  }
}

namespace {

class FirstFit {
 public:
  explicit FirstFit(const Relations& relations) : relations_(relations) {
    packing_.bases.assign(relations.members().size(), -1);
  }

  bool place_pinned(int64_t max_bytes) {
    for (int32_t i = 0; i < relations_.num_bodies(); ++i) {
      const Body& body = relations_.body(i);
      if (body.pin.memory >= 0 && !put(i, relations_.line().base(body.pin), max_bytes)) return false;
    }
    for (const Relation& relation : relations_.all()) {
      const int64_t first = packing_.bases[static_cast<size_t>(relation.first)];
      const int64_t second = packing_.bases[static_cast<size_t>(relation.second)];
      if (first >= 0 && second >= 0 && !relations_.keeps(relation, first, second)) return false;
    }
    return true;
  }

  // At the lowest base that keeps all relations; false where that is too high.
  bool place(int32_t i, int64_t max_bytes) {
    const Body& body = relations_.body(i);
    if (body.pin.memory >= 0) return true;
    find_forbidden(i);
    int64_t base = relations_.line().conform(body, 0);
    for (const OpenInterval& interval : forbidden_) {
      if (interval.low < base && base < interval.high) base = relations_.line().conform(body, interval.high);
    }
    return put(i, base, max_bytes);
  }

  Packing take() { return std::move(packing_); }

 private:
  bool put(int32_t i, int64_t base, int64_t max_bytes) {
    const int64_t bytes = relations_.line().bytes(relations_.body(i), base);
    if (bytes > max_bytes) return false;
    packing_.bases[static_cast<size_t>(i)] = base;
    packing_.bytes = std::max(packing_.bytes, bytes);
    return true;
  }

  // Where the base may not be, by increasing lower end.
  void find_forbidden(int32_t i) {
    forbidden_.clear();
    for (uint32_t k : relations_.of(i)) {
      const Relation& relation = relations_.all()[k];
      const bool is_second = relation.second == i;
      const int64_t other = packing_.bases[static_cast<size_t>(is_second ? relation.first : relation.second)];
      if (other < 0) continue;
      for (uint32_t j = relation.first_interval; j < relation.last_interval; ++j) {
        const OpenInterval& interval = relations_.intervals()[j];
        const int64_t low = is_second ? interval.low : -interval.high;
        const int64_t high = is_second ? interval.high : -interval.low;
        forbidden_.push_back({other + low, other + high});
      }
      for (uint32_t j = relation.first_banks; j < relation.last_banks; ++j) {
        const Separation& pair = relations_.banks()[j];
        const int64_t bank = relations_.line().bank();
        // Above its banks, or below them.
        const int64_t low = is_second ? pair.first_lower : pair.second_lower;
        const int64_t high = is_second ? pair.first_upper : pair.second_upper;
        const int64_t own_low = is_second ? pair.second_lower : pair.first_lower;
        const int64_t own_high = is_second ? pair.second_upper : pair.first_upper;
        forbidden_.push_back(
            {align_down(other + low, bank) - own_high, align_up(other + high, bank) - own_low});
      }
    }
    std::sort(forbidden_.begin(), forbidden_.end(),
              [](const OpenInterval& a, const OpenInterval& b) { return a.low < b.low; });
  }

  const Relations& relations_;
  Packing packing_;
  std::vector<OpenInterval> forbidden_;
};

}  // namespace

std::optional<Packing> first_fit(const Relations& relations, const std::vector<int32_t>& order,
                                 int64_t max_bytes) {
  FirstFit fit(relations);
  if (!fit.place_pinned(max_bytes)) return std::nullopt;
  for (int32_t i : order) {
    if (!fit.place(i, max_bytes)) return std::nullopt;
  }
  return fit.take();
}

PartialPacking first_fit_of_some(const Relations& relations, const std::vector<int32_t>& order,
                                 int64_t max_bytes) {
  FirstFit fit(relations);
  PartialPacking outcome;
  outcome.keeps_pins = fit.place_pinned(max_bytes);
  for (int32_t i : order) {
    if (!fit.place(i, max_bytes)) outcome.left_out.push_back(i);
  }
  outcome.packing = fit.take();
  return outcome;
}

RelationSearch::RelationSearch(const Relations& relations) : relations_(relations) {}

RelationSearch::Verdict RelationSearch::search(int64_t max_bytes, const std::vector<double>& priorities,
                                               int64_t max_nodes, Budget& budget) {
  const auto n = static_cast<size_t>(relations_.num_bodies());
  bases_.assign(n, 0);
  highest_.assign(n, 0);
  bounds_.assign(n, {});
  decided_.assign(relations_.all().size(), 0);
  raises_.clear();
  queue_.clear();
  priorities_ = priorities;
  max_nodes_ = max_nodes;
  num_nodes_ = num_steps_ = 0;
  stopped_ = false;
  budget_ = &budget;
  for (size_t i = 0; i < n; ++i) {
    const Body& body = relations_.body(static_cast<int32_t>(i));
    highest_[i] = relations_.line().highest(body, max_bytes);
    bases_[i] = relations_.line().conform(body, 0);
    if (body.pin.memory >= 0) {
      bases_[i] = relations_.line().base(body.pin);
      if (bases_[i] > highest_[i]) return Verdict::kNone;
      highest_[i] = bases_[i];
    }
    if (bases_[i] > highest_[i]) return Verdict::kNone;
  }
  const Verdict verdict = solve();
  return stopped_ && verdict == Verdict::kNone ? Verdict::kUnknown : verdict;
}

RelationSearch::Verdict RelationSearch::solve() {
  if (++num_nodes_ >= max_nodes_ || (num_nodes_ % kNodesPerClock == 0 && budget_->spent())) stopped_ = true;
  if (stopped_) return Verdict::kNone;
  // Of the relations that are not kept, the one with the fewest options, and of these the lowest.
  std::vector<Option> best;
  uint32_t chosen = 0;
  double best_key = 0;
  for (uint32_t k = 0; k < relations_.all().size(); ++k) {
    const Relation& relation = relations_.all()[k];
    const auto first = static_cast<size_t>(relation.first);
    const auto second = static_cast<size_t>(relation.second);
    if (decided_[k] || relations_.keeps(relation, bases_[first], bases_[second])) continue;
    std::vector<Option> found = options(relation);
    if (found.empty()) return Verdict::kNone;
    const double key = static_cast<double>(std::max(bases_[first], bases_[second]));
    if (best.empty() || found.size() < best.size() || (found.size() == best.size() && key < best_key)) {
      best = std::move(found);
      best_key = key;
      chosen = k;
      if (best.size() == 1) break;
    }
  }
  if (best.empty()) {
    packing_.bases = bases_;
    packing_.bytes = 0;
    for (int32_t i = 0; i < relations_.num_bodies(); ++i) {
      packing_.bytes = std::max(packing_.bytes,
                                relations_.line().bytes(relations_.body(i), bases_[static_cast<size_t>(i)]));
    }
    return Verdict::kFits;
  }
  decided_[chosen] = 1;
  for (const Option& option : best) {
    const size_t num_raises = raises_.size();
    std::vector<int32_t> bounded;
    num_steps_ = 0;
    bool alive = true;
    for (const Bound& bound : option.bounds) {
      bounded.push_back(bound.from);
      bounds_[static_cast<size_t>(bound.from)].push_back(bound);
      alive = alive && add(bound);
    }
    alive = alive && propagate();
    if (alive && solve() == Verdict::kFits) return Verdict::kFits;
    undo(num_raises, bounded);
    if (stopped_) break;
  }
  decided_[chosen] = 0;
  return Verdict::kNone;
}

std::vector<RelationSearch::Option> RelationSearch::options(const Relation& relation) const {
  const int32_t a = relation.first;
  const int32_t b = relation.second;
  const auto above = [](int32_t from, int32_t to, int64_t least) {
    return Bound{from, to, least, 0, 0, false};
  };
  std::vector<Option> found;
  // From the lowest distance to the highest: below all intervals, between two, above all.
  for (uint32_t k = relation.first_interval; k <= relation.last_interval; ++k) {
    if (relation.first_interval == relation.last_interval) {
      found.push_back({});
      break;
    }
    Option option;
    if (k > relation.first_interval) option.bounds.push_back(above(a, b, relations_.intervals()[k - 1].high));
    if (k < relation.last_interval) option.bounds.push_back(above(b, a, -relations_.intervals()[k].low));
    found.push_back(std::move(option));
  }
  for (uint32_t k = relation.first_banks; k < relation.last_banks; ++k) {
    const Separation& pair = relations_.banks()[k];
    std::vector<Option> both;
    for (const Option& option : found) {
      both.push_back(option);
      both.back().bounds.push_back({a, b, 0, pair.first_upper, pair.second_lower, true});
      both.push_back(option);
      both.back().bounds.push_back({b, a, 0, pair.second_upper, pair.first_lower, true});
    }
    found = std::move(both);
  }
  found.erase(std::remove_if(found.begin(), found.end(),
                             [&](const Option& option) {
                               return std::any_of(
                                   option.bounds.begin(), option.bounds.end(), [&](const Bound& bound) {
                                     return least_base(bound) > highest_[static_cast<size_t>(bound.to)];
                                   });
                             }),
              found.end());
  // First what raises least; of equals, the preferred body below.
  const auto key = [&](const Option& option) {
    int64_t raised = 0;
    double preferred = 0;
    for (const Bound& bound : option.bounds) {
      raised += std::max<int64_t>(0, least_base(bound) - bases_[static_cast<size_t>(bound.to)]);
      if (least_base(bound) > bases_[static_cast<size_t>(bound.to)])
        preferred = priorities_[static_cast<size_t>(bound.from)];
    }
    return std::make_pair(-preferred, raised);
  };
  std::stable_sort(found.begin(), found.end(),
                   [&](const Option& x, const Option& y) { return key(x) < key(y); });
  return found;
}

int64_t RelationSearch::least_base(const Bound& bound) const {
  const int64_t from = bases_[static_cast<size_t>(bound.from)];
  if (!bound.banks) return from + bound.least;
  return align_up(from + bound.from_upper, relations_.line().bank()) - bound.to_lower;
}

bool RelationSearch::add(const Bound& bound) { return raise(bound.to, least_base(bound)); }

bool RelationSearch::raise(int32_t body, int64_t base) {
  const auto i = static_cast<size_t>(body);
  if (base <= bases_[i]) return true;
  base = relations_.line().conform(relations_.body(body), base);
  if (base > highest_[i]) return false;
  raises_.emplace_back(body, bases_[i]);
  bases_[i] = base;
  queue_.push_back(body);
  return true;
}

bool RelationSearch::propagate() {
  const int64_t max_steps = kMaxStepsPerBody * (relations_.num_bodies() + 10);
  while (!queue_.empty()) {
    const int32_t body = queue_.back();
    queue_.pop_back();
    if (++num_steps_ > max_steps) stopped_ = true;
    if (stopped_) return false;
    for (const Bound& bound : bounds_[static_cast<size_t>(body)]) {
      if (!add(bound)) return false;
    }
  }
  return true;
}

void RelationSearch::undo(size_t num_raises, const std::vector<int32_t>& bounded) {
  queue_.clear();
  for (; raises_.size() > num_raises; raises_.pop_back()) {
    bases_[static_cast<size_t>(raises_.back().first)] = raises_.back().second;
  }
  for (size_t k = bounded.size(); k-- > 0;) bounds_[static_cast<size_t>(bounded[k])].pop_back();
}

}  // namespace memomalloc::planner
