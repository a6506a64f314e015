#include "failing_allocations.hpp"

#include <cstdlib>
#include <new>

namespace memomalloc::library {

thread_local int64_t t_allocations_left = -1;

namespace {

void* allocate(size_t size) {
  if (t_allocations_left == 0) return nullptr;
  if (t_allocations_left > 0) --t_allocations_left;
  return std::malloc(size == 0 ? 1 : size);
}

}  // namespace
}  // namespace memomalloc::library

void* operator new(size_t size) {
  void* memory = memomalloc::library::allocate(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return memomalloc::library::allocate(size);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
