#include "planner/device_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "planner/device_checker.hpp"

namespace memomalloc::planner {
namespace {

constexpr int kNumTicks = 5;
constexpr int kMaxBytes = 20;  // of a memory without a capacity, which is enough for all
constexpr int64_t kInfinite = std::numeric_limits<int64_t>::max();

// A view of a problem for the checker, which owns what it points to.
class View {
 public:
  explicit View(const DeviceProblem& problem) {
    for (const Memory& memory : problem.memories) {
      capacities_.push_back(memory.capacity);
      banks_.push_back(memory.bank);
      chunks_.push_back(memory.chunk);
    }
    for (const Place& pin : problem.pins) {
      pin_memories_.push_back(pin.memory);
      pin_chunks_.push_back(pin.chunk);
      pin_offsets_.push_back(pin.offset);
    }
    for (const Lifetime& lifetime : problem.lifetimes) {
      buffers_.push_back(lifetime.buffer);
      starts_.push_back(lifetime.start);
      ends_.push_back(lifetime.end);
      lowers_.push_back(lifetime.lower);
      uppers_.push_back(lifetime.upper);
    }
    for (const auto& [a, b] : problem.disjoint) disjoint_.insert(disjoint_.end(), {a, b});
    for (const auto& [a, b] : problem.different_banks)
      different_banks_.insert(different_banks_.end(), {a, b});
    view_ = {problem.memories.size(),
             capacities_.data(),
             banks_.data(),
             chunks_.data(),
             problem.sizes.size(),
             problem.sizes.data(),
             problem.alignments.data(),
             problem.costs.data(),
             problem.groups.data(),
             problem.sub_offsets.data(),
             pin_memories_.data(),
             pin_chunks_.data(),
             pin_offsets_.data(),
             buffers_.size(),
             buffers_.data(),
             starts_.data(),
             ends_.data(),
             lowers_.data(),
             uppers_.data(),
             problem.disjoint.size(),
             disjoint_.data(),
             problem.different_banks.size(),
             different_banks_.data()};
  }

  checker::DeviceFault fault(const std::vector<Place>& places) const {
    std::vector<int64_t> memories;
    std::vector<int64_t> chunks;
    std::vector<int64_t> offsets;
    for (const Place& place : places) {
      memories.push_back(place.memory);
      chunks.push_back(place.chunk);
      offsets.push_back(place.offset);
    }
    return checker::find_device_fault(view_, memories.data(), chunks.data(), offsets.data()).fault;
  }

 private:
  checker::DeviceView view_{};
  std::vector<int64_t> capacities_, banks_, chunks_, pin_memories_, pin_chunks_, pin_offsets_, buffers_,
      starts_, ends_, lowers_, uppers_, disjoint_, different_banks_;
};

int below(std::mt19937& random, int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); }

DeviceProblem empty_problem(std::vector<Memory> memories) {
  DeviceProblem problem;
  problem.memories = std::move(memories);
  return problem;
}

int64_t add(DeviceProblem& problem, int64_t size, int64_t start, int64_t end, int64_t alignment = 1) {
  const auto i = static_cast<int64_t>(problem.sizes.size());
  problem.sizes.push_back(size);
  problem.alignments.push_back(alignment);
  problem.costs.insert(problem.costs.end(), problem.memories.size(), 0);
  problem.groups.push_back(-1);
  problem.sub_offsets.push_back(0);
  problem.pins.emplace_back();
  problem.lifetimes.push_back({i, start, end, 0, size});
  return i;
}

// A handful of buffers with some of each feature, so small that everything can be tried.
DeviceProblem random_problem(std::mt19937& random) {
  std::vector<Memory> memories(static_cast<size_t>(1 + below(random, 2)));
  for (Memory& memory : memories) {
    if (below(random, 3) > 0) memory.capacity = 2 + below(random, 7);
    if (below(random, 3) == 0) memory.bank = 2 + below(random, 2);
    if (below(random, 4) == 0) memory.chunk = 3 + below(random, 3);
  }
  DeviceProblem problem = empty_problem(memories);
  const int n = 2 + below(random, 4);
  for (int i = 0; i < n; ++i) {
    const int start = below(random, kNumTicks);
    const int end = start + 1 + below(random, kNumTicks - start);
    const int64_t buffer = add(problem, below(random, 8) == 0 ? 0 : 1 + below(random, 4), start, end,
                               below(random, 3) == 0 ? 2 : 1);
    const auto row = static_cast<size_t>(buffer) * memories.size();
    for (size_t m = 0; m < memories.size(); ++m) {
      problem.costs[row + m] = below(random, 6) == 0 ? kForbidden : below(random, 5) * static_cast<int>(m);
    }
    Lifetime& life = problem.lifetimes.back();
    if (end - start > 2 && below(random, 3) == 0) {
      // A gap, or one in which it needs a part of its bytes.
      const int64_t size = problem.sizes.back();
      const int64_t upper = below(random, 2) == 0 ? 0 : below(random, static_cast<int>(size) + 1);
      life.end = start + 1;
      if (upper > 0) problem.lifetimes.push_back({buffer, start + 1, start + 2, 0, upper});
      problem.lifetimes.push_back({buffer, start + 2, end, 0, size});
    }
    if (below(random, 8) == 0)
      problem.pins.back() = {below(random, static_cast<int>(memories.size())), 0, 2 * below(random, 3)};
  }
  if (below(random, 2) == 0) {
    for (int i = 0; i < 2; ++i) {
      problem.groups[static_cast<size_t>(i)] = 7;
      problem.pins[static_cast<size_t>(i)] = {};
    }
    problem.sub_offsets[1] = 2 * below(random, 3);
  }
  const auto pair = [&]() -> std::pair<int64_t, int64_t> {
    const int a = below(random, n);
    const int b = (a + 1 + below(random, n - 1)) % n;
    return {a, b};
  };
  const auto in_one_group = [&](const std::pair<int64_t, int64_t>& p) { return p.first < 2 && p.second < 2; };
  for (int k = below(random, 3); k > 0; --k) {
    const auto p = pair();
    if (!in_one_group(p)) problem.disjoint.push_back(p);
  }
  for (int k = below(random, 3); k > 0; --k) {
    const auto p = pair();
    if (!in_one_group(p)) problem.different_banks.push_back(p);
  }
  return problem;
}

// The least cost, and with it the fewest bytes of memories without a capacity, by trying every place. It
// paints bytes and ticks one by one, and knows nothing of how planners see a problem.
class Everything {
 public:
  explicit Everything(const DeviceProblem& problem) : problem_(problem), places_(problem.sizes.size()) {
    for (size_t m = 0; m < problem.memories.size(); ++m) painted_.emplace_back();
  }

  std::optional<std::pair<int64_t, int64_t>> best() {
    try_buffer(0, 0);
    if (best_.first == kInfinite) return std::nullopt;
    return best_;
  }

 private:
  // Who uses a byte at a tick; -1: nobody. By memory, address on the line of chunks, tick.
  using Bytes = std::array<std::array<int64_t, kNumTicks>, 2 * kMaxBytes>;

  int64_t key(size_t i) const {
    return problem_.groups[i] >= 0 ? 1000 + problem_.groups[i] : static_cast<int64_t>(i);
  }

  void try_buffer(size_t i, int64_t cost) {
    const std::pair<int64_t, int64_t> at_least{cost, total_bytes(i)};
    if (at_least >= best_) return;
    if (i == problem_.sizes.size()) {
      best_ = at_least;
      return;
    }
    for (size_t m = 0; m < problem_.memories.size(); ++m) {
      const int64_t more = problem_.cost(i, m);
      if (more < 0) continue;
      const int64_t chunk = problem_.memories[m].chunk;
      const int64_t chunk_bytes = chunk == 0 ? kMaxBytes : chunk;
      for (int64_t c = 0; c * chunk_bytes < kMaxBytes; ++c) {
        // What has no bytes may lie beyond the end of its chunk.
        const int64_t end = problem_.sizes[i] == 0 ? kMaxBytes : chunk_bytes - problem_.sizes[i];
        for (int64_t offset = 0; offset <= end; offset += problem_.alignments[i]) {
          places_[i] = {static_cast<int64_t>(m), c, offset};
          if (!may_lie(i)) continue;
          const std::vector<int64_t*> own = paint(i);
          if (is_clean_) try_buffer(i + 1, cost + more);
          for (int64_t* byte : own) *byte = 0;
        }
        // A buffer of no bytes is nowhere in particular.
        if (problem_.sizes[i] == 0 && problem_.pins[i].memory < 0 && problem_.groups[i] < 0) break;
      }
    }
  }

  int64_t top(size_t i) const {
    const Place& place = places_[i];
    if (problem_.sizes[i] == 0) return 0;
    return place.chunk * problem_.memories[static_cast<size_t>(place.memory)].chunk + place.offset +
           problem_.sizes[i];
  }

  bool may_lie(size_t i) const {
    const Place& place = places_[i];
    const Memory& memory = problem_.memories[static_cast<size_t>(place.memory)];
    if (memory.capacity >= 0 && top(i) > memory.capacity) return false;
    const Place& pin = problem_.pins[i];
    if (pin.memory >= 0 &&
        (pin.memory != place.memory || pin.chunk != place.chunk || pin.offset != place.offset))
      return false;
    for (size_t j = 0; j < i; ++j) {
      const Place& other = places_[j];
      const bool together = other.memory == place.memory && other.chunk == place.chunk;
      if (problem_.groups[i] >= 0 && problem_.groups[i] == problem_.groups[j] &&
          (!together || other.offset - problem_.sub_offsets[j] != place.offset - problem_.sub_offsets[i])) {
        return false;
      }
      if (!together || problem_.sizes[i] == 0 || problem_.sizes[j] == 0) continue;
      const auto is_pair = [&](const std::vector<std::pair<int64_t, int64_t>>& pairs) {
        const auto a = static_cast<int64_t>(i);
        const auto b = static_cast<int64_t>(j);
        return std::any_of(pairs.begin(), pairs.end(), [&](const auto& p) {
          return (p.first == a && p.second == b) || (p.first == b && p.second == a);
        });
      };
      for (int64_t x = place.offset; x < place.offset + problem_.sizes[i]; ++x) {
        for (int64_t y = other.offset; y < other.offset + problem_.sizes[j]; ++y) {
          if (x == y && is_pair(problem_.disjoint)) return false;
          if (memory.bank > 0 && x / memory.bank == y / memory.bank && is_pair(problem_.different_banks))
            return false;
        }
      }
    }
    return true;
  }

  std::vector<int64_t*> paint(size_t i) {
    std::vector<int64_t*> own;
    is_clean_ = true;
    const Place& place = places_[i];
    // Chunks lie far enough apart here.
    const int64_t chunk = problem_.memories[static_cast<size_t>(place.memory)].chunk;
    for (const Lifetime& life : problem_.lifetimes) {
      if (life.buffer != static_cast<int64_t>(i)) continue;
      for (int64_t tick = life.start; tick < life.end; ++tick) {
        for (int64_t x = life.lower; x < life.upper; ++x) {
          const int64_t address = place.chunk * chunk + place.offset + x;
          int64_t& byte = painted_[static_cast<size_t>(place.memory)][static_cast<size_t>(address)]
                                  [static_cast<size_t>(tick)];
          if (byte == 0) {
            byte = key(i) + 1;
            own.push_back(&byte);
          } else if (byte != key(i) + 1) {
            is_clean_ = false;
          }
        }
      }
    }
    return own;
  }

  // Of the first so many buffers.
  int64_t total_bytes(size_t num_placed) const {
    int64_t total = 0;
    for (size_t m = 0; m < problem_.memories.size(); ++m) {
      if (problem_.memories[m].capacity >= 0) continue;
      int64_t bytes = 0;
      for (size_t i = 0; i < num_placed; ++i) {
        if (places_[i].memory == static_cast<int64_t>(m)) bytes = std::max(bytes, top(i));
      }
      total += bytes;
    }
    return total;
  }

  const DeviceProblem& problem_;
  std::vector<Place> places_;
  std::vector<Bytes> painted_;
  bool is_clean_ = true;
  std::pair<int64_t, int64_t> best_{kInfinite, kInfinite};
};

int64_t unbounded_bytes(const DeviceProblem& problem, const DeviceResult& result) {
  int64_t bytes = 0;
  for (size_t m = 0; m < problem.memories.size(); ++m) {
    if (problem.memories[m].capacity < 0) bytes += result.bytes[m];
  }
  return bytes;
}

std::string described(const DeviceProblem& problem, const DeviceResult& result) {
  std::ostringstream text;
  for (const Memory& memory : problem.memories) {
    text << "\nmemory of " << memory.capacity << ", banks " << memory.bank << ", chunks " << memory.chunk;
  }
  for (size_t i = 0; i < problem.sizes.size(); ++i) {
    text << "\nbuffer of " << problem.sizes[i] << ", alignment " << problem.alignments[i] << ", group "
         << problem.groups[i] << " + " << problem.sub_offsets[i] << ", pin " << problem.pins[i].memory << " "
         << problem.pins[i].offset << ", costs";
    for (size_t m = 0; m < problem.memories.size(); ++m) text << " " << problem.cost(i, m);
    if (!result.places.empty()) {
      text << ", at " << result.places[i].memory << " " << result.places[i].chunk << " "
           << result.places[i].offset;
    }
  }
  for (const Lifetime& life : problem.lifetimes) {
    text << "\n"
         << life.buffer << " in [" << life.start << ", " << life.end << ") needs [" << life.lower << ", "
         << life.upper << ")";
  }
  for (const auto& [a, b] : problem.disjoint) text << "\ndisjoint " << a << " " << b;
  for (const auto& [a, b] : problem.different_banks) text << "\nother banks " << a << " " << b;
  return text.str();
}

// Whether there is a plan that is made without a search: in the order of the buffers, each above all others
// of its time, in the first memory that has room there.
bool first_fit_finds_a_plan(const DeviceProblem& problem) {
  struct Placed {
    size_t memory;
    Lifetime life;
    int64_t top;
  };
  std::vector<Placed> all;
  for (const Lifetime& life : problem.lifetimes) {
    bool found = false;
    for (size_t m = 0; m < problem.memories.size() && !found; ++m) {
      int64_t top = life.upper;
      for (const Placed& other : all) {
        const bool meet = other.life.start < life.end && life.start < other.life.end;
        if (other.memory == m && meet) top = std::max(top, other.top + life.upper);
      }
      found = top <= problem.memories[m].capacity;
      if (found) all.push_back({m, life, top});
    }
    if (!found) return false;
  }
  return true;
}

TEST(DevicePlan, IsFoundWithoutAnyTimeWhereFirstFitFindsOne) {
  std::mt19937 random(7);
  int num_plans = 0;
  for (int round = 0; round < 1000; ++round) {
    DeviceProblem problem = empty_problem({{70, 0, 0}, {100, 0, 0}, {130, 0, 0}});
    const int n = 4 + below(random, 60);
    for (int i = 0; i < n; ++i) {
      const int start = below(random, 40);
      const int64_t buffer = add(problem, 1 + below(random, 60), start, start + 1 + below(random, 12));
      for (size_t m = 0; m < 3; ++m) problem.costs[static_cast<size_t>(3 * buffer) + m] = below(random, 9);
    }
    if (!first_fit_finds_a_plan(problem)) continue;
    ++num_plans;
    DeviceRequest request;
    request.time_limit_s = 0;
    const DeviceResult result = plan_device(problem, request);
    ASSERT_EQ(result.places.size(), problem.num_buffers()) << "round " << round;
    EXPECT_EQ(View(problem).fault(result.places), checker::DeviceFault::kNone) << "round " << round;
  }
  EXPECT_GT(num_plans, 100);
}

TEST(DevicePlan, AgreesWithTryingEverything) {
  std::mt19937 random(1);
  int num_planned = 0;
  int num_optimal = 0;
  int num_infeasible = 0;
  for (int k = 0; k < 4000; ++k) {
    const DeviceProblem problem = random_problem(random);
    DeviceRequest request;
    request.time_limit_s = 10;
    const DeviceResult result = plan_device(problem, request);
    const auto expected = Everything(problem).best();
    ASSERT_EQ(result.places.empty(), !expected.has_value()) << "problem " << k << described(problem, result);
    if (!expected) {
      EXPECT_TRUE(result.proven_infeasible) << "problem " << k << described(problem, result);
      ++num_infeasible;
      continue;
    }
    ++num_planned;
    ASSERT_EQ(View(problem).fault(result.places), checker::DeviceFault::kNone)
        << "problem " << k << described(problem, result);
    ASSERT_TRUE(result.proven_cheapest) << "problem " << k << described(problem, result);
    ASSERT_EQ(result.cost, expected->first) << "problem " << k << described(problem, result);
    ASSERT_LE(result.cost_lower_bound, expected->first) << "problem " << k << described(problem, result);
    ASSERT_GE(unbounded_bytes(problem, result), expected->second)
        << "problem " << k << described(problem, result);
    if (result.proven_optimal) {
      ASSERT_EQ(unbounded_bytes(problem, result), expected->second)
          << "problem " << k << described(problem, result);
    }
    num_optimal += result.proven_optimal ? 1 : 0;
  }
  EXPECT_GT(num_planned, 1500);
  EXPECT_GT(num_optimal, 1000);
  EXPECT_GT(num_infeasible, 200);
}

}  // namespace
}  // namespace memomalloc::planner
