#pragma once

#include <cstdint>

namespace memomalloc::testing {

// Numbers that are the same for a seed on every platform (splitmix64), unlike the standard distributions.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  // In [0, end).
  uint32_t below(uint64_t end) { return static_cast<uint32_t>(next() % end); }
  // In [first, last].
  uint32_t between(uint32_t first, uint32_t last) { return first + below(last - first + 1); }
  bool chance(double probability) { return static_cast<double>(next() >> 11) < probability * 0x1p53; }

  template <typename T, std::size_t N>
  T one_of(const T (&choices)[N]) {
    return choices[below(N)];
  }

 private:
  uint64_t state_;
};

}  // namespace memomalloc::testing
