#pragma once

#include <cstddef>

namespace memomalloc {

// Large blocks of recorded runs, each mapped by itself in our range of addresses.
//
// A recording leaves small blocks behind (what it saw, the plan made of it). If the run's tensors came from
// upstream as always, those small blocks would lie above them, and an upstream that gives memory back only
// from its top (glibc) would keep the whole of it resident from then on, though a plan serves the tensors.
// Mapped apart, they are gone from the process as they are freed.
inline constexpr std::size_t kMinRecordedBlockBytes = std::size_t{128} << 10;

// A block of at least `bytes` >= kMinRecordedBlockBytes; null where none can be mapped, or too many live (see
// AddressRange). Takes the registry lock.
void* allocate_recorded_block(std::size_t bytes) noexcept;

// Unmaps a block, and tells the profiler before if `report`; false, and nothing has changed, if none starts
// at that address. Takes the registry lock; reachable from a deleter.
bool release_recorded_block(void* block, bool report) noexcept;

}  // namespace memomalloc
