#pragma once

#include <cstdint>

// The test program's own operator new, malloc family and pthread_mutex_lock, which count their calls. Under a
// sanitizer, which has its own, only operator new is ours.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEMOMALLOC_TEST_IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MEMOMALLOC_TEST_IS_SANITIZED 1
#endif
#endif
#ifndef MEMOMALLOC_TEST_IS_SANITIZED
#define MEMOMALLOC_TEST_IS_SANITIZED 0
#endif

namespace memomalloc::testing {

// Calls made by the calling thread so far.
struct CallCounts {
  uint64_t num_heap_calls = 0;   // malloc, free and their kin, and operator new and delete
  uint64_t num_mutex_locks = 0;  // pthread_mutex_lock and pthread_mutex_trylock
};
CallCounts calls_of_this_thread();

// While it lives, the calling thread's operator new throws std::bad_alloc from its `num_good_calls`-th call
// on.
class FailingNew {
 public:
  explicit FailingNew(uint64_t num_good_calls);
  ~FailingNew();
  FailingNew(const FailingNew&) = delete;
  FailingNew& operator=(const FailingNew&) = delete;
};

}  // namespace memomalloc::testing
