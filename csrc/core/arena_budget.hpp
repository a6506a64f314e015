#pragma once

#include <cstdint>
#include <vector>

namespace memomalloc {

class Pool;

// The bytes that the arenas of several pools may map together. All calls hold the registry lock.
class ArenaBudget {
 public:
  explicit ArenaBudget(uint64_t limit_bytes) noexcept : limit_bytes_(limit_bytes) {}

  void add(Pool* pool) { pools_.push_back(pool); }
  void remove(Pool* pool) noexcept;

  // Unmaps idle arenas, the longest unused first, until `bytes` more fit. False: they do not, whatever is
  // unmapped.
  bool make_room(uint64_t bytes) noexcept;

  void take(uint64_t bytes) noexcept { used_bytes_ += bytes; }
  void give_back(uint64_t bytes) noexcept { used_bytes_ -= bytes; }
  uint64_t used_bytes() const noexcept { return used_bytes_; }

 private:
  const uint64_t limit_bytes_;
  uint64_t used_bytes_ = 0;
  std::vector<Pool*> pools_;
};

}  // namespace memomalloc
