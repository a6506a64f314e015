#pragma once

namespace memomalloc {

// The name of the malloc that serves this process: "glibc", "jemalloc", "tcmalloc" or "mimalloc".
const char* upstream_name() noexcept;

// Asks it to give free memory that it retains back to the system. Takes milliseconds: for the moment a plan
// is armed, and for measurements.
void release_upstream_memory() noexcept;

}  // namespace memomalloc
