// The planner of memomalloc for C++17: vectors in, a plan out.
//
//   #include <memomalloc/planner.hpp>
//
//   memomalloc::Problem problem;
//   problem.add(1000, 0, 3);  // bytes, first tick, first tick after
//   problem.add(2000, 1, 6);
//   const memomalloc::Plan plan = memomalloc::plan(problem);
//   if (plan) use(plan.offsets); else report(plan.message);
//
// All of it is inline over the C interface, whose words it uses and whose binary interface alone counts. It
// throws nothing itself, so that it serves where exceptions are switched off; a vector that finds no memory
// does as ever.
#pragma once

#include <memomalloc/planner.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace memomalloc {

enum class Status : int32_t {
  kOk = MEMOMALLOC_OK,
  kNoPlanFound = MEMOMALLOC_NO_PLAN_FOUND,
  kNoPlanExists = MEMOMALLOC_NO_PLAN_EXISTS,
  kInvalidPlan = MEMOMALLOC_INVALID_PLAN,
  kInvalidArgument = MEMOMALLOC_INVALID_ARGUMENT,
  kUnknownPlanner = MEMOMALLOC_UNKNOWN_PLANNER,
  kUnsupported = MEMOMALLOC_UNSUPPORTED,
  kOutOfMemory = MEMOMALLOC_OUT_OF_MEMORY,
  kCallbackFailed = MEMOMALLOC_CALLBACK_FAILED,
  kInternalError = MEMOMALLOC_INTERNAL_ERROR,
};

// The columns of memomalloc_problem. `alignments` and `pins` are empty or as long as the others.
struct Problem {
  std::vector<int64_t> sizes;
  std::vector<int64_t> starts;
  std::vector<int64_t> ends;
  std::vector<int64_t> alignments;
  std::vector<int64_t> pins;
  int64_t alignment = 1;

  // One more buffer of `size` bytes, alive in [start, end); gives its index.
  size_t add(int64_t size, int64_t start, int64_t end) {
    sizes.push_back(size);
    starts.push_back(start);
    ends.push_back(end);
    if (!alignments.empty()) alignments.push_back(1);
    if (!pins.empty()) pins.push_back(-1);
    return sizes.size() - 1;
  }

  // Makes the offset of a buffer a multiple of `bytes`.
  void align(size_t buffer, int64_t bytes) {
    alignments.resize(sizes.size(), 1);
    alignments.at(buffer) = bytes;
  }

  // Makes the offset of a buffer `offset`.
  void pin(size_t buffer, int64_t offset) {
    pins.resize(sizes.size(), -1);
    pins.at(buffer) = offset;
  }
};

// Ends searches from outside. Copies would be two switches: it has none.
class Cancellation {
 public:
  Cancellation() : switch_(memomalloc_cancellation_create()) {}
  ~Cancellation() { memomalloc_cancellation_destroy(switch_); }
  Cancellation(const Cancellation&) = delete;
  Cancellation& operator=(const Cancellation&) = delete;

  void cancel() noexcept { memomalloc_cancel(switch_); }
  const memomalloc_cancellation* get() const noexcept { return switch_; }

 private:
  memomalloc_cancellation* switch_;
};

// As memomalloc_request.
struct Request {
  std::string planner = "auto";
  int64_t capacity = -1;
  double time_limit_s = 1.0;
  uint64_t seed = 0;
  std::function<bool(const memomalloc_progress&)> progress;  // false ends the search
  const Cancellation* cancellation = nullptr;
  std::vector<int64_t> warm_start;  // offsets of an earlier plan, -1 for what it had not; or empty
};

// As memomalloc_result and memomalloc_error.
struct Plan {
  Status status = Status::kOk;
  std::vector<int64_t> offsets;  // bytes, in the order of the problem; empty if there is no plan
  int64_t arena = -1;
  int64_t lower_bound = 0;
  std::string planner;
  bool proven_optimal = false;
  bool cancelled = false;
  double elapsed_s = 0.0;
  std::string message;  // why there is no plan
  int64_t buffer = -1;  // which buffers are at fault
  int64_t other_buffer = -1;

  explicit operator bool() const { return status == Status::kOk; }
};

// The planners that there are.
inline std::vector<std::string> planner_names() {
  std::vector<std::string> names;
  for (size_t i = 0; i < memomalloc_num_planners(); ++i) names.emplace_back(memomalloc_planner_name(i));
  return names;
}

namespace detail {

// Empty, or why the columns are no problem.
inline std::string unequal_lengths(const Problem& problem) {
  const size_t n = problem.sizes.size();
  const auto is_wrong = [n](const std::vector<int64_t>& column, bool may_be_empty) {
    return column.size() != n && !(may_be_empty && column.empty());
  };
  if (is_wrong(problem.starts, false) || is_wrong(problem.ends, false) ||
      is_wrong(problem.alignments, true) || is_wrong(problem.pins, true)) {
    return "the columns of the problem must have equal lengths";
  }
  return {};
}

inline memomalloc_problem view(const Problem& problem) {
  memomalloc_problem view = MEMOMALLOC_PROBLEM_INIT;
  view.num_buffers = problem.sizes.size();
  view.sizes = problem.sizes.data();
  view.starts = problem.starts.data();
  view.ends = problem.ends.data();
  view.alignments = problem.alignments.empty() ? nullptr : problem.alignments.data();
  view.pins = problem.pins.empty() ? nullptr : problem.pins.data();
  view.alignment = problem.alignment;
  return view;
}

inline int report(const memomalloc_progress* progress, void* function) {
  return (*static_cast<const std::function<bool(const memomalloc_progress&)>*>(function))(*progress) ? 1 : 0;
}

}  // namespace detail

// memomalloc_plan.
inline Plan plan(const Problem& problem, const Request& request = {}) {
  Plan plan;
  plan.message = detail::unequal_lengths(problem);
  if (!plan.message.empty()) {
    plan.status = Status::kInvalidArgument;
    return plan;
  }
  const memomalloc_problem view = detail::view(problem);
  memomalloc_request asked = MEMOMALLOC_REQUEST_INIT;
  asked.planner = request.planner.c_str();
  asked.capacity = request.capacity;
  asked.time_limit_s = request.time_limit_s;
  asked.seed = request.seed;
  std::function<bool(const memomalloc_progress&)> progress = request.progress;
  if (progress) {
    asked.progress = &detail::report;
    asked.user_data = &progress;
  }
  if (request.cancellation != nullptr) asked.cancellation = request.cancellation->get();
  if (!request.warm_start.empty()) {
    if (request.warm_start.size() != problem.sizes.size()) {
      plan.status = Status::kInvalidArgument;
      plan.message = "the warm start must have one offset for each buffer";
      return plan;
    }
    asked.warm_start = request.warm_start.data();
  }
  memomalloc_result result = MEMOMALLOC_RESULT_INIT;
  memomalloc_error error = {-1, -1, {0}};
  plan.offsets.resize(problem.sizes.size());
  plan.status = static_cast<Status>(memomalloc_plan(&view, &asked, plan.offsets.data(), &result, &error));
  if (!plan) {
    plan.offsets.clear();
    plan.message = error.message;
    plan.buffer = error.buffer;
    plan.other_buffer = error.other_buffer;
  }
  plan.arena = result.arena;
  plan.lower_bound = result.lower_bound;
  plan.planner = result.planner;
  plan.proven_optimal = result.proven_optimal != 0;
  plan.cancelled = result.cancelled != 0;
  plan.elapsed_s = result.elapsed_s;
  return plan;
}

// memomalloc_check: empty, or why the offsets do not solve the problem.
inline std::string check(const Problem& problem, const std::vector<int64_t>& offsets) {
  const std::string message = detail::unequal_lengths(problem);
  if (!message.empty()) return message;
  if (offsets.size() != problem.sizes.size()) return "there must be one offset for each buffer";
  const memomalloc_problem view = detail::view(problem);
  memomalloc_error error = {-1, -1, {0}};
  return memomalloc_check(&view, offsets.data(), &error) == MEMOMALLOC_OK ? std::string() : error.message;
}

}  // namespace memomalloc
