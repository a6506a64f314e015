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

}  // namespace

std::size_t AddressRange::default_limit_bytes() noexcept {
  const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t memory_bytes = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * page_bytes;
  return std::clamp(4 * memory_bytes, kMinReservedBytes, kMaxReservedBytes);
}

std::size_t AddressRange::reserve(std::size_t limit_bytes) noexcept {
  if (size_ != 0) return size_;
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    limit_bytes = std::min<std::size_t>(limit_bytes, limit.rlim_cur / 4);
  }
  for (std::size_t bytes = std::min(limit_bytes, kMaxReservedBytes); bytes >= kMinReservedBytes; bytes /= 2) {
    // One granule more than needed, so that the base can be aligned to a granule.
    void* found =
        mmap(nullptr, bytes + kGranuleBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) continue;
    const std::size_t num_granules = bytes / kGranuleBytes;
    const std::size_t table_bytes = num_granules * (sizeof(std::atomic<Arena*>) + sizeof(uint64_t));
    // Zero pages are null pointers, and no blocks: the tables cost memory only where they are written.
    void* table = mmap(nullptr, table_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED) {
      munmap(found, bytes + kGranuleBytes);
      continue;
    }
    base_ = (reinterpret_cast<uintptr_t>(found) + kGranuleBytes - 1) / kGranuleBytes * kGranuleBytes;
    table_ = static_cast<std::atomic<Arena*>*>(table);
    block_bytes_ = reinterpret_cast<uint64_t*>(table_ + num_granules);
    size_ = num_granules * kGranuleBytes;
    return size_;
  }
  return 0;
}

std::byte* AddressRange::map(std::size_t bytes, Arena* arena) noexcept {
  if (bytes == 0 || bytes > size_) return nullptr;
  const std::size_t wanted = granules(bytes);
  // First fit over the table itself. Arenas are few and made rarely; a structure of free blocks would have to
  // allocate in unmap(), which a deleter may reach.
  std::size_t begin = 0;
  std::size_t found = 0;
  for (std::size_t granule = 0; granule < high_water_ && found < wanted; ++granule) {
    if (table_[granule].load(std::memory_order_relaxed) == nullptr) {
      ++found;
    } else {
      begin = granule + 1;
      found = 0;
    }
  }
  if (begin + wanted > size_ / kGranuleBytes) return nullptr;

  auto* base = reinterpret_cast<std::byte*>(base_ + begin * kGranuleBytes);
  if (mprotect(base, bytes, PROT_READ | PROT_WRITE) != 0) return nullptr;
  for (std::size_t granule = begin; granule < begin + wanted; ++granule) {
    table_[granule].store(arena, std::memory_order_relaxed);  // read by owner(), see there
  }
  high_water_ = std::max(high_water_, begin + wanted);
  return base;
}

std::byte* AddressRange::map_block(std::size_t bytes, Arena* owner) noexcept {
  const std::size_t limit = size_ / kGranuleBytes / kMaxBlocksPart;
  // By what is left: a sum with any size at all could overflow.
  if (num_blocks_ == kMaxBlocks || bytes > (limit - num_block_granules_) * kGranuleBytes) return nullptr;
  if (!system_grants(bytes)) return nullptr;
  std::byte* block = map(bytes, owner);
  if (block == nullptr) return nullptr;
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
  unmap(static_cast<std::byte*>(block), bytes);
  return true;
}

void AddressRange::unmap(std::byte* base, std::size_t bytes) noexcept {
  // A fresh reservation over the old pages frees them at once. Where the system refuses it (too many
  // mappings), the pages can at least be dropped; the granules are reused either way.
  void* reserved =
      mmap(base, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (reserved == MAP_FAILED) madvise(base, bytes, MADV_DONTNEED);
  const std::size_t begin = granule_of(base);
  for (std::size_t granule = begin; granule < begin + granules(bytes); ++granule) {
    table_[granule].store(nullptr, std::memory_order_relaxed);  // no block is left whose holder could ask
  }
}

}  // namespace memomalloc
