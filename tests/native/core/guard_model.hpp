#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "core/layout.hpp"
#include "core/region.hpp"

namespace memomalloc::testing {

// The rules of guarded replay (docs/architecture.md), and named ways to break them. A model without one of
// the rules must be caught by the tests that pass the model with all of them.
struct SoundRules {
  static constexpr bool kLooksAtSkippedSlots = true;
  static constexpr bool kBlockedCountsAsOccupied = true;
  static constexpr bool kBlocksSurvivors = true;
  static constexpr bool kLaysOverClearRegionsOnly = true;
  static constexpr bool kOneRunAtATime = true;
  static constexpr bool kTakesFreeOutputsOnly = true;
};
struct RulesWithoutSkipRule : SoundRules {
  static constexpr bool kLooksAtSkippedSlots = false;
};
struct RulesWithoutTransitivity : SoundRules {
  static constexpr bool kBlockedCountsAsOccupied = false;
};
struct RulesWithoutSurvivorScan : SoundRules {
  static constexpr bool kBlocksSurvivors = false;
};

struct RulesWithoutClearRegions : SoundRules {
  static constexpr bool kLaysOverClearRegionsOnly = false;
};
struct RulesWithoutTaking : SoundRules {
  static constexpr bool kOneRunAtATime = false;
};
struct RulesWithoutFreeOutputs : SoundRules {
  static constexpr bool kTakesFreeOutputsOnly = false;
};

// Whether two slots share a byte.
inline bool overlap(const PlannedBuffer& a, const PlannedBuffer& b) {
  return a.offset < b.offset + b.size && b.offset < a.offset + a.size;
}

// The plan as it lies in a region: without the units of 64 bytes that no slot uses but outputs, which lie
// elsewhere.
inline std::vector<PlannedBuffer> without_unused_bytes(std::vector<PlannedBuffer> plan) {
  std::set<uint64_t> used;
  for (const PlannedBuffer& buffer : plan) {
    for (uint64_t unit = buffer.offset; !buffer.escapes && unit < buffer.offset + buffer.size;
         unit += kAlignmentBytes) {
      used.insert(unit);
    }
  }
  for (PlannedBuffer& buffer : plan) {
    const auto num_below = std::distance(used.begin(), used.lower_bound(buffer.offset));
    buffer.offset = buffer.escapes ? 0 : static_cast<uint64_t>(num_below) * kAlignmentBytes;
  }
  return plan;
}

// The slots before `k` that are the last to cover some byte of it, by looking at every unit of 64 bytes.
inline std::vector<uint32_t> direct_predecessors(const std::vector<PlannedBuffer>& plan, uint32_t k) {
  std::vector<uint32_t> found;
  if (plan[k].escapes) return found;
  for (uint64_t unit = plan[k].offset; unit < plan[k].offset + plan[k].size; unit += kAlignmentBytes) {
    for (uint32_t j = k; j-- > 0;) {
      if (plan[j].escapes || unit < plan[j].offset || unit >= plan[j].offset + plan[j].size) continue;
      if (std::find(found.begin(), found.end(), j) == found.end()) found.push_back(j);
      break;
    }
  }
  return found;
}

inline bool is_exclusive(const std::vector<PlannedBuffer>& plan, uint32_t k) {
  for (uint32_t j = 0; j < plan.size(); ++j) {
    if (j != k && !plan[j].escapes && overlap(plan[j], plan[k])) return false;
  }
  return true;
}

// The outputs of a process, at addresses that exist only in the model: each where no other one lives.
template <class Rules>
class OutputModel {
 public:
  uint64_t take(uint64_t bytes) {
    uint64_t begin = 0;
    for (const auto& [other, size] : live_) {
      if (Rules::kTakesFreeOutputsOnly && other < begin + bytes && begin < other + size) begin = other + size;
    }
    live_.emplace(begin, bytes);
    return begin;
  }
  void give_back(uint64_t begin) { live_.erase(live_.find(begin)); }

 private:
  std::multimap<uint64_t, uint64_t> live_;
};

// What one region does for the plan that it is laid with, request by request, in the plainest way: no places,
// no stamps, no tables. It decides; it does not check that its decisions are safe.
template <class Rules>
class GuardModel {
 public:
  static constexpr uint64_t kUpstream = UINT64_MAX;
  static constexpr uint64_t kOutput = UINT64_MAX - 1;

  explicit GuardModel(const std::vector<PlannedBuffer>& plan)
      : plan_(without_unused_bytes(plan)), blocked_(plan_.size()) {
    for (uint32_t k = 0; k < plan_.size(); ++k) predecessors_.push_back(direct_predecessors(plan_, k));
  }

  // Whether no tensor lives in it but outputs, which lie elsewhere.
  bool is_clear() const { return live_.empty(); }

  void begin() {
    cursor_ = num_misses_ = 0;
    counts_ = {};
    num_handled_ = 0;
    for (uint32_t k = 0; k < plan_.size(); ++k) {
      // A block in the place of a slot that shares no byte is in nobody's way, nor is an output.
      blocked_[k] = Rules::kBlocksSurvivors && !plan_[k].escapes && !is_exclusive(plan_, k) &&
                    std::any_of(live_.begin(), live_.end(),
                                [&](const Live& live) { return overlap(plan_[live.slot], plan_[k]); });
    }
  }

  RunCounts end() {
    counts_.missing = plan_.size() - num_handled_;
    return counts_;
  }

  // The offset at which a request is served, or kUpstream, or kOutput.
  uint64_t take(uint64_t bytes) {
    const uint64_t wanted = (bytes + 63) / 64 * 64;
    if (cursor_ == plan_.size()) return upstream(Deviation::kExtra);
    const uint32_t match = find(wanted);
    if (match == plan_.size()) {
      ++num_misses_;
      return upstream(Deviation::kSize);
    }
    num_misses_ = 0;
    for (; cursor_ < match; ++cursor_) {
      if (Rules::kLooksAtSkippedSlots && !plan_[cursor_].escapes && is_occupied(cursor_))
        blocked_[cursor_] = true;
    }
    const uint32_t k = cursor_++;
    ++num_handled_;
    if (plan_[k].escapes) {
      ++counts_.served;
      return kOutput;
    }
    if (!is_occupied(k)) return serve(k, plan_[k].offset);
    const bool is_blocked = follows_blocked(k);
    blocked_[k] = true;
    return upstream(is_blocked ? Deviation::kBlocked : Deviation::kOccupied);
  }

  void give_back(uint64_t offset) {
    live_.erase(
        std::find_if(live_.begin(), live_.end(), [&](const Live& live) { return live.offset == offset; }));
  }

 private:
  struct Live {
    uint32_t slot;
    uint64_t offset;
  };

  uint32_t find(uint64_t wanted) const {
    const uint64_t window = std::min(1024u, 4u << std::min(num_misses_, 8u));
    for (uint32_t k = cursor_; k < plan_.size() && k < cursor_ + window; ++k) {
      if (wanted <= plan_[k].size && wanted >= plan_[k].smallest_size) return k;
    }
    return static_cast<uint32_t>(plan_.size());
  }

  bool is_live(uint32_t slot) const {
    return std::any_of(live_.begin(), live_.end(), [&](const Live& live) {
      return live.slot == slot && live.offset == plan_[slot].offset;
    });
  }

  bool follows_blocked(uint32_t k) const {
    return blocked_[k] ||
           (Rules::kBlockedCountsAsOccupied && std::any_of(predecessors_[k].begin(), predecessors_[k].end(),
                                                           [&](uint32_t j) { return blocked_[j]; }));
  }

  bool is_occupied(uint32_t k) const {
    return is_live(k) || follows_blocked(k) ||
           std::any_of(predecessors_[k].begin(), predecessors_[k].end(),
                       [&](uint32_t j) { return is_live(j); });
  }

  uint64_t serve(uint32_t slot, uint64_t offset) {
    ++counts_.served;
    live_.push_back({slot, offset});
    return offset;
  }

  uint64_t upstream(Deviation why) {
    ++counts_.upstream[static_cast<std::size_t>(why)];
    return kUpstream;
  }

  std::vector<PlannedBuffer> plan_;
  std::vector<std::vector<uint32_t>> predecessors_;
  std::vector<Live> live_;
  std::vector<bool> blocked_;
  uint32_t cursor_ = 0;
  uint32_t num_misses_ = 0;
  uint64_t num_handled_ = 0;
  RunCounts counts_;
};

}  // namespace memomalloc::testing
