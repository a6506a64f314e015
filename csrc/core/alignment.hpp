#pragma once

#include <cstdint>

namespace memomalloc {

// The alignment of every tensor that torch allocates on a CPU (c10::gAlignment), and so of every slot.
inline constexpr uint64_t kAlignmentBytes = 64;

// The smallest multiple of the alignment that holds `bytes`; 0 where that exceeds 64 bits, which fits no
// slot.
constexpr uint64_t round_up_to_alignment(uint64_t bytes) noexcept {
  return (bytes + (kAlignmentBytes - 1)) & ~(kAlignmentBytes - 1);
}

}  // namespace memomalloc
