#include "core/allocated_bytes.hpp"

#include <algorithm>
#include <new>
#include <type_traits>

namespace memomalloc {
namespace {

constexpr std::size_t kFirstCapacity = 64;

}  // namespace

static_assert(std::is_trivially_destructible_v<AllocatedBytes>);

// --- The table

// Fibonacci hashing: the upper bits depend on all bits of the address.
uint64_t AllocatedBytes::hash_of(const void* block) noexcept {
  return reinterpret_cast<uintptr_t>(block) * uint64_t{0x9E3779B97F4A7C15};
}

AllocatedBytes::Part& AllocatedBytes::part_of(const void* block) noexcept {
  static_assert(kNumParts == 16);
  return parts_[hash_of(block) >> 60];
}

std::size_t AllocatedBytes::Part::home_of(const void* block) const noexcept {
  return hash_of(block) >> 24 & (capacity - 1);  // not the bits that chose the part
}

std::size_t AllocatedBytes::Part::find(const void* block) const noexcept {
  std::size_t index = home_of(block);
  while (entries[index].block != nullptr && entries[index].block != block)
    index = (index + 1) & (capacity - 1);
  return index;
}

bool AllocatedBytes::Part::make_room() noexcept {
  return 2 * (size + 1) <= capacity || grow() || size + 1 < capacity;
}

bool AllocatedBytes::Part::grow() noexcept {
  Part larger;
  larger.capacity = std::max(kFirstCapacity, 2 * capacity);
  larger.entries = new (std::nothrow) Entry[larger.capacity]();
  if (larger.entries == nullptr) return false;
  for (std::size_t i = 0; i < capacity; ++i) {
    if (entries[i].block != nullptr) larger.entries[larger.find(entries[i].block)] = entries[i];
  }
  delete[] entries;
  entries = larger.entries;
  capacity = larger.capacity;
  return true;
}

void AllocatedBytes::Part::erase(std::size_t index) noexcept {
  // What follows moves up, unless that were before its home: find() stops at the first free entry.
  const std::size_t mask = capacity - 1;
  for (std::size_t next = (index + 1) & mask; entries[next].block != nullptr; next = (next + 1) & mask) {
    const std::size_t home = home_of(entries[next].block);
    if (((next - home) & mask) < ((next - index) & mask)) continue;
    entries[index] = entries[next];
    index = next;
  }
  entries[index] = {};
  --size;
}

// --- The counts

void AllocatedBytes::add(const void* block, std::size_t bytes) noexcept {
  if (block == nullptr) return;
  Part& part = part_of(block);
  const std::lock_guard<std::mutex> guard(part.lock);
  if (!part.make_room()) return;
  Entry& entry = part.entries[part.find(block)];
  if (entry.block == nullptr) {
    ++part.size;
  } else {
    // The block that had this address was freed behind our back, by a deleter taken from upstream.
    live_.fetch_sub(entry.bytes, std::memory_order_relaxed);  // relaxed, as below
  }
  entry = {block, bytes};
  // relaxed: sums, which order nothing; who reads them has the lock of each who writes.
  const uint64_t live = live_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  uint64_t peak = peak_.load(std::memory_order_relaxed);
  while (peak < live && !peak_.compare_exchange_weak(peak, live, std::memory_order_relaxed)) {
  }
}

void AllocatedBytes::remove(const void* block) noexcept {
  Part& part = part_of(block);
  const std::lock_guard<std::mutex> guard(part.lock);
  if (part.size == 0) return;
  const std::size_t index = part.find(block);
  const Entry entry = part.entries[index];
  if (entry.block == nullptr) return;  // it lived before
  part.erase(index);
  live_.fetch_sub(entry.bytes, std::memory_order_relaxed);  // relaxed: see add()
}

void AllocatedBytes::lock() noexcept {
  for (Part& part : parts_) part.lock.lock();
}

void AllocatedBytes::unlock() noexcept {
  for (Part& part : parts_) part.lock.unlock();
}

AllocatedBytes::Counts AllocatedBytes::counts() noexcept {
  const std::lock_guard<AllocatedBytes> guard(*this);
  return {live_.load(std::memory_order_relaxed), peak_.load(std::memory_order_relaxed)};  // as in add()
}

void AllocatedBytes::reset_peak() noexcept {
  const std::lock_guard<AllocatedBytes> guard(*this);
  peak_.store(live_.load(std::memory_order_relaxed), std::memory_order_relaxed);  // as in add()
}

}  // namespace memomalloc
