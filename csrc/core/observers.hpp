#pragma once

#include <atomic>
#include <cstdint>

namespace memomalloc {

// Who hears of every allocation and every free: the recordings that are open, and the count of allocated
// bytes once it has begun. One word for all of them: where there is none, the fast path asks once.
//
// relaxed, throughout: a thread that frees a block which was observed got it after the observer began.
class Observers {
 public:
  bool any() const noexcept { return word_.load(std::memory_order_relaxed) != 0; }
  bool any_recording() const noexcept { return (word_.load(std::memory_order_relaxed) & ~kCounting) != 0; }
  bool is_counting() const noexcept { return (word_.load(std::memory_order_relaxed) & kCounting) != 0; }

  void add_recording() noexcept { word_.fetch_add(1, std::memory_order_relaxed); }
  void remove_recordings(uint32_t num) noexcept { word_.fetch_sub(num, std::memory_order_relaxed); }
  // For good.
  void begin_counting() noexcept { word_.fetch_or(kCounting, std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kCounting = uint32_t{1} << 31;  // the other bits: how many recordings are open
  std::atomic<uint32_t> word_{0};
};

inline Observers g_observers;

}  // namespace memomalloc
