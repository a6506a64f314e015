#include "core/free_pages.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace memomalloc {

uint64_t system_page_bytes() noexcept {
  static const auto bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

std::vector<ByteRange> free_pages(std::vector<ByteRange> live, uint64_t mapped_bytes, uint64_t page_bytes) {
  const auto round_up = [page_bytes](uint64_t bytes) {
    return (bytes + page_bytes - 1) / page_bytes * page_bytes;
  };
  std::sort(live.begin(), live.end(),
            [](const ByteRange& a, const ByteRange& b) { return a.begin < b.begin; });
  const uint64_t end = round_up(mapped_bytes);
  live.push_back({end, end});
  std::vector<ByteRange> free;
  uint64_t begin = 0;
  for (const ByteRange& range : live) {
    const uint64_t gap_end = range.begin / page_bytes * page_bytes;
    if (begin < gap_end) free.push_back({begin, gap_end});
    begin = std::max(begin, round_up(range.end));
  }
  return free;
}

uint64_t release_free_pages(std::byte* base, std::vector<ByteRange> live, uint64_t mapped_bytes) {
  uint64_t released = 0;
  for (const ByteRange& pages : free_pages(std::move(live), mapped_bytes, system_page_bytes())) {
    const uint64_t bytes = pages.end - pages.begin;
    if (madvise(base + pages.begin, bytes, MADV_DONTNEED) == 0) released += bytes;
  }
  return released;
}

}  // namespace memomalloc
