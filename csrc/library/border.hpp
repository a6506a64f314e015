// The border of the C interface, for the functions behind it: what a caller passes is read, what is thrown
// becomes a status and an error.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "memomalloc/planner.h"

struct memomalloc_cancellation {
  // Relaxed on both sides: whoever reads it reads nothing else that the writer wrote.
  std::atomic<bool> on{false};
};

// A signal handler may store it.
static_assert(std::atomic<bool>::is_always_lock_free);

namespace memomalloc::library {

// As in memomalloc.data.problem, which says why.
inline constexpr int64_t kMaxTotal = int64_t{1} << 61;
inline constexpr int64_t kMaxAlignment = int64_t{1} << 31;

// Of the request before it had a warm start.
inline constexpr size_t kFirstRequestSize = offsetof(memomalloc_request, warm_start);

// No version of a struct will be larger: what is was never set.
inline constexpr size_t kMaxStructSize = 4096;

inline constexpr int64_t kNone = -1;

// What a call that fails tells. Thrown behind the border only.
struct Refusal {
  memomalloc_status status;
  std::string message;
  int64_t buffer = kNone;
  int64_t other_buffer = kNone;
};

[[noreturn]] inline void refuse(const std::string& message) {
  throw Refusal{MEMOMALLOC_INVALID_ARGUMENT, message};
}

[[noreturn]] inline void refuse(size_t buffer, const std::string& message) {
  throw Refusal{MEMOMALLOC_INVALID_ARGUMENT, "buffer " + std::to_string(buffer) + ": " + message,
                static_cast<int64_t>(buffer)};
}

inline bool is_alignment(int64_t value) { return value >= 1 && value <= kMaxAlignment; }

inline std::string no_alignment(int64_t value) {
  return "alignment " + std::to_string(value) + " must be between 1 and " + std::to_string(kMaxAlignment);
}

// A copy of the caller's struct, which may be longer than ours, if what we do not know of it is zero, or as
// short as the first version was.
template <typename Struct>
Struct read_struct(const Struct* given, const char* name, size_t first_size = sizeof(Struct)) {
  if (given == nullptr) refuse(std::string(name) + " is null");
  const size_t size = given->struct_size;
  if (size < first_size || size > kMaxStructSize) {
    refuse(std::string(name) + ": struct_size is " + std::to_string(size) + ": begin with its INIT macro");
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  // An older caller's struct ends early: the fields that it does not have are zero, which is their default.
  Struct own{};
  std::memcpy(&own, bytes, std::min(size, sizeof(Struct)));
  if (size <= sizeof(Struct)) return own;
  const auto is_set = [](unsigned char byte) { return byte != 0; };
  if (std::any_of(bytes + sizeof(Struct), bytes + size, is_set)) {
    throw Refusal{MEMOMALLOC_UNSUPPORTED, std::string(name) +
                                              " has a field set that this version of the library does not "
                                              "know: update the library, or leave the field zero"};
  }
  return own;
}

// The caller's request; null: the defaults.
inline memomalloc_request read_request(const memomalloc_request* given) {
  const memomalloc_request defaults = MEMOMALLOC_REQUEST_INIT;
  return given == nullptr ? defaults : read_struct(given, "request", kFirstRequestSize);
}

// Fills the caller's struct, whose size was looked at; null: the caller asks for none.
template <typename Result>
void give(Result* to, Result result) {
  if (to == nullptr) return;
  result.struct_size = to->struct_size;
  *to = result;
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

inline void copy_text(char* to, size_t size, const std::string& text) {
  const size_t length = std::min(text.size(), size - 1);
  std::memcpy(to, text.data(), length);
  to[length] = '\0';
}

inline void tell(memomalloc_error* error, const Refusal& refusal) {
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

}  // namespace memomalloc::library
