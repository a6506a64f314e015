#include "core/recording.hpp"

#include <algorithm>
#include <utility>

#include "core/registry.hpp"
#include "core/thread_state.hpp"

namespace memomalloc {
namespace {

// Every open recording, for frees that come from any thread. Guarded by the registry lock; never destroyed.
std::vector<Recording*>& open_recordings() noexcept {
  static auto* open = new std::vector<Recording*>;
  return *open;
}

}  // namespace

std::atomic<uint32_t> Recording::num_open_{0};

std::shared_ptr<Recording> Recording::open(ContextFunction context) {
  end_runs_at_thread_exit();
  std::shared_ptr<Recording> recording(new Recording(context));
  const RegistryGuard guard(g_registry_lock);
  open_recordings().push_back(recording.get());
  recording->self_ = recording;
  recording->outer_ = t_state.recording;
  t_state.recording = recording.get();
  // relaxed: see any_open().
  num_open_.fetch_add(1, std::memory_order_relaxed);
  return recording;
}

void Recording::close() noexcept {
  const RegistryGuard guard(g_registry_lock);
  if (!closed_) {
    closed_ = true;
    auto& open = open_recordings();
    open.erase(std::remove(open.begin(), open.end(), this), open.end());
    // relaxed: a free that is not logged any more belongs to no recording.
    num_open_.fetch_sub(1, std::memory_order_relaxed);
    alive_.clear();
  }
  detach_closed();
}

void Recording::detach_closed() noexcept {
  // Only the recording's own thread may touch its chain; if another one closes, the entry stays until that
  // thread looks.
  while (t_state.recording != nullptr && t_state.recording->closed_) {
    const std::shared_ptr<Recording> closed = std::move(t_state.recording->self_);
    t_state.recording = closed->outer_;
  }
}

void Recording::close_all_of_thread() noexcept {
  while (t_state.recording != nullptr) {
    const std::shared_ptr<Recording> innermost = t_state.recording->self_;
    innermost->close();
  }
}

RecordedBuffers Recording::buffers() const {
  const RegistryGuard guard(g_registry_lock);
  return buffers_;
}

void Recording::log_allocation(void* block, std::size_t bytes) {
  const RegistryGuard guard(g_registry_lock);
  for (Recording* recording = t_state.recording; recording != nullptr; recording = recording->outer_) {
    if (recording->closed_) continue;
    RecordedBuffers& seen = recording->buffers_;
    const auto [entry, added] = recording->alive_.try_emplace(block, 0);
    // The block that had this address was freed behind our back, by a deleter taken from upstream.
    if (!added) seen.ends[entry->second] = seen.num_ticks++;
    entry->second = static_cast<uint32_t>(seen.sizes.size());
    seen.sizes.push_back(bytes);
    seen.starts.push_back(seen.num_ticks++);
    seen.ends.push_back(RecordedBuffers::kAlive);
    seen.contexts.push_back(recording->context_ != nullptr ? recording->context_() : 0);
  }
}

void Recording::log_free(void* block) noexcept {
  const RegistryGuard guard(g_registry_lock);
  for (Recording* recording : open_recordings()) {
    const auto entry = recording->alive_.find(block);
    if (entry == recording->alive_.end()) continue;
    recording->buffers_.ends[entry->second] = recording->buffers_.num_ticks++;
    recording->alive_.erase(entry);
  }
}

}  // namespace memomalloc
