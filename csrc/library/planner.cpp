// The C interface of the planner: validates what a caller passes, plans, checks, and lets no exception out.
#include "memomalloc/planner.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <functional>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "planner/checker.hpp"
#include "planner/plan.hpp"
#include "planner/prepare.hpp"

struct memomalloc_cancellation {
  // Relaxed on both sides: whoever reads it reads nothing else that the writer wrote.
  std::atomic<bool> on{false};
};

// A signal handler may store it.
static_assert(std::atomic<bool>::is_always_lock_free);

namespace memomalloc::library {
namespace {

// As in memomalloc.data.problem, which says why.
constexpr size_t kMaxBuffers = size_t{1} << 27;
constexpr int64_t kMaxTotal = int64_t{1} << 61;
constexpr int64_t kMaxAlignment = int64_t{1} << 31;

// No version of a struct will be larger: what is was never set.
constexpr size_t kMaxStructSize = 4096;

constexpr int64_t kNone = -1;

// What a call that fails tells. Thrown inside this file only.
struct Refusal {
  memomalloc_status status;
  std::string message;
  int64_t buffer = kNone;
  int64_t other_buffer = kNone;
};

[[noreturn]] void refuse(const std::string& message) { throw Refusal{MEMOMALLOC_INVALID_ARGUMENT, message}; }

[[noreturn]] void refuse(size_t buffer, const std::string& message) {
  throw Refusal{MEMOMALLOC_INVALID_ARGUMENT, "buffer " + std::to_string(buffer) + ": " + message,
                static_cast<int64_t>(buffer)};
}

// A copy of the caller's struct, which may be longer than ours, if what we do not know of it is zero.
template <typename Struct>
Struct read_struct(const Struct* given, const char* name) {
  if (given == nullptr) refuse(std::string(name) + " is null");
  const size_t size = given->struct_size;
  // Fields that a second version appends get their defaults where a caller is older; the first has none to
  // fill.
  if (size < sizeof(Struct) || size > kMaxStructSize) {
    refuse(std::string(name) + ": struct_size is " + std::to_string(size) + ": begin with its INIT macro");
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  const auto is_set = [](unsigned char byte) { return byte != 0; };
  if (std::any_of(bytes + sizeof(Struct), bytes + size, is_set)) {
    throw Refusal{MEMOMALLOC_UNSUPPORTED, std::string(name) +
                                              " has a field set that this version of the library does not "
                                              "know: update the library, or leave the field zero"};
  }
  return *given;
}

bool is_alignment(int64_t value) { return value >= 1 && value <= kMaxAlignment; }

std::string no_alignment(int64_t value) {
  return "alignment " + std::to_string(value) + " must be between 1 and " + std::to_string(kMaxAlignment);
}

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

// The caller's two ways to end a search.
class Poll {
 public:
  Poll(const memomalloc_request& request, int64_t lower_bound)
      : request_(request), lower_bound_(lower_bound) {}

  bool operator()(int64_t best_arena) {
    if (is_cancelled()) return false;
    if (request_.progress == nullptr) return true;
    const memomalloc_progress progress{sizeof(memomalloc_progress), best_arena, lower_bound_, elapsed_s()};
    try {
      return request_.progress(&progress, request_.user_data) != 0;
    } catch (...) {  // C++ callers; not ours to pass on
      threw_ = true;
      return false;
    }
  }

  bool is_cancelled() const {
    return request_.cancellation != nullptr && request_.cancellation->on.load(std::memory_order_relaxed);
  }
  bool threw() const { return threw_; }
  double elapsed_s() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;

  const memomalloc_request& request_;
  int64_t lower_bound_;
  Clock::time_point start_ = Clock::now();
  bool threw_ = false;
};

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

void copy_text(char* to, size_t size, const std::string& text) {
  const size_t length = std::min(text.size(), size - 1);
  std::memcpy(to, text.data(), length);
  to[length] = '\0';
}

memomalloc_status plan(const memomalloc_problem* given_problem, const memomalloc_request* given_request,
                       int64_t* offsets, memomalloc_result* given_result) {
  const memomalloc_request defaults = MEMOMALLOC_REQUEST_INIT;
  const memomalloc_request given =
      given_request == nullptr ? defaults : read_struct(given_request, "request");
  if (given_result != nullptr && given_result->struct_size < sizeof(memomalloc_result)) {
    refuse("result: struct_size is too small: begin with MEMOMALLOC_RESULT_INIT");
  }
  planner::Request request = to_request(given);
  const planner::Problem problem = validated(given_problem);
  const size_t n = problem.sizes.size();
  if (n > 0 && offsets == nullptr) refuse("offsets is null");

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
  if (given_result != nullptr) {
    result.struct_size = given_result->struct_size;
    std::memcpy(given_result, &result, sizeof(result));
  }
  if (within) return MEMOMALLOC_OK;
  const std::string capacity = std::to_string(request.capacity);
  const std::string bound = " (lower bound " + std::to_string(result.lower_bound) + ")";
  if (found.proven_infeasible) {
    throw Refusal{MEMOMALLOC_NO_PLAN_EXISTS, "no plan exists within " + capacity + " bytes" + bound};
  }
  throw Refusal{MEMOMALLOC_NO_PLAN_FOUND, "no plan was found in time within " + capacity + " bytes" + bound +
                                              "; the best found needs " + std::to_string(found.arena)};
}

void tell(memomalloc_error* error, const Refusal& refusal) {
  if (error == nullptr) return;
  error->buffer = refusal.buffer;
  error->other_buffer = refusal.other_buffer;
  copy_text(error->message, sizeof(error->message), refusal.message);
}

// The border: runs `body`, and turns whatever it throws into a status and an error.
template <typename Body>
memomalloc_status guarded(memomalloc_error* error, Body body) noexcept {
  // A message that needs no memory, for when there is none.
  const auto fail = [error](memomalloc_status status, const char* message) {
    if (error != nullptr) {
      error->buffer = error->other_buffer = kNone;
      std::strncpy(error->message, message, sizeof(error->message) - 1);
      error->message[sizeof(error->message) - 1] = '\0';
    }
    return status;
  };
  try {
    return body();
  } catch (const Refusal& refusal) {
    tell(error, refusal);
    return refusal.status;
  } catch (const std::bad_alloc&) {
    return fail(MEMOMALLOC_OUT_OF_MEMORY, "out of memory");
  } catch (const std::length_error&) {
    return fail(MEMOMALLOC_OUT_OF_MEMORY, "out of memory: more than a vector can hold");
  } catch (const std::exception& exception) {
    return fail(MEMOMALLOC_INTERNAL_ERROR, exception.what());
  } catch (...) {
    return fail(MEMOMALLOC_INTERNAL_ERROR, "an unknown exception");
  }
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
