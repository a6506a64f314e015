#include "planner/device_plan.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "planner/assignment.hpp"
#include "planner/bodies.hpp"
#include "planner/body_packing.hpp"
#include "planner/memory_planner.hpp"
#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

constexpr double kShareOfMemory = 0.5;
// Of the time, for which body goes where; the rest is for memories without a capacity.
constexpr double kShareOfAssignment = 0.75;
constexpr size_t kMaxRemembered = 4096;
constexpr int kMaxFirstFits = 8;
// Of an earlier plan: what is farther is no place.
constexpr int64_t kFarthestOffset = int64_t{1} << 61;

class DevicePlanner {
 public:
  DevicePlanner(const DeviceProblem& problem, const DeviceRequest& request)
      : problem_(problem),
        request_(request),
        budget_(request.time_limit_s, request.poll),
        bodies_(bodies_of(problem)) {}

  DeviceResult plan() {
    forbid_what_is_too_large();
    for (const Body& body : bodies_.bodies) {
      if (std::all_of(body.costs.begin(), body.costs.end(),
                      [](int64_t cost) { return cost == kForbidden; })) {
        result_.proven_infeasible = true;
        return std::move(result_);
      }
    }
    find_warm_places();
    const std::optional<Assignment> only = only_assignment();
    AssignmentOutcome outcome;
    if (only) {
      outcome.best = *only;
      for (size_t i = 0; i < only->size(); ++i) {
        outcome.cost += bodies_.bodies[i].costs[static_cast<size_t>((*only)[i])];
      }
      outcome.lower_bound = outcome.cost;
      outcome.proven = true;
    } else {
      Budget share = budget_.slice(kShareOfAssignment);
      const Realise realise = [this](const Assignment& asked, bool may_move, Budget& budget) {
        return realised(asked, may_move, budget);
      };
      outcome = assign(problem_, bodies_, warm_assignment_, realise, request_.seed, share);
      if (outcome.best.empty() && !outcome.proven) outcome.best = first_fit_assignment();
    }
    result_.cost_lower_bound = outcome.lower_bound;
    if (outcome.best.empty() && !bodies_.bodies.empty()) {
      result_.proven_infeasible = outcome.proven;
    } else {
      place(outcome.best, outcome.proven, only.has_value());
    }
    result_.cancelled = budget_.cancelled();
    return std::move(result_);
  }

 private:
  void forbid_what_is_too_large() {
    for (Body& body : bodies_.bodies) {
      for (size_t m = 0; m < problem_.memories.size(); ++m) {
        const Memory& memory = problem_.memories[m];
        const bool is_pinned = body.pin.memory >= 0;
        const int64_t offset = is_pinned ? body.pin.offset : 0;
        const int64_t before = is_pinned ? body.pin.chunk * memory.chunk : 0;
        const bool fits = offset >= 0 && (memory.chunk == 0 || offset + body.extent <= memory.chunk) &&
                          (memory.capacity < 0 || before + offset + body.extent <= memory.capacity);
        // What has no bytes lies anywhere.
        if (body.extent > 0 && !fits) body.costs[m] = kForbidden;
      }
    }
  }

  std::optional<Assignment> only_assignment() const {
    Assignment assignment;
    for (const Body& body : bodies_.bodies) {
      const auto may_lie = [](int64_t cost) { return cost != kForbidden; };
      if (std::count_if(body.costs.begin(), body.costs.end(), may_lie) != 1) return std::nullopt;
      assignment.push_back(static_cast<int32_t>(std::find_if(body.costs.begin(), body.costs.end(), may_lie) -
                                                body.costs.begin()));
    }
    return assignment;
  }

  void find_warm_places() {
    if (request_.warm_start.empty()) return;
    warm_places_.resize(bodies_.bodies.size());
    warm_assignment_.assign(bodies_.bodies.size(), -1);
    for (size_t i = 0; i < problem_.num_buffers(); ++i) {
      Place place = request_.warm_start[i];
      const auto body = static_cast<size_t>(bodies_.body_of[i]);
      place.offset -= bodies_.sub_offsets[i];
      const bool is_near = place.offset <= kFarthestOffset && place.chunk >= 0 &&
                           place.chunk <= static_cast<int64_t>(problem_.num_buffers());
      if (place.memory < 0 || place.offset < 0 || !is_near || warm_places_[body].memory >= 0) continue;
      warm_places_[body] = place;
      warm_assignment_[body] = static_cast<int32_t>(place.memory);
    }
    // What the earlier plan had not goes where it is cheapest.
    for (size_t b = 0; b < bodies_.bodies.size(); ++b) {
      const std::vector<int64_t>& costs = bodies_.bodies[b].costs;
      int32_t& memory = warm_assignment_[b];
      if (memory >= 0 && costs[static_cast<size_t>(memory)] != kForbidden) continue;
      memory = -1;
      for (size_t m = 0; m < costs.size(); ++m) {
        if (costs[m] == kForbidden) continue;
        if (memory < 0 || costs[m] < costs[static_cast<size_t>(memory)]) memory = static_cast<int32_t>(m);
      }
    }
  }

  static std::vector<int32_t> members_of(const Assignment& assignment, size_t memory) {
    std::vector<int32_t> members;
    for (size_t i = 0; i < assignment.size(); ++i) {
      if (static_cast<size_t>(assignment[i]) == memory) members.push_back(static_cast<int32_t>(i));
    }
    return members;
  }

  MemoryPlan plan_one(size_t memory, const std::vector<int32_t>& members, Budget& budget) {
    std::vector<Place> from;
    if (!warm_places_.empty()) {
      for (int32_t member : members) from.push_back(warm_places_[static_cast<size_t>(member)]);
    }
    return plan_memory(problem_, bodies_, static_cast<int64_t>(memory), members, from, request_.seed, budget);
  }

  // What is known of bodies in a memory with a capacity.
  const MemoryPlan& known(size_t memory, const std::vector<int32_t>& members, Budget& budget) {
    const std::pair<size_t, std::vector<int32_t>> key{memory, members};
    const auto found = known_.find(key);
    if (found != known_.end() && (found->second.proven || !found->second.places.empty()))
      return found->second;
    if (known_.size() >= kMaxRemembered) known_.clear();
    return known_[key] = plan_one(memory, members, budget);
  }

  Realisation realised(const Assignment& asked, bool may_move, Budget& budget) {
    Realisation outcome{true, false, asked};
    for (size_t m = 0; m < problem_.memories.size(); ++m) {
      if (problem_.memories[m].capacity < 0) continue;
      const std::vector<int32_t> members = members_of(outcome.assignment, m);
      if (members.empty()) continue;
      Budget share = budget.slice(kShareOfMemory);
      const MemoryPlan& found = known(m, members, share);
      if (!found.places.empty()) continue;
      if (may_move && move_on(outcome.assignment, m, members, found.partly)) continue;
      return {false, found.proven, asked};
    }
    return outcome;
  }

  // What does not fit moves to a later memory: what ends above the capacity in the best placement there was,
  // or what finds no room by first fit, whichever costs less. False where there is no later one.
  bool move_on(Assignment& assignment, size_t memory, const std::vector<int32_t>& members,
               std::vector<Place> partly) {
    std::vector<Place> best;
    double least = std::numeric_limits<double>::infinity();
    const auto consider = [&](std::vector<Place> places) {
      double cost = 0;
      for (size_t i = 0; i < members.size(); ++i) {
        if (places[i].memory < 0) cost += cheapest_later(members[i], memory).first;
      }
      if (cost >= least) return;
      least = cost;
      best = std::move(places);
    };
    if (!partly.empty()) consider(std::move(partly));
    consider(first_fit_places(memory, members));
    if (best.empty()) return false;
    std::vector<int32_t> rest;
    MemoryPlan plan;
    for (size_t i = 0; i < members.size(); ++i) {
      if (best[i].memory < 0) {
        assignment[static_cast<size_t>(members[i])] = cheapest_later(members[i], memory).second;
      } else {
        rest.push_back(members[i]);
        plan.places.push_back(best[i]);
      }
    }
    // They lie as they were placed: known to fit.
    if (!rest.empty()) known_[{memory, rest}] = with_bytes(memory, rest, std::move(plan));
    return true;
  }

  MemoryPlan with_bytes(size_t memory, const std::vector<int32_t>& members, MemoryPlan plan) const {
    const int64_t chunk = problem_.memories[memory].chunk;
    for (size_t i = 0; i < members.size(); ++i) {
      const int64_t extent = bodies_.bodies[static_cast<size_t>(members[i])].extent;
      if (extent == 0) continue;
      plan.bytes = std::max(plan.bytes, plan.places[i].chunk * chunk + plan.places[i].offset + extent);
    }
    return plan;
  }

  // By first fit, those first that lose most elsewhere for their bytes and ticks; memory -1 for those without
  // room.
  std::vector<Place> first_fit_places(size_t memory, const std::vector<int32_t>& members) const {
    const Relations relations(bodies_, members, problem_.memories[memory]);
    std::vector<Place> places(members.size());
    if (relations.too_many()) return places;
    std::vector<double> keys;
    for (int32_t member : members) {
      const Body& body = bodies_.bodies[static_cast<size_t>(member)];
      const double width = static_cast<double>(body.end()) - static_cast<double>(body.start());
      keys.push_back(-cheapest_later(member, memory).first / (1 + static_cast<double>(body.extent) * width));
    }
    const PartialPacking found =
        first_fit_of_some(relations, order_by(keys), problem_.memories[memory].capacity);
    for (size_t i = 0; i < members.size() && found.keeps_pins; ++i) {
      const int64_t base = found.packing.bases[i];
      if (base >= 0) places[i] = relations.line().place(static_cast<int64_t>(memory), base);
    }
    return places;
  }

  // The cheapest memory after one that a body may lie in, and how much more it costs there.
  std::pair<double, int32_t> cheapest_later(int32_t body, size_t memory) const {
    const std::vector<int64_t>& costs = bodies_.bodies[static_cast<size_t>(body)].costs;
    std::pair<double, int32_t> best{std::numeric_limits<double>::infinity(), -1};
    for (size_t m = memory + 1; m < costs.size(); ++m) {
      if (costs[m] == kForbidden) continue;
      const auto more = static_cast<double>(costs[m] - costs[memory]);
      if (more < best.first) best = {more, static_cast<int32_t>(m)};
    }
    return best;
  }

  // Where the search found nothing in its time: by first fit in one of some orders, each body in the cheapest
  // memory with room for it or, if that leaves some out, in the first one. What was left out comes before all
  // others the next time. Empty: nothing was found.
  Assignment first_fit_assignment() {
    std::vector<std::vector<int32_t>> by_cost;
    std::vector<std::vector<int32_t>> by_index;
    std::array<std::vector<double>, 4> keys;
    for (const Body& body : bodies_.bodies) {
      const auto cost = [&](int32_t m) { return body.costs[static_cast<size_t>(m)]; };
      by_index.emplace_back();
      for (size_t m = 0; m < body.costs.size(); ++m) {
        if (body.costs[m] != kForbidden) by_index.back().push_back(static_cast<int32_t>(m));
      }
      by_cost.push_back(by_index.back());
      std::vector<int32_t>& own = by_cost.back();
      std::stable_sort(own.begin(), own.end(), [&](int32_t a, int32_t b) { return cost(a) < cost(b); });
      const double loss = own.size() < 2 ? std::numeric_limits<double>::infinity()
                                         : static_cast<double>(cost(own[1]) - cost(own[0]));
      const auto extent = static_cast<double>(body.extent);
      const double volume =
          1 + extent * (static_cast<double>(body.end()) - static_cast<double>(body.start()));
      keys[0].push_back(-loss / volume);
      keys[1].push_back(-extent);
      keys[2].push_back(-volume);
      keys[3].push_back(static_cast<double>(body.start()));
    }
    size_t num_relations = 0;
    for (const auto* choices : {&by_cost, &by_index}) {
      for (const std::vector<double>& own : keys) {
        std::vector<int32_t> order = order_by(own);
        for (int round = 0; round < kMaxFirstFits && num_relations < Relations::kMaxRelations; ++round) {
          std::vector<char> is_left_out(bodies_.bodies.size(), 0);
          const Assignment found = first_fit_assignment(*choices, order, is_left_out, num_relations);
          if (!found.empty()) return found;
          std::stable_partition(order.begin(), order.end(),
                                [&](int32_t body) { return is_left_out[static_cast<size_t>(body)] != 0; });
        }
      }
    }
    return {};
  }

  // Each body goes to the first of its choices that has room for it beside those before it. Empty where some
  // find none. Adds the relations that were looked at.
  Assignment first_fit_assignment(const std::vector<std::vector<int32_t>>& choices,
                                  const std::vector<int32_t>& order, std::vector<char>& is_left_out,
                                  size_t& num_relations) {
    std::vector<size_t> chosen(bodies_.bodies.size(), 0);
    std::vector<std::vector<int32_t>> members(problem_.memories.size());  // those first that came first
    for (int32_t body : order) {
      members[static_cast<size_t>(choices[static_cast<size_t>(body)].front())].push_back(body);
    }
    bool complete = true;
    std::vector<char> has_changed(members.size(), 1);
    const auto next = [&] {
      return static_cast<size_t>(std::find(has_changed.begin(), has_changed.end(), 1) - has_changed.begin());
    };
    for (size_t m = next(); m < members.size(); m = next()) {
      has_changed[m] = 0;
      const Memory& memory = problem_.memories[m];
      if (memory.capacity < 0 || members[m].empty()) continue;
      const Relations relations(bodies_, members[m], memory);
      if (relations.too_many()) return {};
      num_relations += relations.all().size();
      std::vector<int32_t> positions(members[m].size());
      std::iota(positions.begin(), positions.end(), 0);
      const PartialPacking found = first_fit_of_some(relations, positions, memory.capacity);
      if (!found.keeps_pins) return {};
      std::map<int32_t, Place> places;
      for (size_t i = 0; i < members[m].size(); ++i) {
        const int64_t base = found.packing.bases[i];
        if (base >= 0) places[members[m][i]] = relations.line().place(static_cast<int64_t>(m), base);
      }
      for (int32_t position : found.left_out) {
        const int32_t body = members[m][static_cast<size_t>(position)];
        const std::vector<int32_t>& own = choices[static_cast<size_t>(body)];
        size_t& choice = chosen[static_cast<size_t>(body)];
        if (choice + 1 == own.size()) {
          complete = false;
          is_left_out[static_cast<size_t>(body)] = 1;
          continue;
        }
        const auto to = static_cast<size_t>(own[++choice]);
        members[to].push_back(body);
        has_changed[to] = 1;
      }
      members[m].erase(std::remove_if(members[m].begin(), members[m].end(),
                                      [&](int32_t body) { return places.count(body) == 0; }),
                       members[m].end());
      std::vector<int32_t> rest;
      MemoryPlan plan;
      for (const auto& [body, place] : places) {
        rest.push_back(body);
        plan.places.push_back(place);
      }
      if (!rest.empty()) known_[{m, rest}] = with_bytes(m, rest, std::move(plan));
    }
    if (!complete) return {};
    Assignment assignment(bodies_.bodies.size());
    for (size_t i = 0; i < assignment.size(); ++i) assignment[i] = choices[i][chosen[i]];
    return assignment;
  }

  void place(const Assignment& assignment, bool proven_cheapest, bool only) {
    std::vector<Place> bases(bodies_.bodies.size());
    result_.bytes.assign(problem_.memories.size(), 0);
    bool proven = proven_cheapest;
    bool within = true;
    std::vector<size_t> open;
    for (size_t m = 0; m < problem_.memories.size(); ++m) {
      if (!members_of(assignment, m).empty()) open.push_back(m);
    }
    for (size_t k = 0; k < open.size(); ++k) {
      const size_t m = open[k];
      const std::vector<int32_t> members = members_of(assignment, m);
      const bool bounded = problem_.memories[m].capacity >= 0;
      Budget share = budget_.slice(1.0 / static_cast<double>(open.size() - k));
      const MemoryPlan found = bounded ? known(m, members, share) : plan_one(m, members, share);
      if (found.places.empty()) {
        // There was no choice; or, where there is no capacity, pins lie on each other in any case.
        result_.proven_infeasible = found.proven;
        within = false;
        break;
      }
      // Other assignments of the same cost may need less.
      if (!bounded) proven = proven && found.proven && (only || found.bytes == 0);
      result_.bytes[m] = found.bytes;
      for (size_t i = 0; i < members.size(); ++i) bases[static_cast<size_t>(members[i])] = found.places[i];
    }
    if (!within) {
      result_.bytes.clear();
      return;
    }
    for (size_t i = 0; i < assignment.size(); ++i) {
      result_.cost += bodies_.bodies[i].costs[static_cast<size_t>(assignment[i])];
    }
    result_.proven_cheapest = proven_cheapest;
    result_.proven_optimal = proven;
    result_.places.resize(problem_.num_buffers());
    for (size_t i = 0; i < problem_.num_buffers(); ++i) {
      const auto body = static_cast<size_t>(bodies_.body_of[i]);
      // A pin without bytes may lie between two chunks.
      result_.places[i] = bodies_.bodies[body].pin.memory >= 0 ? bodies_.bodies[body].pin : bases[body];
      result_.places[i].offset += bodies_.sub_offsets[i];
    }
  }

  const DeviceProblem& problem_;
  const DeviceRequest& request_;
  Budget budget_;
  Bodies bodies_;
  std::vector<Place> warm_places_;  // of the bases of bodies
  Assignment warm_assignment_;
  std::map<std::pair<size_t, std::vector<int32_t>>, MemoryPlan> known_;
  DeviceResult result_;
};

}  // namespace

DeviceResult plan_device(const DeviceProblem& problem, const DeviceRequest& request) {
  return DevicePlanner(problem, request).plan();
}

}  // namespace memomalloc::planner
