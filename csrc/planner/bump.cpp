#include "planner/bump.hpp"

namespace memomalloc::planner {

Placement bump(const PreparedProblem& problem) {
  Placement placement;
  placement.offsets.reserve(problem.sizes.size());
  for (int32_t buffer = 0; buffer < problem.num_buffers; ++buffer) {
    const int64_t offset = align_up(placement.height, problem.alignment(buffer));
    placement.offsets.push_back(offset);
    placement.height = offset + problem.sizes[buffer];
  }
  return placement;
}

}  // namespace memomalloc::planner
