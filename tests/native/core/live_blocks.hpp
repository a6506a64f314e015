#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>

namespace memomalloc::testing {

// Fills a block with bytes that no other block holds, and says later whether they are still there.
class Pattern {
 public:
  explicit Pattern(uint64_t id) : seed_(id * 0x9E3779B97F4A7C15u + 1) {}

  void write(void* block, std::size_t bytes) const {
    auto* to = static_cast<unsigned char*>(block);
    for (std::size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
      const uint64_t word = seed_ + i;
      std::memcpy(to + i, &word, std::min(sizeof(word), bytes - i));
    }
  }

  bool holds(const void* block, std::size_t bytes) const {
    const auto* from = static_cast<const unsigned char*>(block);
    for (std::size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
      const uint64_t word = seed_ + i;
      if (std::memcmp(from + i, &word, std::min(sizeof(word), bytes - i)) != 0) return false;
    }
    return true;
  }

 private:
  uint64_t seed_;
};

// The reference: all live blocks by address, whoever handed them out. It knows no plan and no guard, so it
// cannot share a mistake with them.
class LiveBlocks {
 public:
  // False if the block shares a byte with a live one. The blocks before were disjoint, so its two neighbours
  // speak for all.
  bool add(uintptr_t begin, std::size_t bytes) {
    const auto next = ends_.lower_bound(begin);
    if (next != ends_.end() && next->first < begin + bytes) return false;
    if (next != ends_.begin() && std::prev(next)->second > begin) return false;
    ends_.emplace_hint(next, begin, begin + bytes);
    return true;
  }

  void remove(uintptr_t begin) { ends_.erase(begin); }

 private:
  std::map<uintptr_t, uintptr_t> ends_;
};

}  // namespace memomalloc::testing
