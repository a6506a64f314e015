// A memory that runs out: operator new of the test program fails when it is told to.
#pragma once

#include <cstdint>

namespace memomalloc::library {

// Allocations of this thread that may still succeed; negative: all.
extern thread_local int64_t t_allocations_left;

}  // namespace memomalloc::library
