#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/alignment.hpp"
#include "core/layout.hpp"
#include "random.hpp"

namespace memomalloc::testing {

struct RandomPlan {
  std::vector<PlannedBuffer> buffers;  // in the order of the run
  std::vector<uint32_t>
      ends;  // by buffer: freed before this buffer is allocated; may be the number of buffers
  uint64_t arena_bytes = 0;
};

// A plan as a planner would make it (first fit; no two buffers that are alive together overlap), with some
// escapes behind all others. One in eight is garbage: any offsets at all, which the guard must survive too.
inline RandomPlan random_plan(Random& random, uint32_t max_buffers = 25) {
  RandomPlan plan;
  const uint32_t n = random.between(2, max_buffers);
  const bool is_garbage = random.chance(0.125);
  const uint32_t num_escapes = random.below(3);
  for (uint32_t k = 0; k < n; ++k) {
    const uint32_t end = std::min(n, k + 1 + random.below(random.one_of({2, 5, 20})));
    PlannedBuffer buffer;
    buffer.size = random.between(1, 8) * kAlignmentBytes;
    buffer.smallest_size = random.chance(0.8) ? buffer.size : random.between(1, buffer.size);
    if (is_garbage) {
      buffer.offset = random.below(24) * kAlignmentBytes;
      buffer.escapes = random.chance(0.2);
    } else {
      for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t j = 0; j < k; ++j) {
          const PlannedBuffer& other = plan.buffers[j];
          if (plan.ends[j] > k && other.offset < buffer.offset + buffer.size &&
              buffer.offset < other.offset + other.size) {
            buffer.offset = other.offset + other.size;
            moved = true;
          }
        }
      }
    }
    plan.buffers.push_back(buffer);
    plan.ends.push_back(end);
    plan.arena_bytes = std::max(plan.arena_bytes, buffer.offset + buffer.size);
  }
  for (uint32_t i = 0; i < num_escapes && !is_garbage; ++i) {
    const uint32_t k = random.below(n);
    if (plan.buffers[k].escapes) continue;
    plan.buffers[k].escapes = true;
    plan.buffers[k].offset = plan.arena_bytes;
    plan.ends[k] = n;
    plan.arena_bytes += plan.buffers[k].size;
  }
  return plan;
}

}  // namespace memomalloc::testing
