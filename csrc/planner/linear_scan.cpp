#include "planner/linear_scan.hpp"

#include <algorithm>
#include <vector>

namespace memomalloc::planner {
namespace {

struct Active {
  int64_t offset;
  int64_t top;
  int32_t end;
};

}  // namespace

Placement linear_scan(const PreparedProblem& problem) {
  Placement placement;
  placement.offsets.assign(problem.sizes.size(), 0);
  std::vector<Active> active;  // by increasing offset
  for (int32_t buffer = 0; buffer < problem.num_buffers; ++buffer) {
    const size_t i = buffer;
    const int32_t start = problem.starts[i];
    const auto expired = [start](const Active& other) { return other.end <= start; };
    active.erase(std::remove_if(active.begin(), active.end(), expired), active.end());
    int64_t offset = 0;
    size_t position = 0;
    for (; position < active.size(); ++position) {
      offset = align_up(offset, problem.alignment(buffer));
      if (active[position].offset - offset >= problem.sizes[i]) break;
      offset = active[position].top;
    }
    offset = align_up(offset, problem.alignment(buffer));
    const int64_t top = offset + problem.sizes[i];
    active.insert(active.begin() + static_cast<int64_t>(position), {offset, top, problem.ends[i]});
    placement.offsets[i] = offset;
    placement.height = std::max(placement.height, top);
  }
  return placement;
}

}  // namespace memomalloc::planner
