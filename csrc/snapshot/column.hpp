// A column that grows without being copied: millions of rows would else take twice their bytes while they
// grow.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace memomalloc::snapshot {

template <typename T>
class Column {
 public:
  void push_back(T value) {
    if (size_ % kChunk == 0) chunks_.push_back(std::make_unique<T[]>(kChunk));
    chunks_.back()[size_ % kChunk] = value;
    ++size_;
  }
  T& operator[](size_t index) { return chunks_[index / kChunk][index % kChunk]; }
  const T& operator[](size_t index) const { return chunks_[index / kChunk][index % kChunk]; }
  size_t size() const { return size_; }

  // Moves all rows to `to`, which has room for them, and gives the memory back chunk by chunk.
  void move_to(T* to) {
    for (size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
      const size_t begin = chunk * kChunk, end = size_ < begin + kChunk ? size_ : begin + kChunk;
      for (size_t i = begin; i < end; ++i) *to++ = chunks_[chunk][i - begin];
      chunks_[chunk].reset();
    }
    chunks_.clear();
    size_ = 0;
  }

 private:
  static constexpr size_t kChunk = 1 << 14;
  std::vector<std::unique_ptr<T[]>> chunks_;
  size_t size_ = 0;
};

}  // namespace memomalloc::snapshot
