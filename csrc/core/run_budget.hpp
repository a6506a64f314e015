#pragma once

#include <atomic>
#include <cstdint>

namespace memomalloc {

// The bytes that runs of several plans may use together at one time, and how many runs that may be.
class RunBudget {
 public:
  explicit RunBudget(uint64_t limit_bytes) noexcept : limit_bytes_(limit_bytes) {}

  bool take(uint64_t bytes) noexcept {
    if (bytes > limit_bytes_) return false;
    // relaxed, here and below: a count, orders nothing. It may refuse a run while another one that was
    // refused is being taken back.
    if (used_bytes_.fetch_add(bytes, std::memory_order_relaxed) <= limit_bytes_ - bytes) return true;
    give_back(bytes);
    return false;
  }
  void give_back(uint64_t bytes) noexcept { used_bytes_.fetch_sub(bytes, std::memory_order_relaxed); }
  uint64_t limit_bytes() const noexcept { return limit_bytes_; }
  uint64_t used_bytes() const noexcept { return used_bytes_.load(std::memory_order_relaxed); }

 private:
  const uint64_t limit_bytes_;
  std::atomic<uint64_t> used_bytes_{0};
};

}  // namespace memomalloc
