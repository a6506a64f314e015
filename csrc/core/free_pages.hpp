#pragma once

#include <cstdint>
#include <vector>

namespace memomalloc {

// Bytes [begin, end) of an arena, from its base.
struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;
};

// The size of the system's pages: 4 KiB on x86-64, up to 64 KiB elsewhere.
uint64_t system_page_bytes() noexcept;

// The pages of [0, mapped_bytes) on which none of the `live` ranges lies, in order and as few ranges as
// possible. Whole pages: the system rounds the end of what it is told to drop up, and would drop what lives
// behind a range that ends within a page. The last page counts as whole, since nothing is mapped behind it.
// Throws std::bad_alloc.
std::vector<ByteRange> free_pages(std::vector<ByteRange> live, uint64_t mapped_bytes, uint64_t page_bytes);

// Gives these pages of the memory at `base` back to the system; the bytes. Throws std::bad_alloc.
uint64_t release_free_pages(std::byte* base, std::vector<ByteRange> live, uint64_t mapped_bytes);

}  // namespace memomalloc
