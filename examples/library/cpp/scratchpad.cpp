// Tiles for a scratchpad with a fixed input, vector and DMA alignments, and a capacity, in C++.
//
//   cmake -B build -DCMAKE_PREFIX_PATH=PREFIX && cmake --build build && build/scratchpad
#include <cstdint>
#include <iostream>
#include <memomalloc/planner.hpp>

int main() {
  memomalloc::Problem problem;
  problem.alignment = 64;  // of vector loads, for every buffer
  const size_t weights = problem.add(65536, 0, 40);
  problem.pin(weights, 0);  // where the DMA engine puts them
  for (int64_t tile = 0; tile < 12; ++tile) {
    // A tile is fetched while the one before is computed, and its result is stored while the next is.
    const int64_t tick = 3 * tile;
    const size_t input = problem.add(12000 + 512 * (tile % 3), tick, tick + 5);
    problem.align(input, 4096);  // of the DMA engine
    problem.add(20000, tick + 2, tick + 6);
  }

  memomalloc::Request request;
  request.time_limit_s = 2;
  request.progress = [](const memomalloc_progress& progress) {
    std::cerr << progress.elapsed_s << " s: " << progress.best_arena << " bytes\n";
    return true;  // go on
  };
  const memomalloc::Plan smallest = memomalloc::plan(problem, request);
  if (!smallest) {
    std::cerr << smallest.message << '\n';
    return 1;
  }
  std::cout << problem.sizes.size() << " buffers in " << smallest.arena << " bytes, no plan needs less than "
            << smallest.lower_bound << "; " << smallest.planner << '\n';

  // The gate of a build: does it fit, and if not, can it?
  for (const int64_t capacity : {smallest.arena, smallest.lower_bound - 64}) {
    request.capacity = capacity;
    const memomalloc::Plan fitting = memomalloc::plan(problem, request);
    std::cout << capacity << " bytes: ";
    if (fitting) {
      std::cout << "fits\n";
    } else {
      std::cout << (fitting.status == memomalloc::Status::kNoPlanExists ? "cannot fit" : "not found in time")
                << '\n';
    }
  }
  return 0;
}
