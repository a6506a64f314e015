// How long each of many restarts may take.
#pragma once

#include <cstdint>

namespace memomalloc::planner {

// The i-th number, i from 1, of the sequence of Luby, Sinclair and Zuckerman, "Optimal speedup of Las Vegas
// algorithms" (1993): 1 1 2 1 1 2 4 ...
inline int64_t luby(int64_t i) {
  while (true) {
    int64_t power = 1;
    while (2 * power - 1 < i) power *= 2;
    if (i == 2 * power - 1) return power;
    i -= power - 1;
  }
}

}  // namespace memomalloc::planner
