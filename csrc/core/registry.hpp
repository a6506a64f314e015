#pragma once

#include <mutex>

namespace memomalloc {

// Guards everything that is not on the fast path: which regions and addresses there are, their memory, open
// recordings. One lock for all, so that fork() has one to hold. A constant-initialised mutex that is never
// destroyed: a deleter may need it at process exit.
inline std::mutex g_registry_lock;

// What calls allocate(), release() or user code must not hold the registry lock.
using RegistryGuard = std::lock_guard<std::mutex>;

}  // namespace memomalloc
