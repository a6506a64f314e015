#include "core/address_range.hpp"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

namespace memomalloc {
namespace {

// Whether the system would map so many bytes to a program that asks. Our range is granted already and could
// take far more than there is memory, past limits that were set later and past the rule against obvious
// overcommitment.
bool system_grants(std::size_t bytes) noexcept {
  void* probe = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return probe != MAP_FAILED && munmap(probe, bytes) == 0;
}

class LostAddresses final : public Owner {
 public:
  LostAddresses() noexcept : Owner(Kind::kLost) {}
};

// Never destroyed, as the range. Made with the range: what needs it may not allocate.
LostAddresses* lost_addresses() noexcept {
  static auto* lost = new LostAddresses;
  return lost;
}

}  // namespace

std::size_t AddressRange::default_limit_bytes() noexcept {
  const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t memory_bytes = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * page_bytes;
  return std::clamp(4 * memory_bytes, kMinReservedBytes, kMaxReservedBytes);
}

std::size_t AddressRange::reserve(std::size_t limit_bytes) noexcept {
  if (size_ != 0) return size_;
  lost_addresses();
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    limit_bytes = std::min<std::size_t>(limit_bytes, limit.rlim_cur / 4);
  }
  for (std::size_t bytes = std::min(limit_bytes, kMaxReservedBytes); bytes >= kMinReservedBytes; bytes /= 2) {
    // One granule more than needed, so that the base can be aligned to a granule; and as much again, which
    // the program keeps: where most of a limit is in use, a quarter of it could be all that is left.
    const std::size_t num_granules = bytes / kGranuleBytes;
    const std::size_t own_bytes = (num_granules + 1) * kGranuleBytes;
    void* found = mmap(nullptr, 2 * own_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) continue;
    munmap(static_cast<std::byte*>(found) + own_bytes, own_bytes);
    const std::size_t table_bytes = num_granules * (sizeof(std::atomic<Owner*>) + sizeof(uint64_t));
    // Zero pages are null pointers, and no blocks: the tables cost memory only where they are written.
    void* table = mmap(nullptr, table_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED) {
      munmap(found, own_bytes);
      continue;
    }
    base_ = (reinterpret_cast<uintptr_t>(found) + kGranuleBytes - 1) / kGranuleBytes * kGranuleBytes;
    table_ = static_cast<std::atomic<Owner*>*>(table);
    block_bytes_ = reinterpret_cast<uint64_t*>(table_ + num_granules);
    size_ = num_granules * kGranuleBytes;
    return size_;
  }
  return 0;
}

std::byte* AddressRange::take(std::size_t bytes, Owner* owner) noexcept {
  if (bytes == 0 || bytes > size_) return nullptr;
  const std::size_t wanted = granules(bytes);
  // First fit over the table itself. Owners are few and come rarely; a structure of free addresses would have
  // to allocate in give_back(), which a deleter may reach.
  std::size_t begin = 0;
  std::size_t found = 0;
  for (std::size_t granule = 0; granule < high_water_ && found < wanted; ++granule) {
    // relaxed, as in owner(): written under the lock that the caller holds.
    if (table_[granule].load(std::memory_order_relaxed) == nullptr) {
      ++found;
    } else {
      begin = granule + 1;
      found = 0;
    }
  }
  if (begin + wanted > size_ / kGranuleBytes) return nullptr;
  mark(begin, begin + wanted, owner);
  high_water_ = std::max(high_water_, begin + wanted);
  return reinterpret_cast<std::byte*>(base_ + begin * kGranuleBytes);
}

void AddressRange::mark(std::size_t begin, std::size_t end, Owner* owner) noexcept {
  for (std::size_t granule = begin; granule < end; ++granule) {
    table_[granule].store(owner, std::memory_order_relaxed);  // read by owner(), see there
  }
}

bool AddressRange::make_accessible(std::byte* base, std::size_t from, std::size_t bytes) noexcept {
  const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  from = from / page_bytes * page_bytes;
  return bytes <= from || mprotect(base + from, bytes - from, PROT_READ | PROT_WRITE) == 0;
}

std::byte* AddressRange::map_block(std::size_t bytes, Owner* owner) noexcept {
  const std::size_t limit = size_ / kGranuleBytes / kMaxBlocksPart;
  // By what is left: a sum with any size at all could overflow.
  if (num_blocks_ == kMaxBlocks || bytes > (limit - num_block_granules_) * kGranuleBytes) return nullptr;
  if (!system_grants(bytes)) return nullptr;
  std::byte* block = take(bytes, owner);
  if (block == nullptr) return nullptr;
  if (!make_accessible(block, 0, bytes)) {
    give_back(block, bytes);
    return nullptr;
  }
  block_bytes_[granule_of(block)] = bytes;
  ++num_blocks_;
  num_block_granules_ += granules(bytes);
  return block;
}

bool AddressRange::unmap_block(void* block) noexcept {
  const std::size_t bytes = block_bytes(block);
  if (bytes == 0) return false;
  block_bytes_[granule_of(block)] = 0;
  --num_blocks_;
  num_block_granules_ -= granules(bytes);
  give_back(static_cast<std::byte*>(block), bytes);
  return true;
}

void AddressRange::give_back(std::byte* base, std::size_t bytes) noexcept {
  const std::size_t begin = granule_of(base);
  const std::size_t end = begin + granules(bytes);
  // A fresh reservation over the old pages frees them at once.
  if (mmap(base, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) !=
      MAP_FAILED) {
    mark(begin, end, nullptr);
    return;
  }
  // The system refused it (too many mappings), maybe after it took the old pages away. Where they are still
  // there it can drop what they hold. Where they are not, anybody may be given these addresses: they are
  // never used again.
  const bool is_ours = madvise(base, bytes, MADV_DONTNEED) == 0 && mprotect(base, bytes, PROT_NONE) == 0;
  mark(begin, end, is_ours ? nullptr : lost_addresses());
}

}  // namespace memomalloc
