#pragma once

#include <atomic>
#include <cstdint>

namespace memomalloc {

// What the granules of the reserved range belong to, each to one of these.
class Owner {
 public:
  enum class Kind : uint8_t {
    kRegion,          // a region, on which runs lay their plans
    kOutputs,         // blocks of outputs, see OutputMemory
    kRecordedBlocks,  // large blocks of recorded runs, see recorded_block.hpp
    kLost,            // given up: the system took the addresses back, and others may have them
  };

  Kind kind() const noexcept { return kind_; }

  // Whether a block that is given back here goes the careful way: always, but in a region that is neither
  // poisoned nor watched by the profiler. relaxed: a block given back while a watch begins elsewhere may miss
  // it.
  bool is_watched() const noexcept { return is_watched_.load(std::memory_order_relaxed); }

 protected:
  explicit Owner(Kind kind) noexcept : is_watched_(kind != Kind::kRegion), kind_(kind) {}
  ~Owner() = default;
  // relaxed: see is_watched().
  void watch(bool is_watched) noexcept { is_watched_.store(is_watched, std::memory_order_relaxed); }

 private:
  std::atomic<bool> is_watched_;
  const Kind kind_;
};

}  // namespace memomalloc
