#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/arena.hpp"
#include "core/layout.hpp"

namespace memomalloc::testing {

// The rules of guarded replay (docs/architecture.md), and named ways to break them. A model without one of
// the rules must be caught by the tests that pass the model with all of them.
struct SoundRules {
  static constexpr bool kLooksAtSkippedSlots = true;
  static constexpr bool kBlockedCountsAsOccupied = true;
  static constexpr bool kBlocksSurvivors = true;
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

// Whether two slots share a byte.
inline bool overlap(const PlannedBuffer& a, const PlannedBuffer& b) {
  return a.offset < b.offset + b.size && b.offset < a.offset + a.size;
}

// The slots before `k` that are the last to cover some byte of it, by looking at every unit of 64 bytes.
inline std::vector<uint32_t> direct_predecessors(const std::vector<PlannedBuffer>& plan, uint32_t k) {
  std::vector<uint32_t> found;
  for (uint64_t unit = plan[k].offset; unit < plan[k].offset + plan[k].size; unit += kAlignmentBytes) {
    for (uint32_t j = k; j-- > 0;) {
      if (unit < plan[j].offset || unit >= plan[j].offset + plan[j].size) continue;
      if (std::find(found.begin(), found.end(), j) == found.end()) found.push_back(j);
      break;
    }
  }
  return found;
}

inline bool is_exclusive(const std::vector<PlannedBuffer>& plan, uint32_t k) {
  for (uint32_t j = 0; j < plan.size(); ++j) {
    if (j != k && overlap(plan[j], plan[k])) return false;
  }
  return true;
}

// What one arena does, request by request, in the plainest way: no places, no stamps, no tables. It decides;
// it does not check that its decisions are safe.
template <class Rules>
class GuardModel {
 public:
  static constexpr uint64_t kUpstream = UINT64_MAX;

  GuardModel(std::vector<PlannedBuffer> plan, uint64_t arena_bytes, uint32_t num_spares)
      : plan_(std::move(plan)), blocked_(plan_.size()) {
    uint64_t end = arena_bytes;
    for (uint32_t k = 0; k < plan_.size(); ++k) {
      predecessors_.push_back(direct_predecessors(plan_, k));
      spare_offsets_.emplace_back();
      if (!plan_[k].escapes || !is_exclusive(plan_, k)) continue;
      for (uint32_t spare = 0; spare < num_spares; ++spare) {
        spare_offsets_.back().push_back(end);
        end += plan_[k].size;
      }
    }
  }

  void begin() {
    cursor_ = num_misses_ = 0;
    counts_ = {};
    num_handled_ = 0;
    for (uint32_t k = 0; k < plan_.size(); ++k) {
      // A block in a spare place, or in the place of a slot that shares no byte, is in nobody's way.
      blocked_[k] = Rules::kBlocksSurvivors && !is_exclusive(plan_, k) &&
                    std::any_of(live_.begin(), live_.end(),
                                [&](const Live& live) { return overlap(plan_[live.slot], plan_[k]); });
    }
  }

  RunCounts end() {
    counts_.missing = plan_.size() - num_handled_;
    return counts_;
  }

  // The offset at which a request is served, or kUpstream.
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
      if (Rules::kLooksAtSkippedSlots && is_occupied(cursor_)) blocked_[cursor_] = true;
    }
    const uint32_t k = cursor_++;
    ++num_handled_;
    if (!is_occupied(k)) return serve(k, plan_[k].offset);
    for (const uint64_t offset : spare_offsets_[k]) {
      if (!is_live_at(offset)) return serve(k, offset);
    }
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

  bool is_live_at(uint64_t offset) const {
    return std::any_of(live_.begin(), live_.end(), [&](const Live& live) { return live.offset == offset; });
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
  std::vector<std::vector<uint64_t>> spare_offsets_;
  std::vector<Live> live_;
  std::vector<bool> blocked_;
  uint32_t cursor_ = 0;
  uint32_t num_misses_ = 0;
  uint64_t num_handled_ = 0;
  RunCounts counts_;
};

}  // namespace memomalloc::testing
