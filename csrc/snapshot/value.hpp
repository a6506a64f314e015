// What a restricted pickle machine computes with: a value of 64 bits that owns nothing.
#pragma once

#include <cstdint>

namespace memomalloc::snapshot {

enum class Kind : uint8_t {
  kNone,
  kBool,
  kInt,        // of 60 bits; a larger one is kWideInt
  kWideInt,    // the index of a number of 64 bits
  kHugeInt,    // of more than 64 bits: there, but of no use
  kFloat,      // the index of a number
  kText,       // the index of a text
  kIntPair,    // the index of a tuple of two whole numbers: the number of a pool
  kContainer,  // the number of a list, dict or tuple, which may have become one of the following since
  kFrame,
  kStack,
  kEvent,
  kBlock,
  kSegment,
  kAnnotation,
};

class Value {
 public:
  Value() : bits_(0) {}
  Value(Kind kind, int64_t payload)
      : bits_(static_cast<uint64_t>(payload) << 4 | static_cast<uint64_t>(kind)) {}

  Kind kind() const { return static_cast<Kind>(bits_ & 15); }
  int64_t payload() const { return static_cast<int64_t>(bits_) >> 4; }
  bool is(Kind kind) const { return this->kind() == kind; }
  static bool fits(int64_t number) { return number >= -(INT64_C(1) << 59) && number < INT64_C(1) << 59; }

 private:
  uint64_t bits_;
};

}  // namespace memomalloc::snapshot
