// The C interface of the planner: validates what a caller passes, plans, checks, and lets no exception out.
#include "memomalloc/planner.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "library/border.hpp"
#include "planner/checker.hpp"
#include "planner/plan.hpp"
#include "planner/prepare.hpp"

namespace memomalloc::library {
namespace {

// As in memomalloc.data.problem, which says why.
constexpr size_t kMaxBuffers = size_t{1} << 27;

void require_disjoint_pins(const planner::Problem& problem) {
  std::vector<size_t> pinned;
  planner::Problem part;
  std::vector<int64_t> offsets;
  for (size_t i = 0; i < problem.pins.size(); ++i) {
    if (problem.pins[i] == planner::kFree) continue;
    pinned.push_back(i);
    part.sizes.push_back(problem.sizes[i]);
    part.starts.push_back(problem.starts[i]);
    part.ends.push_back(problem.ends[i]);
    offsets.push_back(problem.pins[i]);
  }
  const auto [first, second] = checker::find_overlap(pinned.size(), part.sizes.data(), part.starts.data(),
                                                     part.ends.data(), offsets.data());
  if (first < 0) return;
  const size_t a = pinned[static_cast<size_t>(first)];
  const size_t b = pinned[static_cast<size_t>(second)];
  throw Refusal{MEMOMALLOC_INVALID_ARGUMENT,
                "buffers " + std::to_string(a) + " and " + std::to_string(b) +
                    " are pinned to the same bytes while both are alive",
                static_cast<int64_t>(a), static_cast<int64_t>(b)};
}

// A problem that the planners may be given.
planner::Problem validated(const memomalloc_problem* pointer) {
  const memomalloc_problem given = read_struct(pointer, "problem");
  const size_t n = given.num_buffers;
  if (n > kMaxBuffers) {
    refuse(std::to_string(n) + " buffers are more than the " + std::to_string(kMaxBuffers) +
           " that can be planned");
  }
  if (n > 0 && (given.sizes == nullptr || given.starts == nullptr || given.ends == nullptr)) {
    refuse("problem: sizes, starts and ends must not be null");
  }
  const int64_t common = given.alignment;
  if (!is_alignment(common)) refuse("problem: " + no_alignment(common));

  planner::Problem problem;
  problem.starts.assign(given.starts, given.starts + n);
  problem.ends.assign(given.ends, given.ends + n);
  problem.sizes.resize(n);
  if (given.alignments != nullptr) problem.alignments.resize(n);
  bool is_pinned = false;
  int64_t total = 0;  // of a plan that reuses nothing, with padding before every buffer
  const auto add = [&](size_t i, int64_t bytes) {
    if (bytes > kMaxTotal - total) {
      refuse(i, "with those before it, its size, alignment and pin sum to more than the " +
                    std::to_string(kMaxTotal) + " bytes that can be planned");
    }
    total += bytes;
  };
  int64_t highest_pin = 0;
  for (size_t i = 0; i < n; ++i) {
    const int64_t size = given.sizes[i];
    if (size < 0) refuse(i, "size " + std::to_string(size) + " must not be negative");
    if (given.starts[i] >= given.ends[i]) {
      refuse(i, "its lifetime [" + std::to_string(given.starts[i]) + ", " + std::to_string(given.ends[i]) +
                    ") is empty; the start must be below the end");
    }
    add(i, size);
    problem.sizes[i] = planner::align_up(size, common);
    add(i, problem.sizes[i] - size);
    int64_t alignment = common;
    if (given.alignments != nullptr) {
      if (!is_alignment(given.alignments[i])) refuse(i, no_alignment(given.alignments[i]));
      alignment = std::lcm(common, given.alignments[i]);
      problem.alignments[i] = alignment;
      add(i, alignment);
    }
    const int64_t pin = given.pins == nullptr ? planner::kFree : given.pins[i];
    if (pin == planner::kFree) continue;
    is_pinned = true;
    if (pin < 0) refuse(i, "pin " + std::to_string(pin) + " must be -1 (free) or not negative");
    if (pin % alignment != 0) {
      refuse(i, "pin " + std::to_string(pin) + " is not a multiple of its alignment " +
                    std::to_string(alignment));
    }
    if (pin > highest_pin) {
      add(i, pin - highest_pin);
      highest_pin = pin;
    }
  }
  // Sizes that are multiples of the common alignment imply it.
  const auto is_common = [common](int64_t alignment) { return alignment == common; };
  if (std::all_of(problem.alignments.begin(), problem.alignments.end(), is_common))
    problem.alignments.clear();
  if (is_pinned) {
    problem.pins.assign(given.pins, given.pins + n);
    require_disjoint_pins(problem);
  }
  return problem;
}

std::string described(const planner::Problem& problem, const int64_t* offsets, int64_t buffer) {
  const auto i = static_cast<size_t>(buffer);
  return std::to_string(i) + " (bytes [" + std::to_string(offsets[i]) + ", " +
         std::to_string(offsets[i] + problem.sizes[i]) + "), ticks [" + std::to_string(problem.starts[i]) +
         ", " + std::to_string(problem.ends[i]) + "))";
}

// Throws the refusal of offsets that do not solve the problem.
void check_offsets(const planner::Problem& problem, int64_t common, const int64_t* offsets) {
  const auto refuse_offset = [&](size_t i, const std::string& message) {
    throw Refusal{MEMOMALLOC_INVALID_PLAN,
                  "buffer " + std::to_string(i) + ": offset " + std::to_string(offsets[i]) + message,
                  static_cast<int64_t>(i)};
  };
  const size_t n = problem.sizes.size();
  for (size_t i = 0; i < n; ++i) {
    if (offsets[i] < 0 || offsets[i] > INT64_MAX - problem.sizes[i]) refuse_offset(i, " is out of range");
    if (offsets[i] % (problem.alignments.empty() ? common : problem.alignments[i]) != 0) {
      refuse_offset(i, " is not a multiple of its alignment");
    }
    if (!problem.pins.empty() && problem.pins[i] != planner::kFree && problem.pins[i] != offsets[i]) {
      refuse_offset(i, ", but it is pinned to " + std::to_string(problem.pins[i]));
    }
  }
  const auto [first, second] =
      checker::find_overlap(n, problem.sizes.data(), problem.starts.data(), problem.ends.data(), offsets);
  if (first < 0) return;
  throw Refusal{MEMOMALLOC_INVALID_PLAN,
                "two live buffers share bytes: " + described(problem, offsets, first) + " and " +
                    described(problem, offsets, second),
                first, second};
}

planner::Request to_request(const memomalloc_request& given) {
  planner::Request request;
  if (given.planner != nullptr) request.planner = given.planner;
  const std::vector<std::string>& names = planner::planner_names();
  if (std::find(names.begin(), names.end(), request.planner) == names.end()) {
    std::string list;
    for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
    throw Refusal{MEMOMALLOC_UNKNOWN_PLANNER,
                  "there is no planner '" + request.planner.substr(0, 40) + "'; there are " + list};
  }
  if (given.capacity < planner::kNoCapacity) {
    refuse("capacity " + std::to_string(given.capacity) + " must be -1 (none) or not negative");
  }
  if (!(given.time_limit_s >= 0)) refuse("time_limit_s must be a number of seconds, not negative");
  request.capacity = given.capacity;
  request.time_limit_s = given.time_limit_s;
  request.seed = given.seed;
  return request;
}

memomalloc_status plan(const memomalloc_problem* given_problem, const memomalloc_request* given_request,
                       int64_t* offsets, memomalloc_result* given_result) {
  const memomalloc_request given = read_request(given_request);
  if (given_result != nullptr && given_result->struct_size < sizeof(memomalloc_result)) {
    refuse("result: struct_size is too small: begin with MEMOMALLOC_RESULT_INIT");
  }
  planner::Request request = to_request(given);
  const planner::Problem problem = validated(given_problem);
  const size_t n = problem.sizes.size();
  if (n > 0 && offsets == nullptr) refuse("offsets is null");
  if (given.warm_start != nullptr) request.warm_start.assign(given.warm_start, given.warm_start + n);

  memomalloc_result result = MEMOMALLOC_RESULT_INIT;
  result.lower_bound = planner::lower_bound_in_bytes(problem);
  Poll poll(given, result.lower_bound);
  const bool was_cancelled = poll.is_cancelled();
  if (was_cancelled) request.time_limit_s = 0;
  request.poll = std::ref(poll);
  planner::Result found;
  try {
    found = planner::plan(problem, request);
  } catch (const std::invalid_argument& error) {  // the name is known: it is the number of buffers
    throw Refusal{MEMOMALLOC_UNSUPPORTED, error.what()};
  }
  if (poll.threw()) throw Refusal{MEMOMALLOC_CALLBACK_FAILED, "the progress function threw an exception"};
  const bool has_plan = found.offsets.size() == n && !found.proven_infeasible;
  const bool within =
      has_plan && (request.capacity == planner::kNoCapacity || found.arena <= request.capacity);
  if (!within && request.capacity == planner::kNoCapacity) {
    throw Refusal{MEMOMALLOC_INTERNAL_ERROR, "the planner " + request.planner + " found no plan"};
  }
  if (within) {
    try {
      check_offsets(problem, given_problem->alignment, found.offsets.data());
    } catch (Refusal& refusal) {
      refusal.status = MEMOMALLOC_INTERNAL_ERROR;
      throw;
    }
    std::copy(found.offsets.begin(), found.offsets.end(), offsets);
  }
  if (found.offsets.size() == n) result.arena = found.arena;
  result.elapsed_s = poll.elapsed_s();
  result.proven_optimal = within && found.proven_optimal ? 1 : 0;
  result.cancelled = found.cancelled || was_cancelled ? 1 : 0;
  copy_text(result.planner, sizeof(result.planner), found.planner);
  give(given_result, result);
  if (within) return MEMOMALLOC_OK;
  const std::string capacity = std::to_string(request.capacity);
  const std::string bound = " (lower bound " + std::to_string(result.lower_bound) + ")";
  if (found.proven_infeasible) {
    throw Refusal{MEMOMALLOC_NO_PLAN_EXISTS, "no plan exists within " + capacity + " bytes" + bound};
  }
  throw Refusal{MEMOMALLOC_NO_PLAN_FOUND, "no plan was found in time within " + capacity + " bytes" + bound +
                                              "; the best found needs " + std::to_string(found.arena)};
}

}  // namespace
}  // namespace memomalloc::library

namespace library = memomalloc::library;

extern "C" {

memomalloc_status memomalloc_plan(const memomalloc_problem* problem, const memomalloc_request* request,
                                  int64_t* offsets, memomalloc_result* result,
                                  memomalloc_error* error) noexcept {
  return library::guarded(error, [&] { return library::plan(problem, request, offsets, result); });
}

memomalloc_status memomalloc_check(const memomalloc_problem* problem, const int64_t* offsets,
                                   memomalloc_error* error) noexcept {
  return library::guarded(error, [&] {
    const memomalloc::planner::Problem valid = library::validated(problem);
    if (!valid.sizes.empty() && offsets == nullptr) library::refuse("offsets is null");
    library::check_offsets(valid, problem->alignment, offsets);
    return MEMOMALLOC_OK;
  });
}

memomalloc_status memomalloc_lower_bound(const memomalloc_problem* problem, int64_t* lower_bound,
                                         memomalloc_error* error) noexcept {
  return library::guarded(error, [&] {
    if (lower_bound == nullptr) library::refuse("lower_bound is null");
    *lower_bound = memomalloc::planner::lower_bound_in_bytes(library::validated(problem));
    return MEMOMALLOC_OK;
  });
}

memomalloc_cancellation* memomalloc_cancellation_create(void) noexcept {
  return new (std::nothrow) memomalloc_cancellation;
}

void memomalloc_cancel(memomalloc_cancellation* cancellation) noexcept {
  if (cancellation != nullptr) cancellation->on.store(true, std::memory_order_relaxed);
}

void memomalloc_cancellation_destroy(memomalloc_cancellation* cancellation) noexcept { delete cancellation; }

size_t memomalloc_num_planners(void) noexcept {
  size_t count = 0;
  while (memomalloc_planner_name(count) != nullptr) ++count;
  return count;
}

const char* memomalloc_planner_name(size_t index) noexcept {
  const char* name = nullptr;
  library::guarded(nullptr, [&] {
    const std::vector<std::string>& names = memomalloc::planner::planner_names();
    if (index < names.size()) name = names[index].c_str();
    return MEMOMALLOC_OK;
  });
  return name;
}

const char* memomalloc_status_text(memomalloc_status status) noexcept {
  switch (status) {
    case MEMOMALLOC_OK:
      return "ok";
    case MEMOMALLOC_NO_PLAN_FOUND:
      return "no plan within the capacity was found";
    case MEMOMALLOC_NO_PLAN_EXISTS:
      return "no plan within the capacity exists";
    case MEMOMALLOC_INVALID_PLAN:
      return "the offsets do not solve the problem";
    case MEMOMALLOC_INVALID_ARGUMENT:
      return "invalid argument";
    case MEMOMALLOC_UNKNOWN_PLANNER:
      return "unknown planner";
    case MEMOMALLOC_UNSUPPORTED:
      return "not supported";
    case MEMOMALLOC_OUT_OF_MEMORY:
      return "out of memory";
    case MEMOMALLOC_CALLBACK_FAILED:
      return "the progress function threw an exception";
    case MEMOMALLOC_INTERNAL_ERROR:
      return "internal error";
    default:
      return "unknown status";
  }
}

const char* memomalloc_version(void) noexcept { return MEMOMALLOC_VERSION; }

int32_t memomalloc_abi(void) noexcept { return MEMOMALLOC_ABI; }

}  // extern "C"
