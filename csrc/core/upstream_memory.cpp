#include "core/upstream_memory.hpp"

#include <dlfcn.h>
#include <malloc.h>

#include <cstddef>

namespace memomalloc {
namespace {

// Looked up by name: a preloaded allocator is the program's choice, not a dependency of ours.
template <typename Function>
Function* find(const char* name) noexcept {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

const auto jemalloc_control = find<int(const char* name, void* old_value, std::size_t* old_length,
                                       void* new_value, std::size_t length)>("mallctl");
const auto tcmalloc_release = find<void()>("MallocExtension_ReleaseFreeMemory");
const auto mimalloc_collect = find<void(bool force)>("mi_collect");

}  // namespace

const char* upstream_name() noexcept {
  if (jemalloc_control != nullptr) return "jemalloc";
  if (tcmalloc_release != nullptr) return "tcmalloc";
  if (mimalloc_collect != nullptr) return "mimalloc";
  return "glibc";
}

void release_upstream_memory() noexcept {
  if (jemalloc_control != nullptr) {
    // 4096 is jemalloc's index for "all arenas" (MALLCTL_ARENAS_ALL).
    jemalloc_control("thread.tcache.flush", nullptr, nullptr, nullptr, 0);
    jemalloc_control("arena.4096.purge", nullptr, nullptr, nullptr, 0);
  } else if (tcmalloc_release != nullptr) {
    tcmalloc_release();
  } else if (mimalloc_collect != nullptr) {
    mimalloc_collect(true);
  } else {
    malloc_trim(0);
  }
}

}  // namespace memomalloc
