// What one allocate-and-free pair costs: replayed from a plan, passed through, and by the allocator behind.
// Prints one JSON object. Run by benchmarks/fast_path.py under each allocator in turn.
//
// Usage: fast_path_benchmark [rounds]
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "core/armed_plan.hpp"
#include "core/front.hpp"
#include "core/upstream_memory.hpp"

namespace memomalloc {
namespace {

// As torch calls its allocator: posix_memalign at 64 bytes, through a pointer.
void* allocate_upstream(std::size_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, kAlignmentBytes, bytes) != 0) throw std::bad_alloc();
  return block;
}
void release_upstream(void* block) noexcept { std::free(block); }
bool never_profiling() noexcept { return false; }
void report_nothing(void*, int64_t) noexcept {}

// Not inlined: a program reaches us through a virtual call.
__attribute__((noinline)) void* allocate_ours(std::size_t bytes) { return allocate(bytes); }
__attribute__((noinline)) void release_ours(void* block) noexcept { release(block); }

struct Allocator {
  void* (*allocate)(std::size_t bytes);
  void (*release)(void* block) noexcept;
};

// A program of allocations and frees, as a plan sees it. Blocks are numbered in the order of allocation.
struct Workload {
  struct Event {
    uint32_t block;
    bool is_allocation;
  };

  std::string name;
  std::vector<std::size_t> sizes;
  std::vector<Event> events;
  std::vector<PlannedBuffer> plan;
  uint64_t arena_bytes = 0;
  std::size_t num_pairs() const { return sizes.size(); }
};

// Places each block at the lowest offset that no block alive with it uses.
void plan_first_fit(Workload& workload) {
  std::vector<uint32_t> alive;
  for (const Workload::Event& event : workload.events) {
    if (!event.is_allocation) {
      alive.erase(std::find(alive.begin(), alive.end(), event.block));
      continue;
    }
    PlannedBuffer buffer;
    buffer.size = buffer.smallest_size = round_up_to_alignment(workload.sizes[event.block]);
    std::sort(alive.begin(), alive.end(),
              [&](uint32_t a, uint32_t b) { return workload.plan[a].offset < workload.plan[b].offset; });
    for (const uint32_t other : alive) {
      if (workload.plan[other].offset - buffer.offset >= buffer.size) break;
      buffer.offset = workload.plan[other].offset + workload.plan[other].size;
    }
    alive.push_back(event.block);
    workload.arena_bytes = std::max(workload.arena_bytes, buffer.offset + buffer.size);
    workload.plan.push_back(buffer);
  }
}

Workload pairs_of(std::string name, std::size_t bytes) {
  constexpr uint32_t kNumPairs = 256;
  Workload workload{std::move(name), std::vector<std::size_t>(kNumPairs, bytes), {}, {}};
  for (uint32_t block = 0; block < kNumPairs; ++block) {
    workload.events.push_back({block, true});
    workload.events.push_back({block, false});
  }
  plan_first_fit(workload);
  return workload;
}

// The tensors of a convolutional network with residual connections: each layer's output lives until the next
// but one is made, its scratchpad only as long as the layer.
Workload network_mix() {
  constexpr std::array<std::size_t, 16> kOutputs = {1605632, 4816896, 1204224, 301056, 1806336, 451584,
                                                    112896,  677376,  150528,  37632,  225792,  94080,
                                                    15680,   62720,   5120,    4000};
  Workload workload{"mix", {}, {}, {}};
  std::vector<uint32_t> outputs;
  const auto allocate_block = [&](std::size_t bytes) {
    workload.sizes.push_back(bytes);
    workload.events.push_back({static_cast<uint32_t>(workload.sizes.size() - 1), true});
    return workload.events.back().block;
  };
  const auto release_block = [&](uint32_t block) { workload.events.push_back({block, false}); };
  for (uint32_t layer = 0; layer < 8 * kOutputs.size(); ++layer) {
    outputs.push_back(allocate_block(kOutputs[layer % kOutputs.size()]));
    release_block(allocate_block(64 + 640 * (layer % 7)));
    if (outputs.size() > 2) {
      release_block(outputs.front());
      outputs.erase(outputs.begin());
    }
  }
  for (const uint32_t output : outputs) release_block(output);
  plan_first_fit(workload);
  return workload;
}

// Nanoseconds a pair of one pass over the workload.
double time_pass(const Workload& workload, const Allocator& allocator, std::vector<void*>& blocks) {
  const auto start = std::chrono::steady_clock::now();
  for (const Workload::Event& event : workload.events) {
    if (event.is_allocation) {
      blocks[event.block] = allocator.allocate(workload.sizes[event.block]);
    } else {
      allocator.release(blocks[event.block]);
    }
  }
  const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - start;
  return elapsed.count() / static_cast<double>(workload.num_pairs());
}

struct Samples {
  std::vector<double> upstream_ns;
  std::vector<double> pass_through_ns;
  std::vector<double> replay_ns;
};

// Rounds are interleaved, so that a slow moment of the machine hits all three alike. A round's figure is the
// best of a few passes: the interrupts are not what is measured.
Samples measure(const Workload& workload, uint32_t rounds) {
  constexpr int kPasses = 8;
  const Allocator upstream{&allocate_upstream, &release_upstream};
  const Allocator ours{&allocate_ours, &release_ours};
  std::vector<void*> blocks(workload.num_pairs());
  const auto layout = std::make_shared<const Layout>(workload.plan, workload.arena_bytes);
  const auto plan = ArmedPlan::make(layout);
  Samples samples;
  const auto best_of = [&](const Allocator& allocator, bool in_run) {
    double best = 1e300;
    for (int pass = 0; pass < kPasses; ++pass) {
      const BeginResult run = in_run ? plan->begin() : BeginResult{Begin::kNested, 0};
      best = std::min(best, time_pass(workload, allocator, blocks));
      if (!in_run) continue;
      const RunCounts counts = ArmedPlan::end(run.token);
      if (run.outcome != Begin::kStarted || counts.served != workload.num_pairs()) {
        std::fprintf(stderr, "the plan did not serve %s\n", workload.name.c_str());
        std::exit(1);
      }
    }
    return best;
  };
  for (uint32_t round = 0; round < rounds; ++round) {
    samples.upstream_ns.push_back(best_of(upstream, false));
    samples.pass_through_ns.push_back(best_of(ours, false));
    samples.replay_ns.push_back(best_of(ours, true));
  }
  return samples;
}

// Nanoseconds of a run's begin and end together, where the plans take turns on the thread's region.
std::vector<double> time_runs(const std::vector<std::shared_ptr<ArmedPlan>>& plans, uint32_t rounds) {
  constexpr uint32_t kRuns = 1000;
  constexpr int kPasses = 8;
  std::vector<double> samples;
  for (uint32_t round = 0; round < rounds; ++round) {
    double best = 1e300;
    for (int pass = 0; pass < kPasses; ++pass) {
      const auto start = std::chrono::steady_clock::now();
      for (uint32_t i = 0; i < kRuns; ++i) ArmedPlan::end(plans[i % plans.size()]->begin().token);
      const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - start;
      best = std::min(best, elapsed.count() / kRuns);
    }
    samples.push_back(best);
  }
  return samples;
}

void print(const char* name, const std::vector<double>& samples, const char* separator) {
  std::printf("\"%s\": [", name);
  for (std::size_t i = 0; i < samples.size(); ++i) std::printf("%s%.3f", i != 0 ? ", " : "", samples[i]);
  std::printf("]%s", separator);
}

void run(uint32_t rounds) {
  install({&allocate_upstream, &release_upstream, &never_profiling, &report_nothing});
  const std::vector<Workload> workloads = {pairs_of("64 B", 64), pairs_of("64 KiB", std::size_t{64} << 10),
                                           pairs_of("16 MiB", std::size_t{16} << 20), network_mix()};
  std::printf("{\"upstream\": \"%s\", \"workloads\": [", upstream_name());
  for (std::size_t i = 0; i < workloads.size(); ++i) {
    const Samples samples = measure(workloads[i], rounds);
    std::printf("%s{\"name\": \"%s\", ", i != 0 ? ", " : "", workloads[i].name.c_str());
    print("upstream_ns", samples.upstream_ns, ", ");
    print("pass_through_ns", samples.pass_through_ns, ", ");
    print("replay_ns", samples.replay_ns, "}");
  }
  std::vector<std::shared_ptr<ArmedPlan>> plans;
  for (const Workload& workload : {workloads[1], workloads[3]})
    plans.push_back(ArmedPlan::make(std::make_shared<const Layout>(workload.plan, workload.arena_bytes)));
  std::printf("], ");
  print("run_ns", time_runs({plans[1]}, rounds), ", ");
  print("run_of_two_in_turn_ns", time_runs(plans, rounds), "}\n");
}

}  // namespace
}  // namespace memomalloc

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 201;
  memomalloc::run(static_cast<uint32_t>(std::max(rounds, 1)));
  return 0;
}
