// Random numbers that are the same for a seed on every platform, which those of <random> need not be.
#pragma once

#include <cstdint>

namespace memomalloc::planner {

// splitmix64 of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
  }

  // In [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

  // In [0, n), n > 0. The bias is below n / 2^64.
  uint64_t below(uint64_t n) { return next() % n; }

  // Mean 0, variance 1, between -6 and 6: the sum of twelve uniform numbers is as good as a normal one here.
  double bell() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

 private:
  uint64_t state_;
};

}  // namespace memomalloc::planner
