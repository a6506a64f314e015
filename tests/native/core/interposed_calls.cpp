#include "interposed_calls.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace memomalloc::testing {
namespace {

constexpr uint64_t kNever = UINT64_MAX;

thread_local CallCounts t_calls;
thread_local uint64_t t_num_good_news = kNever;

void* counted_new(std::size_t bytes, std::size_t alignment) {
  ++t_calls.num_heap_calls;
  if (t_num_good_news != kNever && t_num_good_news-- == 0) {
    t_num_good_news = 0;
    throw std::bad_alloc();
  }
  void* block = nullptr;
  if (posix_memalign(&block, alignment, bytes != 0 ? bytes : 1) != 0) throw std::bad_alloc();
  return block;
}

}  // namespace

CallCounts calls_of_this_thread() { return t_calls; }

FailingNew::FailingNew(uint64_t num_good_calls) { t_num_good_news = num_good_calls; }
FailingNew::~FailingNew() { t_num_good_news = kNever; }

#if !MEMOMALLOC_TEST_IS_SANITIZED
namespace {

// The real function behind one of ours.
template <typename Function>
Function* behind(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace
#endif

}  // namespace memomalloc::testing

void* operator new(std::size_t bytes) {
  return memomalloc::testing::counted_new(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return memomalloc::testing::counted_new(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }

#if !MEMOMALLOC_TEST_IS_SANITIZED
// Exported, so that the C and C++ libraries call ours as well.
#define MEMOMALLOC_TEST_EXPORT extern "C" __attribute__((visibility("default")))

// glibc's own names for its functions: there before dlsym(), which itself allocates.
extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* block, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);
void __libc_free(void* block);
}

using memomalloc::testing::t_calls;

MEMOMALLOC_TEST_EXPORT void* malloc(std::size_t bytes) {
  ++t_calls.num_heap_calls;
  return __libc_malloc(bytes);
}

MEMOMALLOC_TEST_EXPORT void* calloc(std::size_t count, std::size_t bytes) {
  ++t_calls.num_heap_calls;
  return __libc_calloc(count, bytes);
}

MEMOMALLOC_TEST_EXPORT void* realloc(void* block, std::size_t bytes) {
  ++t_calls.num_heap_calls;
  return __libc_realloc(block, bytes);
}

MEMOMALLOC_TEST_EXPORT int posix_memalign(void** block, std::size_t alignment, std::size_t bytes) {
  ++t_calls.num_heap_calls;
  *block = __libc_memalign(alignment, bytes);
  return *block != nullptr ? 0 : ENOMEM;
}

MEMOMALLOC_TEST_EXPORT void free(void* block) {
  ++t_calls.num_heap_calls;
  __libc_free(block);
}

MEMOMALLOC_TEST_EXPORT int pthread_mutex_lock(pthread_mutex_t* mutex) {
  static const auto real = memomalloc::testing::behind<int(pthread_mutex_t*)>("pthread_mutex_lock");
  ++t_calls.num_mutex_locks;
  return real(mutex);
}

MEMOMALLOC_TEST_EXPORT int pthread_mutex_trylock(pthread_mutex_t* mutex) {
  static const auto real = memomalloc::testing::behind<int(pthread_mutex_t*)>("pthread_mutex_trylock");
  ++t_calls.num_mutex_locks;
  return real(mutex);
}
#endif
