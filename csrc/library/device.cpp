// The C interface for the memories of a device.
#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "library/border.hpp"
#include "memomalloc/planner.h"
#include "planner/device_checker.hpp"
#include "planner/device_plan.hpp"

namespace memomalloc::library {
namespace {

// As in memomalloc.data.device_problem.
constexpr size_t kMaxMemories = 64;
constexpr size_t kMaxDeviceBuffers = size_t{1} << 20;
constexpr size_t kMaxLifetimesOfGroup = 4096;
constexpr int64_t kMaxTick = int64_t{1} << 62;

std::string in_range(const std::string& name, int64_t value, int64_t lowest, int64_t highest) {
  return name + " " + std::to_string(value) + " must be between " + std::to_string(lowest) + " and " +
         std::to_string(highest);
}

void require_between(size_t buffer, const char* name, int64_t value, int64_t lowest, int64_t highest) {
  if (value < lowest || value > highest) refuse(buffer, in_range(name, value, lowest, highest));
}

// What sums to more than a number may be is refused.
class Sum {
 public:
  void add(int64_t value, int64_t times = 1) {
    if (value > (kMaxTotal - total_) / std::max<int64_t>(1, times)) {
      refuse("sizes, alignments, banks, chunks, pins or costs sum to more than the " +
             std::to_string(kMaxTotal) + " that can be planned");
    }
    total_ += value * times;
  }

 private:
  int64_t total_ = 0;
};

int64_t least_common_multiple(int64_t a, int64_t b) {
  const int64_t factor = b / std::gcd(a, b);
  if (a > kMaxTotal / factor) refuse("alignments, banks and chunks have no common multiple up to 2^61");
  return a * factor;
}

// The caller's columns with those that are missing, validated, and the view of them.
class DeviceColumns {
 public:
  explicit DeviceColumns(const memomalloc_device_problem* pointer)
      : given_(read_struct(pointer, "device problem")), n_(given_.num_buffers), m_(given_.num_memories) {
    if (m_ < 1 || m_ > kMaxMemories) refuse("there must be 1 to 64 memories");
    if (n_ > kMaxDeviceBuffers) refuse("more buffers than the 2^20 of a device");
    require(given_.sizes, n_, "sizes");
    require(given_.lifetime_buffers, given_.num_lifetimes, "lifetime_buffers");
    require(given_.lifetime_starts, given_.num_lifetimes, "lifetime_starts");
    require(given_.lifetime_ends, given_.num_lifetimes, "lifetime_ends");
    require(given_.disjoint, given_.num_disjoint, "disjoint");
    require(given_.different_banks, given_.num_different_banks, "different_banks");
    view_.num_memories = m_;
    view_.capacities = column(given_.capacities, m_, -1);
    view_.banks = column(given_.banks, m_, 0);
    view_.chunks = column(given_.chunks, m_, 0);
    view_.num_buffers = n_;
    view_.sizes = given_.sizes;
    view_.alignments = column(given_.alignments, n_, 1);
    view_.costs = column(given_.costs, n_ * m_, 0);
    view_.groups = column(given_.groups, n_, -1);
    view_.sub_offsets = column(given_.sub_offsets, n_, 0);
    view_.pin_memories = column(given_.pin_memories, n_, -1);
    view_.pin_chunks = column(given_.pin_chunks, n_, 0);
    view_.pin_offsets = column(given_.pin_offsets, n_, 0);
    view_.num_lifetimes = given_.num_lifetimes;
    view_.lifetime_buffers = given_.lifetime_buffers;
    view_.lifetime_starts = given_.lifetime_starts;
    view_.lifetime_ends = given_.lifetime_ends;
    view_.lifetime_lowers = column(given_.lifetime_lowers, given_.num_lifetimes, 0);
    view_.num_disjoint = given_.num_disjoint;
    view_.disjoint = given_.disjoint;
    view_.num_different_banks = given_.num_different_banks;
    view_.different_banks = given_.different_banks;
    validate_memories();
    validate_buffers();
    validate_lifetimes();
    validate_groups();
    validate_pairs(view_.disjoint, view_.num_disjoint, false);
    validate_pairs(view_.different_banks, view_.num_different_banks, true);
    validate_totals();
  }

  const checker::DeviceView& view() const { return view_; }

 private:
  static void require(const int64_t* values, size_t size, const char* name) {
    if (size > 0 && values == nullptr) refuse(std::string("device problem: ") + name + " must not be null");
  }

  // The caller's, or one that has the value everywhere.
  const int64_t* column(const int64_t* values, size_t size, int64_t value) {
    if (values != nullptr) return values;
    made_.emplace_back(size, value);
    return made_.back().data();
  }

  void validate_memories() const {
    for (size_t k = 0; k < m_; ++k) {
      const auto require_from = [k](int64_t lowest, const char* name, int64_t value) {
        if (value >= lowest && value <= kMaxTotal) return;
        refuse("memory " + std::to_string(k) + ": " + in_range(name, value, lowest, kMaxTotal));
      };
      require_from(-1, "capacity", view_.capacities[k]);
      require_from(0, "bank", view_.banks[k]);
      require_from(0, "chunk", view_.chunks[k]);
    }
  }

  void validate_buffers() const {
    Sum costs;
    for (size_t i = 0; i < n_; ++i) {
      require_between(i, "size", view_.sizes[i], 0, kMaxTotal);
      if (!is_alignment(view_.alignments[i])) refuse(i, no_alignment(view_.alignments[i]));
      bool anywhere = false;
      for (size_t k = 0; k < m_; ++k) {
        const int64_t cost = view_.costs[i * m_ + k];
        if (cost < -1) refuse(i, in_range("cost", cost, -1, kMaxTotal));
        if (cost > 0) costs.add(cost);
        anywhere = anywhere || cost >= 0;
      }
      if (!anywhere) refuse(i, "its costs forbid every memory");
      const int64_t memory = view_.pin_memories[i];
      if (memory < -1 || memory >= static_cast<int64_t>(m_))
        refuse(i, "it is pinned to a memory that there is not");
      if (memory < 0) continue;
      const int64_t offset = view_.pin_offsets[i];
      const int64_t chunk = view_.pin_chunks[i];
      if (view_.costs[i * m_ + static_cast<size_t>(memory)] < 0)
        refuse(i, "it is pinned to a memory where it may not lie");
      require_between(i, "pin", offset, 0, kMaxTotal);
      if (chunk < 0 || chunk > kMaxTotal || (chunk > 0 && view_.chunks[memory] == 0)) {
        refuse(i, "it is pinned to a chunk that there is not");
      }
      if (offset % view_.alignments[i] != 0) refuse(i, "its pin is not a multiple of its alignment");
    }
  }

  void validate_lifetimes() {
    if (given_.lifetime_uppers != nullptr) {
      view_.lifetime_uppers = given_.lifetime_uppers;
    } else {
      made_.emplace_back(given_.num_lifetimes, 0);
    }
    std::vector<std::vector<std::pair<int64_t, int64_t>>> lifetimes(n_);
    for (size_t k = 0; k < given_.num_lifetimes; ++k) {
      const int64_t buffer = view_.lifetime_buffers[k];
      if (buffer < 0 || buffer >= static_cast<int64_t>(n_)) {
        refuse("lifetime " + std::to_string(k) + ": there is no buffer " + std::to_string(buffer));
      }
      const auto i = static_cast<size_t>(buffer);
      if (given_.lifetime_uppers == nullptr) made_.back()[k] = view_.sizes[i];
      const int64_t start = view_.lifetime_starts[k];
      const int64_t end = view_.lifetime_ends[k];
      if (start < -kMaxTick || end > kMaxTick || start >= end) {
        refuse(i, "its lifetime [" + std::to_string(start) + ", " + std::to_string(end) +
                      ") is empty or out of range");
      }
      lifetimes[i].emplace_back(start, end);
    }
    if (given_.lifetime_uppers == nullptr) view_.lifetime_uppers = made_.back().data();
    for (size_t k = 0; k < given_.num_lifetimes; ++k) {
      const auto i = static_cast<size_t>(view_.lifetime_buffers[k]);
      const int64_t lower = view_.lifetime_lowers[k];
      if (lower < 0 || lower > view_.lifetime_uppers[k] || view_.lifetime_uppers[k] > view_.sizes[i]) {
        refuse(i, "the bytes in use in a lifetime are not within it");
      }
    }
    num_lifetimes_.resize(n_);
    for (size_t i = 0; i < n_; ++i) {
      std::sort(lifetimes[i].begin(), lifetimes[i].end());
      num_lifetimes_[i] = lifetimes[i].size();
      if (lifetimes[i].empty()) refuse(i, "it has no lifetime");
      for (size_t k = 1; k < lifetimes[i].size(); ++k) {
        if (lifetimes[i][k - 1].second > lifetimes[i][k].first) refuse(i, "two of its lifetimes overlap");
      }
    }
  }

  void validate_groups() {
    struct Group {
      size_t first;
      int64_t lowest;
      int64_t alignment = 1;
      size_t num_lifetimes = 0;
      size_t pinned = SIZE_MAX;
    };
    std::map<int64_t, Group> groups;
    for (size_t i = 0; i < n_; ++i) {
      require_between(i, "group", view_.groups[i], -1, INT64_MAX);
      if (view_.groups[i] < 0) continue;
      const int64_t sub_offset = view_.sub_offsets[i];
      require_between(i, "sub-offset", sub_offset, 0, kMaxTotal);
      if (sub_offset % view_.alignments[i] != 0)
        refuse(i, "its sub-offset is not a multiple of its alignment");
      Group& group = groups.emplace(view_.groups[i], Group{i, sub_offset}).first->second;
      group.lowest = std::min(group.lowest, sub_offset);
      group.alignment = least_common_multiple(group.alignment, view_.alignments[i]);
      if (group.alignment > kMaxAlignment)
        refuse(i, "the alignments of its group have no common multiple up to 2^31");
      group.num_lifetimes += num_lifetimes_[i];
      if (group.num_lifetimes > kMaxLifetimesOfGroup) refuse(i, "its group has more than 4096 lifetimes");
      if (view_.pin_memories[i] < 0) continue;
      if (view_.pin_offsets[i] < sub_offset) refuse(i, "its pin contradicts its sub-offset");
      if (group.pinned == SIZE_MAX) group.pinned = i;
      const size_t other = group.pinned;
      if (view_.pin_memories[other] != view_.pin_memories[i] ||
          view_.pin_chunks[other] != view_.pin_chunks[i] ||
          view_.pin_offsets[other] - view_.sub_offsets[other] != view_.pin_offsets[i] - sub_offset) {
        throw Refusal{MEMOMALLOC_INVALID_ARGUMENT, "the pins of a group contradict its sub-offsets",
                      static_cast<int64_t>(other), static_cast<int64_t>(i)};
      }
    }
    for (const auto& [number, group] : groups) {
      if (group.lowest != 0) refuse(group.first, "the sub-offsets of its group must begin at 0");
      group_alignments_.push_back(group.alignment);
    }
  }

  void validate_pairs(const int64_t* pairs, size_t size, bool banks) const {
    for (size_t k = 0; k < size; ++k) {
      const int64_t a = pairs[2 * k];
      const int64_t b = pairs[2 * k + 1];
      const auto n = static_cast<int64_t>(n_);
      if (a < 0 || b < 0 || a >= n || b >= n || a == b) {
        refuse("pair " + std::to_string(k) + " needs two buffers that there are");
      }
      if (view_.groups[a] < 0 || view_.groups[a] != view_.groups[b]) continue;
      const int64_t first = view_.sub_offsets[a];
      const int64_t second = view_.sub_offsets[b];
      if (banks || (first < second + view_.sizes[b] && second < first + view_.sizes[a])) {
        throw Refusal{MEMOMALLOC_INVALID_ARGUMENT, "a pair that is to be apart aliases", a, b};
      }
    }
  }

  // What a plan that reuses nothing takes must be a number, whichever chunk and bank it begins in.
  void validate_totals() const {
    Sum total;
    int64_t highest_pin = 0;
    int64_t last_chunk = 0;
    int64_t common = 1;
    const bool chunked =
        std::any_of(view_.chunks, view_.chunks + m_, [](int64_t chunk) { return chunk > 0; });
    for (size_t i = 0; i < n_; ++i) {
      total.add(view_.sizes[i]);
      total.add(view_.alignments[i]);
      if (view_.groups[i] >= 0) total.add(view_.sub_offsets[i]);
      if (view_.pin_memories[i] >= 0) {
        highest_pin = std::max(highest_pin, view_.pin_offsets[i]);
        last_chunk = std::max(last_chunk, view_.pin_chunks[i]);
      }
      if (chunked) common = least_common_multiple(common, view_.alignments[i]);
    }
    total.add(highest_pin);
    const auto n = static_cast<int64_t>(n_) + 1;
    for (size_t k = 0; k < m_; ++k) {
      if (view_.banks[k] > 0) {
        int64_t bank = view_.banks[k];
        for (int64_t alignment : group_alignments_) bank = least_common_multiple(bank, alignment);
        total.add(bank, 2 * n);
        int64_t largest = 0;
        for (size_t i = 0; i < n_; ++i) {
          largest = std::max(largest, least_common_multiple(view_.banks[k], view_.alignments[i]));
        }
        total.add(largest);
      }
      if (view_.chunks[k] > 0) {
        const int64_t alignment = least_common_multiple(common, std::max<int64_t>(1, view_.banks[k]));
        if (last_chunk > kMaxTotal / 2) refuse("a pin is in a chunk that is too far");
        total.add(view_.chunks[k], n + last_chunk);
        total.add(alignment, n + last_chunk);
      }
    }
  }

  const memomalloc_device_problem given_;
  size_t n_;
  size_t m_;
  checker::DeviceView view_{};
  std::vector<std::vector<int64_t>> made_;
  std::vector<size_t> num_lifetimes_;
  std::vector<int64_t> group_alignments_;
};

const char* text_of(checker::DeviceFault fault) {
  switch (fault) {
    case checker::DeviceFault::kNone:
      break;
    case checker::DeviceFault::kNoPlace:
      return "lies in no memory or chunk that there is";
    case checker::DeviceFault::kForbidden:
      return "may not lie in that memory";
    case checker::DeviceFault::kMisaligned:
      return "lies at no multiple of its alignment";
    case checker::DeviceFault::kNotAtItsPin:
      return "does not lie at its pin";
    case checker::DeviceFault::kAcrossChunks:
      return "ends beyond its chunk";
    case checker::DeviceFault::kBeyondCapacity:
      return "ends beyond the capacity of its memory";
    case checker::DeviceFault::kNotAliased:
      return "does not lie as its group says";
    case checker::DeviceFault::kOverlap:
      return "shares bytes with another that is alive";
    case checker::DeviceFault::kNotDisjoint:
      return "shares bytes with one that it must not overlap";
    case checker::DeviceFault::kSameBank:
      return "shares a bank with one that it must not";
  }
  return "is all right";
}

void check_places(const checker::DeviceView& view, const int64_t* memories, const int64_t* chunks,
                  const int64_t* offsets) {
  const checker::DeviceFinding found = checker::find_device_fault(view, memories, chunks, offsets);
  if (found.fault == checker::DeviceFault::kNone) return;
  throw Refusal{MEMOMALLOC_INVALID_PLAN,
                "buffer " + std::to_string(found.buffer) + " " + text_of(found.fault), found.buffer,
                found.other_buffer};
}

const memomalloc_places& required(const memomalloc_places* places, size_t n, const char* name) {
  if (places == nullptr || (n > 0 && (places->memories == nullptr || places->offsets == nullptr))) {
    refuse(std::string(name) + ": memories and offsets must not be null");
  }
  return *places;
}

memomalloc_status plan_device(const memomalloc_device_problem* given_problem,
                              const memomalloc_request* given_request, const memomalloc_places* warm_start,
                              const memomalloc_places* given_places, memomalloc_device_result* given_result) {
  const memomalloc_request given = read_request(given_request);
  if (given_result != nullptr && given_result->struct_size < sizeof(memomalloc_device_result)) {
    refuse("result: struct_size is too small: begin with MEMOMALLOC_DEVICE_RESULT_INIT");
  }
  if (given.planner != nullptr && std::string(given.planner) != "auto") {
    throw Refusal{MEMOMALLOC_UNSUPPORTED, "a device is planned by auto alone"};
  }
  if (given.capacity != -1 || given.warm_start != nullptr) {
    refuse("a device's memories have the capacities, and its warm start is an argument");
  }
  if (!(given.time_limit_s >= 0)) refuse("time_limit_s must be a number of seconds, not negative");
  const DeviceColumns columns(given_problem);
  const checker::DeviceView& view = columns.view();
  const size_t n = view.num_buffers;
  const memomalloc_places& places = required(given_places, n, "places");

  planner::DeviceRequest request;
  request.time_limit_s = given.time_limit_s;
  request.seed = given.seed;
  if (warm_start != nullptr) {
    required(warm_start, n, "warm_start");
    for (size_t i = 0; i < n; ++i) {
      const int64_t chunk = warm_start->chunks == nullptr ? 0 : warm_start->chunks[i];
      const int64_t memory = warm_start->memories[i];
      const int64_t offset = warm_start->offsets[i];
      const bool is_place = memory >= 0 && memory < static_cast<int64_t>(view.num_memories) && chunk >= 0 &&
                            chunk <= static_cast<int64_t>(n) && offset >= 0 && offset <= kMaxTotal;
      request.warm_start.push_back(is_place ? planner::Place{memory, chunk, offset} : planner::Place{});
    }
  }
  Poll poll(given, 0);
  const bool was_cancelled = poll.is_cancelled();
  if (was_cancelled) request.time_limit_s = 0;
  request.poll = std::ref(poll);
  const planner::DeviceResult found = planner::plan_device(planner::device_problem_of(view), request);
  if (poll.threw()) throw Refusal{MEMOMALLOC_CALLBACK_FAILED, "the progress function threw an exception"};

  const bool planned = found.places.size() == n && !found.proven_infeasible;
  memomalloc_device_result result = MEMOMALLOC_DEVICE_RESULT_INIT;
  if (planned) {
    std::vector<int64_t> memories;
    std::vector<int64_t> chunks;
    std::vector<int64_t> offsets;
    for (const planner::Place& place : found.places) {
      memories.push_back(place.memory);
      chunks.push_back(place.chunk);
      offsets.push_back(place.offset);
    }
    try {
      check_places(view, memories.data(), chunks.data(), offsets.data());
    } catch (Refusal& refusal) {
      refusal.status = MEMOMALLOC_INTERNAL_ERROR;
      throw;
    }
    const bool chunked = std::any_of(chunks.begin(), chunks.end(), [](int64_t chunk) { return chunk > 0; });
    if (chunked && places.chunks == nullptr)
      refuse("places: chunks must not be null where a memory has several");
    std::copy(memories.begin(), memories.end(), places.memories);
    if (places.chunks != nullptr) std::copy(chunks.begin(), chunks.end(), places.chunks);
    std::copy(offsets.begin(), offsets.end(), places.offsets);
    result.cost = found.cost;
  }
  result.lower_bound = found.cost_lower_bound;
  result.elapsed_s = poll.elapsed_s();
  result.proven_cheapest = planned && found.proven_cheapest ? 1 : 0;
  result.proven_optimal = planned && found.proven_optimal ? 1 : 0;
  result.cancelled = found.cancelled || was_cancelled ? 1 : 0;
  give(given_result, result);
  if (planned) return MEMOMALLOC_OK;
  if (found.proven_infeasible)
    throw Refusal{MEMOMALLOC_NO_PLAN_EXISTS, "no plan exists within the capacities"};
  throw Refusal{MEMOMALLOC_NO_PLAN_FOUND, "no plan was found in time within the capacities"};
}

}  // namespace
}  // namespace memomalloc::library

namespace library = memomalloc::library;

extern "C" {

memomalloc_status memomalloc_plan_device(const memomalloc_device_problem* problem,
                                         const memomalloc_request* request,
                                         const memomalloc_places* warm_start, const memomalloc_places* places,
                                         memomalloc_device_result* result, memomalloc_error* error) noexcept {
  return library::guarded(error,
                          [&] { return library::plan_device(problem, request, warm_start, places, result); });
}

memomalloc_status memomalloc_check_device(const memomalloc_device_problem* problem,
                                          const memomalloc_places* places, memomalloc_error* error) noexcept {
  return library::guarded(error, [&] {
    const library::DeviceColumns columns(problem);
    const size_t n = columns.view().num_buffers;
    const memomalloc_places& given = library::required(places, n, "places");
    const std::vector<int64_t> first(given.chunks == nullptr ? n : 0, 0);
    library::check_places(columns.view(), given.memories,
                          given.chunks == nullptr ? first.data() : given.chunks, given.offsets);
    return MEMOMALLOC_OK;
  });
}

}  // extern "C"
