#include "core/output_memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "core/address_range.hpp"
#include "core/alignment.hpp"
#include "core/free_pages.hpp"
#include "core/process_memory.hpp"
#include "core/registry.hpp"
#include "core/upstream.hpp"

namespace memomalloc {
namespace {

// So many blocks from the start are looked at for room before the end is: outputs that come and go use the
// same pages again, and a program that holds thousands is not searched through at each run.
constexpr std::size_t kNumNearRooms = 64;
// A chunk has room for so many blocks of the size that it was made for.
constexpr uint64_t kBlocksOfNewChunk = 8;
constexpr unsigned char kPoison = 0xEF;

}  // namespace

// --- Chunks

std::unique_ptr<OutputChunk> OutputChunk::map(std::size_t bytes) {
  std::unique_ptr<OutputChunk> chunk(new OutputChunk(bytes));
  // Zero pages say that everything is free: the tables cost memory only where they are written.
  void* tables = mmap(nullptr, chunk->tables_bytes(), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (tables == MAP_FAILED) return nullptr;
  chunk->reported_ = static_cast<std::atomic<uint64_t>*>(tables);
  chunk->words_ = reinterpret_cast<std::atomic<uint32_t>*>(chunk->reported_ + bytes / kAlignmentUnit);
  chunk->base_ = g_range.take(bytes, chunk.get());
  return chunk->base_ != nullptr ? std::move(chunk) : nullptr;
}

OutputChunk::~OutputChunk() {
  if (base_ != nullptr) g_range.give_back(base_, bytes_);
  if (reported_ != nullptr) munmap(reported_, tables_bytes());
}

void OutputChunk::drop_free_rooms() noexcept {
  rooms_.erase(
      std::remove_if(rooms_.begin(), rooms_.end(), [this](const Room& room) { return is_given_up(room); }),
      rooms_.end());
}

// Among the first `num_rooms` rooms, and before the next one; kNoRoom if there is none.
uint64_t OutputChunk::first_fit(uint64_t bytes, std::size_t num_rooms) {
  uint64_t end = 0;  // of the rooms before
  for (std::size_t i = 0; i < num_rooms; ++i) {
    if (rooms_[i].offset - end >= bytes) {
      rooms_.insert(rooms_.begin() + static_cast<std::ptrdiff_t>(i), Room{end, bytes, true});
      return end;
    }
    end = rooms_[i].offset + rooms_[i].bytes;
  }
  if (num_rooms == rooms_.size() && bytes_ - end >= bytes) {
    rooms_.push_back({end, bytes, true});
    return end;
  }
  return kNoRoom;
}

uint64_t OutputChunk::reserve(uint64_t bytes) {
  const auto near = rooms_.begin() + static_cast<std::ptrdiff_t>(std::min(rooms_.size(), kNumNearRooms));
  rooms_.erase(std::remove_if(rooms_.begin(), near, [this](const Room& room) { return is_given_up(room); }),
               near);
  const uint64_t near_offset = first_fit(bytes, std::min(rooms_.size(), kNumNearRooms));
  if (near_offset != kNoRoom) return near_offset;
  if (rooms_.empty()) return kNoRoom;
  const uint64_t end = rooms_.back().offset + rooms_.back().bytes;
  if (bytes_ - end >= bytes) {
    rooms_.push_back({end, bytes, true});
    return end;
  }
  if (searches_to_skip_ != 0) {
    --searches_to_skip_;
    return kNoRoom;
  }
  drop_free_rooms();
  const uint64_t offset = first_fit(bytes, rooms_.size());
  // A search looks at every room: where it finds nothing, so many blocks pay for the next one.
  if (offset == kNoRoom) searches_to_skip_ = static_cast<uint32_t>(rooms_.size() / kNumNearRooms);
  return offset;
}

std::vector<OutputChunk::Room>::iterator OutputChunk::find(uint64_t offset) noexcept {
  return std::lower_bound(rooms_.begin(), rooms_.end(), offset,
                          [](const Room& room, uint64_t wanted) { return room.offset < wanted; });
}

void OutputChunk::let_go(uint64_t offset) noexcept { find(offset)->is_reserved = false; }

void OutputChunk::cancel(uint64_t offset) noexcept { rooms_.erase(find(offset)); }

void* OutputChunk::take(uint64_t offset, uint64_t bytes) noexcept {
  // relaxed: whoever gives the block back got it from this thread.
  words_[offset / kAlignmentUnit].store(static_cast<uint32_t>(bytes / kAlignmentUnit),
                                        std::memory_order_relaxed);
  return base_ + offset;
}

bool OutputChunk::give_back(void* block, bool (*reports)() noexcept) noexcept {
  const auto offset = static_cast<uint64_t>(static_cast<std::byte*>(block) - base_);
  if (offset % kAlignmentUnit != 0 || offset >= bytes_) return false;
  const uint64_t unit = offset / kAlignmentUnit;
  // relaxed: the holder got the block after the store in take().
  const uint64_t num_units = words_[unit].load(std::memory_order_relaxed);
  if (num_units == 0) return false;
  if (poison_.load(std::memory_order_relaxed)) std::memset(block, kPoison, num_units * kAlignmentUnit);
  // As upstream has it: what the profiler was not told of is not told to be gone. relaxed: the holder's
  // alone.
  const uint64_t reported_bytes = reported_[unit].load(std::memory_order_relaxed);
  if (reported_bytes != 0) {
    reported_[unit].store(0, std::memory_order_relaxed);
    if (reports()) g_upstream.report(block, -static_cast<int64_t>(reported_bytes));
  }
  // release: our last reads and writes of the bytes happen before the acquire in is_free() that lets them be
  // reused. The chunk may be gone after it.
  words_[unit].store(0, std::memory_order_release);
  return true;
}

void OutputChunk::note_reported(const void* block, uint64_t bytes) noexcept {
  // relaxed: whoever frees the block got it after this.
  reported_[static_cast<uint64_t>(static_cast<const std::byte*>(block) - base_) / kAlignmentUnit].store(
      bytes, std::memory_order_relaxed);
}

bool OutputChunk::use(uint64_t bytes) noexcept {
  if (bytes > accessible_bytes_) {
    if (!AddressRange::make_accessible(base_, accessible_bytes_, bytes)) return false;
    accessible_bytes_ = bytes;
  }
  used_bytes_ = std::max(used_bytes_, bytes);
  return true;
}

bool OutputChunk::is_empty() noexcept {
  drop_free_rooms();
  return rooms_.empty();
}

uint32_t OutputChunk::num_live() noexcept {
  return static_cast<uint32_t>(std::count_if(rooms_.begin(), rooms_.end(),
                                             [this](const Room& room) { return !is_free(room.offset); }));
}

uint64_t OutputChunk::live_bytes() noexcept {
  uint64_t bytes = 0;
  for (const Room& room : rooms_) bytes += is_free(room.offset) ? 0 : room.bytes;
  return bytes;
}

uint64_t OutputChunk::release_pages() noexcept {
  if (used_bytes_ == 0) return 0;
  drop_free_rooms();
  try {
    // What lives now may be given back meanwhile; nothing can come to live, since only a run takes blocks.
    std::vector<ByteRange> live;
    uint64_t end = 0;
    for (const Room& room : rooms_) {
      if (is_free(room.offset)) continue;
      end = room.offset + room.bytes;
      live.push_back({room.offset, end});
    }
    const uint64_t released = release_free_pages(base_, std::move(live), used_bytes_);
    used_bytes_ = end;
    return released;
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

// --- The outputs of a region

OutputMemory::~OutputMemory() { abandon(); }

void OutputMemory::abandon() noexcept {
  // Blocks may live on: the chunks stay for whoever gives them back.
  for (auto& chunk : chunks_) static_cast<void>(chunk.release());
  chunks_.clear();
  blocks_.clear();
}

void OutputMemory::prepare(const Layout& layout, bool poison) noexcept {
  if (std::exchange(poison_, poison) != poison) {
    for (auto& chunk : chunks_) chunk->set_poison(poison);
  }
  const std::vector<uint64_t>& sizes = layout.outputs();
  try {
    blocks_.resize(sizes.size());
  } catch (...) {
    forget_plan();  // no memory: outputs come from upstream
    return;
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    Block& block = blocks_[i];
    if (block.chunk != nullptr && block.chunk->is_free(block.offset)) {
      block.is_ready = true;
      continue;
    }
    if (block.chunk != nullptr) block.chunk->let_go(block.offset);
    block = reserve(sizes[i]);
  }
}

void OutputMemory::forget_plan() noexcept {
  for (const Block& block : blocks_) {
    if (block.chunk != nullptr) block.chunk->let_go(block.offset);
  }
  blocks_.clear();
}

OutputMemory::Block OutputMemory::reserve_used(uint64_t bytes) {
  for (auto& chunk : chunks_) {
    const uint64_t offset = chunk->reserve(bytes);
    if (offset == OutputChunk::kNoRoom) continue;
    if (offset + bytes <= chunk->used_bytes()) return {chunk.get(), offset, bytes, true};
    // Found behind all that is used. It may not be used, or only later.
    chunk->cancel(offset);
    break;
  }
  return {};
}

OutputMemory::Block OutputMemory::reserve(uint64_t bytes) noexcept {
  try {
    const Block block = reserve_used(bytes);
    return block.chunk != nullptr ? block : reserve_more(bytes, charge);
  } catch (...) {
    return {};  // no memory: the output comes from upstream
  }
}

OutputMemory::Block OutputMemory::reserve_more(uint64_t bytes, bool (*charge)(uint64_t) noexcept) {
  if (bytes > OutputChunk::kMaxBlockBytes) return {};
  const RegistryGuard guard(g_registry_lock);
  for (auto& chunk : chunks_) {
    const uint64_t offset = chunk->reserve(bytes);
    if (offset == OutputChunk::kNoRoom) continue;
    const uint64_t more = offset + bytes > chunk->used_bytes() ? offset + bytes - chunk->used_bytes() : 0;
    if (charge(more)) {
      if (chunk->use(offset + bytes)) return {chunk.get(), offset, bytes, true};
      uncharge(more);
    }
    chunk->cancel(offset);
    return {};
  }
  if (!charge(bytes)) return {};
  const uint64_t last = chunks_.empty() ? 0 : chunks_.back()->bytes();
  constexpr uint64_t kGranule = AddressRange::kGranuleBytes;
  const uint64_t least = (bytes + kGranule - 1) / kGranule * kGranule;
  const uint64_t wanted =
      (std::max(bytes * kBlocksOfNewChunk, 2 * last) + kGranule - 1) / kGranule * kGranule;
  std::unique_ptr<OutputChunk> chunk;
  uint64_t offset = OutputChunk::kNoRoom;
  try {
    chunks_.reserve(chunks_.size() + 1);
    chunk = OutputChunk::map(wanted);
    if (chunk == nullptr) chunk = OutputChunk::map(least);
    if (chunk != nullptr && chunk->use(bytes)) offset = chunk->reserve(bytes);
  } catch (...) {
    // No memory for what is known of it.
  }
  if (offset == OutputChunk::kNoRoom) {
    uncharge(bytes);
    return {};
  }
  chunk->set_poison(poison_);
  chunks_.push_back(std::move(chunk));
  return {chunks_.back().get(), offset, bytes, true};
}

void* OutputMemory::hand_out(const Block& block) noexcept {
  last_chunk_ = block.chunk;
  last_block_ = block.chunk->take(block.offset, block.bytes);
  return last_block_;
}

void* OutputMemory::take(uint32_t output) noexcept {
  if (output > blocks_.size()) return nullptr;
  Block& block = blocks_[output - 1];
  if (!block.is_ready) return nullptr;
  block.is_ready = false;
  return hand_out(block);
}

void* OutputMemory::take_spare(uint64_t bytes, Spare which) noexcept {
  try {
    const Block block = which == Spare::kUsed ? reserve_used(bytes) : reserve_more(bytes, charge_free);
    if (block.chunk == nullptr) return nullptr;
    void* taken = hand_out(block);
    block.chunk->let_go(block.offset);  // whose it is, the word says; nobody keeps it for a run to come
    return taken;
  } catch (...) {
    return nullptr;  // no memory for what is known of it
  }
}

void OutputMemory::note_reported(uint64_t bytes) noexcept { last_chunk_->note_reported(last_block_, bytes); }

uint32_t OutputMemory::num_live() const noexcept {
  uint32_t live = 0;
  for (const auto& chunk : chunks_) live += chunk->num_live();
  return live;
}

uint64_t OutputMemory::live_bytes() const noexcept {
  uint64_t bytes = 0;
  for (const auto& chunk : chunks_) bytes += chunk->live_bytes();
  return bytes;
}

uint64_t OutputMemory::used_bytes() const noexcept {
  uint64_t bytes = 0;
  for (const auto& chunk : chunks_) bytes += chunk->used_bytes();
  return bytes;
}

uint64_t OutputMemory::release_pages() noexcept {
  forget_plan();
  uint64_t released = 0;
  for (auto& chunk : chunks_) {
    const uint64_t used = chunk->used_bytes();
    released += chunk->release_pages();
    uncharge(used - chunk->used_bytes());
  }
  // What is given back from now on is counted until the next time.
  const auto is_gone = [](const auto& chunk) { return chunk->used_bytes() == 0 && chunk->is_empty(); };
  chunks_.erase(std::remove_if(chunks_.begin(), chunks_.end(), is_gone), chunks_.end());
  return released;
}

}  // namespace memomalloc
