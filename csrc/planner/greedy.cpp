#include "planner/greedy.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "planner/birth_index.hpp"
#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

constexpr int64_t kStepsPerClock = 500'000;  // about a millisecond

// The place of a placed buffer.
struct Place {
  int64_t offset;
  int64_t top;
};

// Finds the gap for one buffer; told of the places of its neighbours by increasing offset.
class GapFinder {
 public:
  GapFinder(int64_t size, int64_t alignment, GreedyFit fit) : size_(size), alignment_(alignment), fit_(fit) {}

  // True once the gap is found.
  bool pass(const Place& neighbour) {
    const int64_t offset = align_up(roof_, alignment_);
    const int64_t gap = neighbour.offset - offset;
    if (gap >= size_ && gap < smallest_gap_) {
      best_offset_ = offset;
      smallest_gap_ = gap;
      if (fit_ == GreedyFit::kFirst) return true;
    }
    roof_ = std::max(roof_, neighbour.top);
    return false;
  }

  // There always is a gap above everything.
  int64_t offset() const { return best_offset_ >= 0 ? best_offset_ : align_up(roof_, alignment_); }

 private:
  int64_t size_;
  int64_t alignment_;
  GreedyFit fit_;
  int64_t roof_ = 0;  // the top of the neighbours passed so far
  int64_t best_offset_ = -1;
  int64_t smallest_gap_ = std::numeric_limits<int64_t>::max();
};

// What is placed, by increasing offset, in chunks of a few hundred that know the time that they cover.
class PlacedByOffset {
 public:
  void add(const Place& place, int32_t start, int32_t end) {
    const auto after = [](const Placed& a, const Placed& b) { return a.place.offset < b.place.offset; };
    const Placed added{place, start, end};
    if (chunks_.empty()) chunks_.emplace_back();
    auto chunk = std::upper_bound(
        chunks_.begin() + 1, chunks_.end(), place.offset,
        [](int64_t offset, const Chunk& other) { return offset < other.placed.front().place.offset; });
    --chunk;
    std::vector<Placed>& placed = chunk->placed;
    placed.insert(std::upper_bound(placed.begin(), placed.end(), added, after), added);
    chunk->start = std::min(chunk->start, start);
    chunk->end = std::max(chunk->end, end);
    if (placed.size() < kChunk) return;
    Chunk upper;
    upper.placed.assign(placed.begin() + kChunk / 2, placed.end());
    placed.resize(kChunk / 2);
    chunk->cover();
    upper.cover();
    chunks_.insert(chunk + 1, std::move(upper));
  }

  // Returns the number of steps.
  int64_t find(int32_t start, int32_t end, GapFinder& gap) const {
    int64_t steps = 0;
    for (const Chunk& chunk : chunks_) {
      ++steps;
      if (chunk.end <= start || end <= chunk.start) continue;
      steps += static_cast<int64_t>(chunk.placed.size());
      for (const Placed& other : chunk.placed) {
        if (other.end <= start || end <= other.start) continue;
        if (gap.pass(other.place)) return steps;
      }
    }
    return steps;
  }

 private:
  static constexpr size_t kChunk = 512;

  struct Placed {
    Place place;
    int32_t start;
    int32_t end;
  };
  struct Chunk {
    std::vector<Placed> placed;
    int32_t start = std::numeric_limits<int32_t>::max();
    int32_t end = 0;

    void cover() {
      start = std::numeric_limits<int32_t>::max();
      end = 0;
      for (const Placed& other : placed) {
        start = std::min(start, other.start);
        end = std::max(end, other.end);
      }
    }
  };

  std::vector<Chunk> chunks_;
};

// What is placed, by birth. Visits no more than the neighbours, and sorts them.
class PlacedByBirth {
 public:
  explicit PlacedByBirth(const PreparedProblem& problem) : index_(problem), places_(problem.sizes.size()) {}

  void add(int32_t buffer, const Place& place) {
    places_[buffer] = place;
    index_.add(buffer);
  }

  // Returns the number of steps.
  int64_t find(int32_t start, int32_t end, GapFinder& gap) {
    neighbours_.clear();
    index_.for_each_alive(start, end, [&](int32_t buffer) { neighbours_.push_back(places_[buffer]); });
    std::sort(neighbours_.begin(), neighbours_.end(),
              [](const Place& a, const Place& b) { return a.offset < b.offset; });
    for (const Place& place : neighbours_) {
      if (gap.pass(place)) break;
    }
    return 8 + 8 * static_cast<int64_t>(neighbours_.size());
  }

 private:
  BirthIndex index_;
  std::vector<Place> places_;
  std::vector<Place> neighbours_;
};

// In nanoseconds, about: by birth, by offset.
std::pair<double, double> costs_ns(const PreparedProblem& problem) {
  const std::vector<int32_t> born_before = num_born_before(problem);
  double by_birth = 0;
  for (int32_t i = 0; i < problem.num_buffers; ++i) {
    // Neighbours that start later, so that each pair counts once: half of them are placed when one is.
    const auto later = static_cast<double>(born_before[problem.ends[i]] - 1 - i);
    by_birth += 200 + 3 * later * std::log2(4 + later);
  }
  const double n = problem.num_buffers;
  return {by_birth, 0.5 * n * n + 200 * n};
}

// Sections by decreasing load, and in each its buffers by decreasing size.
std::vector<int32_t> order_by_breadth(const PreparedProblem& problem) {
  const std::vector<int64_t> peaks = peak_load_of_each(problem);
  std::vector<int32_t> order(problem.sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const size_t i = a;
    const size_t j = b;
    return peaks[i] != peaks[j] ? peaks[i] > peaks[j] : problem.sizes[i] > problem.sizes[j];
  });
  return order;
}

}  // namespace

std::vector<int32_t> greedy_order(const PreparedProblem& problem, GreedyOrder order) {
  if (order == GreedyOrder::kBreadth) return order_by_breadth(problem);
  const auto key = [&](int32_t buffer) {
    const auto size = static_cast<double>(problem.sizes[buffer]);
    const double width = problem.width(buffer);
    if (order == GreedyOrder::kSize) return std::make_pair(size, width);
    if (order == GreedyOrder::kArea) return std::make_pair(size * width, size);
    return std::make_pair(width, size);
  };
  std::vector<int32_t> buffers(problem.sizes.size());
  std::iota(buffers.begin(), buffers.end(), 0);
  std::stable_sort(buffers.begin(), buffers.end(), [&](int32_t a, int32_t b) { return key(a) > key(b); });
  return buffers;
}

std::optional<Placement> place_in_order(const PreparedProblem& problem, const std::vector<int32_t>& order,
                                        GreedyFit fit, Budget& budget, int64_t cutoff) {
  Placement placement;
  placement.offsets.assign(problem.sizes.size(), 0);
  const auto [by_birth_ns, by_offset_ns] = costs_ns(problem);
  const bool birth = by_birth_ns < by_offset_ns;
  std::optional<PlacedByBirth> by_birth;
  if (birth) by_birth.emplace(problem);
  PlacedByOffset by_offset;
  const auto place = [&](int32_t buffer, int64_t offset) {
    const Place at{offset, offset + problem.sizes[buffer]};
    placement.offsets[buffer] = offset;
    placement.height = std::max(placement.height, at.top);
    if (birth) {
      by_birth->add(buffer, at);
    } else {
      by_offset.add(at, problem.starts[buffer], problem.ends[buffer]);
    }
  };
  if (problem.has_pins()) {
    for (int32_t buffer = 0; buffer < problem.num_buffers; ++buffer) {
      if (problem.pin(buffer) != kFree) place(buffer, problem.pin(buffer));
    }
  }
  PacedBudget paced(budget, kStepsPerClock);
  for (int32_t buffer : order) {
    if (problem.pin(buffer) != kFree) continue;
    GapFinder gap(problem.sizes[buffer], problem.alignment(buffer), fit);
    const int32_t start = problem.starts[buffer];
    const int32_t end = problem.ends[buffer];
    const int64_t steps = birth ? by_birth->find(start, end, gap) : by_offset.find(start, end, gap);
    place(buffer, gap.offset());
    if (placement.height >= cutoff) return std::nullopt;
    if (paced.spent_after(steps)) return std::nullopt;
  }
  return placement;
}

std::optional<Placement> greedy(const PreparedProblem& problem, GreedyOrder order, GreedyFit fit,
                                Budget& budget, int64_t cutoff) {
  return place_in_order(problem, greedy_order(problem, order), fit, budget, cutoff);
}

double greedy_cost_ns(const PreparedProblem& problem) {
  const auto [by_birth_ns, by_offset_ns] = costs_ns(problem);
  return std::min(by_birth_ns, by_offset_ns);
}

}  // namespace memomalloc::planner
