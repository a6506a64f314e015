#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

namespace memomalloc::testing {

// Whether the page that starts at an address is in memory.
inline bool is_resident(const void* page) {
  unsigned char state = 0;
  EXPECT_EQ(mincore(const_cast<void*>(page), 1, &state), 0);
  return (state & 1) != 0;
}

}  // namespace memomalloc::testing
