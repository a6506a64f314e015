#include "planner/greedy.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

// What is placed, by increasing offset. A struct of 24 bytes keeps the scan sequential.
struct Placed {
  int64_t offset;
  int64_t top;
  int32_t start;
  int32_t end;
};

class PlacedBuffers {
 public:
  explicit PlacedBuffers(size_t capacity) { placed_.reserve(capacity); }

  void add(const Placed& added) {
    const auto after = [](const Placed& a, const Placed& b) { return a.offset < b.offset; };
    placed_.insert(std::upper_bound(placed_.begin(), placed_.end(), added, after), added);
  }

  // The offset of the gap for [start, end) and `size`. There always is one above everything.
  int64_t find_gap(int32_t start, int32_t end, int64_t size, int64_t alignment, GreedyFit fit) const {
    int64_t roof = 0;  // the top of the neighbours passed so far
    int64_t best_offset = -1;
    int64_t smallest_gap = std::numeric_limits<int64_t>::max();
    for (const Placed& other : placed_) {
      if (other.end <= start || end <= other.start) continue;
      const int64_t offset = align_up(roof, alignment);
      const int64_t gap = other.offset - offset;
      if (gap >= size && gap < smallest_gap) {
        if (fit == GreedyFit::kFirst) return offset;
        best_offset = offset;
        smallest_gap = gap;
      }
      roof = std::max(roof, other.top);
    }
    return best_offset >= 0 ? best_offset : align_up(roof, alignment);
  }

 private:
  std::vector<Placed> placed_;
};

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

Placement place_in_order(const PreparedProblem& problem, const std::vector<int32_t>& order, GreedyFit fit) {
  Placement placement;
  placement.offsets.assign(problem.sizes.size(), 0);
  PlacedBuffers placed(problem.sizes.size());
  const auto place = [&](int32_t buffer, int64_t offset) {
    const size_t i = buffer;
    placement.offsets[i] = offset;
    placed.add({offset, offset + problem.sizes[i], problem.starts[i], problem.ends[i]});
    placement.height = std::max(placement.height, offset + problem.sizes[i]);
  };
  if (problem.has_pins()) {
    for (int32_t buffer = 0; buffer < problem.num_buffers; ++buffer) {
      if (problem.pin(buffer) != kFree) place(buffer, problem.pin(buffer));
    }
  }
  for (int32_t buffer : order) {
    if (problem.pin(buffer) != kFree) continue;
    const size_t i = buffer;
    place(buffer, placed.find_gap(problem.starts[i], problem.ends[i], problem.sizes[i],
                                  problem.alignment(buffer), fit));
  }
  return placement;
}

Placement greedy(const PreparedProblem& problem, GreedyOrder order, GreedyFit fit) {
  return place_in_order(problem, greedy_order(problem, order), fit);
}

}  // namespace memomalloc::planner
