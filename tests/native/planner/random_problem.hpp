// Small random problems, and the best placement of them by trying everything.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "planner/problem.hpp"

namespace memomalloc::planner {

enum Features { kPlain = 0, kAligned = 1, kPinned = 2 };

inline int below(std::mt19937& random, int n) {
  return static_cast<int>(random() % static_cast<unsigned>(n));
}

// Sizes from 1 to 9, lifetimes within about a dozen ticks.
inline Problem random_problem(std::mt19937& random, int num_buffers, int features = kPlain) {
  Problem problem;
  for (int i = 0; i < num_buffers; ++i) {
    problem.starts.push_back(below(random, 8));
    problem.ends.push_back(problem.starts.back() + 1 + below(random, 5));
    problem.sizes.push_back(1 + below(random, 9));
    if (features & kAligned) problem.alignments.push_back(1 + below(random, 4));
  }
  if (features & kPinned) {
    problem.pins.assign(problem.sizes.size(), kFree);
    const auto buffer = static_cast<size_t>(below(random, num_buffers));
    problem.pins[buffer] = 12 * below(random, 3);  // a multiple of every alignment
  }
  return problem;
}

// The smallest arena, by stacking the buffers in every order: in a placement in which nothing can be moved
// down, each is at the first place above what is below it. With pins: around the pinned ones. For up to about
// seven buffers.
inline int64_t smallest_arena(const Problem& problem) {
  const size_t n = problem.sizes.size();
  std::vector<size_t> order;
  std::vector<int64_t> offsets(n, 0);
  int64_t pinned_height = 0;
  for (size_t i = 0; i < n; ++i) {
    if (problem.pins.empty() || problem.pins[i] == kFree) {
      order.push_back(i);
    } else {
      offsets[i] = problem.pins[i];
      pinned_height = std::max(pinned_height, offsets[i] + problem.sizes[i]);
    }
  }
  int64_t best = std::numeric_limits<int64_t>::max();
  do {
    int64_t height = pinned_height;
    std::vector<size_t> placed;
    for (size_t i = 0; i < n; ++i) {
      if (!problem.pins.empty() && problem.pins[i] != kFree) placed.push_back(i);
    }
    for (size_t i : order) {
      // The first offset at which nothing placed is in the way.
      int64_t offset = 0;
      for (bool moved = true; moved;) {
        moved = false;
        for (size_t j : placed) {
          const bool alive = problem.starts[j] < problem.ends[i] && problem.starts[i] < problem.ends[j];
          if (alive && offset < offsets[j] + problem.sizes[j] && offsets[j] < offset + problem.sizes[i]) {
            offset = align_up(offsets[j] + problem.sizes[j],
                              problem.alignments.empty() ? 1 : problem.alignments[i]);
            moved = true;
          }
        }
      }
      offsets[i] = offset;
      placed.push_back(i);
      height = std::max(height, offset + problem.sizes[i]);
    }
    best = std::min(best, height);
  } while (std::next_permutation(order.begin(), order.end()));
  return best;
}

// Full at every tick: what dies makes room for a random choice of what is born. Often hard, sometimes
// impossible to place at the lower bound.
inline Problem churning_problem(std::mt19937& random, int64_t load, int num_ticks) {
  Problem problem;
  const auto fill = [&](int64_t bytes, int64_t tick) {
    while (bytes > 0) {
      problem.sizes.push_back(1 + below(random, static_cast<int>(bytes)));
      problem.starts.push_back(tick);
      problem.ends.push_back(num_ticks);
      bytes -= problem.sizes.back();
    }
  };
  fill(load, 0);
  for (int tick = 1; tick < num_ticks; ++tick) {
    int64_t freed = 0;
    for (size_t i = 0; i < problem.sizes.size(); ++i) {
      if (problem.ends[i] < num_ticks || below(random, 2) == 0) continue;
      problem.ends[i] = tick;
      freed += problem.sizes[i];
    }
    fill(freed, tick);
  }
  return problem;
}

// Rectangles that fill one of 1024 ticks and units, cut at random: they can be placed at the lower bound,
// 1024.
inline Problem cut_rectangle(std::mt19937& random, size_t num_buffers) {
  struct Piece {
    int start, end, offset, top;
    int area() const { return (end - start) * (top - offset); }
  };
  std::vector<Piece> pieces = {{0, 1024, 0, 1024}};
  while (pieces.size() < num_buffers) {
    // A large one, so that no crumbs and no giants remain.
    size_t largest = 0;
    for (int k = 0; k < 8; ++k) {
      const auto i = static_cast<size_t>(below(random, static_cast<int>(pieces.size())));
      if (k == 0 || pieces[i].area() > pieces[largest].area()) largest = i;
    }
    Piece half = pieces[largest];
    if (below(random, 2) == 0) {
      if (half.end - half.start < 2) continue;
      half.start = half.start + 1 + below(random, half.end - half.start - 1);
      pieces[largest].end = half.start;
    } else {
      if (half.top - half.offset < 2) continue;
      half.offset = half.offset + 1 + below(random, half.top - half.offset - 1);
      pieces[largest].top = half.offset;
    }
    pieces.push_back(half);
  }
  Problem problem;
  for (const Piece& piece : pieces) {
    problem.sizes.push_back(piece.top - piece.offset);
    problem.starts.push_back(piece.start);
    problem.ends.push_back(piece.end);
  }
  return problem;
}

// Whether the buffers fit into `capacity`, by stacking them in every order, cut off where the stack is too
// high.
inline bool fits_somehow(const Problem& problem, int64_t capacity, std::vector<int64_t> floors = {}) {
  if (floors.empty()) floors.assign(problem.sizes.size(), 0);  // -1: placed
  bool all_placed = true;
  for (size_t i = 0; i < floors.size(); ++i) {
    if (floors[i] < 0) continue;
    all_placed = false;
    const int64_t top = floors[i] + problem.sizes[i];
    if (top > capacity) return false;
  }
  if (all_placed) return true;
  for (size_t i = 0; i < floors.size(); ++i) {
    if (floors[i] < 0) continue;
    std::vector<int64_t> raised = floors;
    raised[i] = -1;
    for (size_t j = 0; j < floors.size(); ++j) {
      const bool alive = problem.starts[j] < problem.ends[i] && problem.starts[i] < problem.ends[j];
      if (raised[j] >= 0 && alive) raised[j] = std::max(raised[j], floors[i] + problem.sizes[i]);
    }
    if (fits_somehow(problem, capacity, std::move(raised))) return true;
  }
  return false;
}

}  // namespace memomalloc::planner
