#include "core/recording.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <new>
#include <utility>

#include "core/armed_plan.hpp"
#include "core/registry.hpp"
#include "core/thread_state.hpp"

namespace memomalloc {
namespace {

// Every open recording, for frees that come from any thread. Guarded by the registry lock; never destroyed.
std::vector<Recording*>& open_recordings() noexcept {
  static auto* recordings = new std::vector<Recording*>;
  return *recordings;
}

// Resident memory of the process in bytes; 0 where /proc cannot be read. Allocates nothing.
uint64_t resident_bytes() noexcept {
  const int file = ::open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  char text[128];
  const ssize_t length = read(file, text, sizeof(text) - 1);
  ::close(file);
  if (length <= 0) return 0;
  text[length] = '\0';
  unsigned long long pages = 0;
  if (std::sscanf(text, "%*u %llu", &pages) != 1) return 0;
  return pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

// Makes room for one more element, by doubling as push_back() does, which then cannot throw.
template <typename T>
void make_room(std::vector<T>& column) {
  if (column.size() == column.capacity()) column.reserve(2 * column.size() + 64);
}

}  // namespace

Recording::Recording(std::shared_ptr<ContextSource> source, std::shared_ptr<Clock> clock)
    : source_(std::move(source)),
      outlives_thread_(clock != nullptr),
      clock_(clock != nullptr ? std::move(clock) : std::make_shared<Clock>()),
      resident_at_opening_(resident_bytes()) {}

std::shared_ptr<Recording> Recording::open(std::shared_ptr<ContextSource> source,
                                           std::shared_ptr<Clock> clock) {
  end_runs_at_thread_exit();
  std::shared_ptr<Recording> recording(new Recording(std::move(source), std::move(clock)));
  if (t_state.is_exiting) {  // nobody would end it
    recording->closed_ = recording->has_told_source_ = true;
    if (recording->source_ != nullptr) recording->source_->recording_closed();
    return recording;
  }
  end_run_that_gives_way();
  std::shared_ptr<Recording> detached;  // goes after the lock does, as in close()
  const RegistryGuard guard(g_registry_lock);
  open_recordings().push_back(recording.get());
  detached = detach_closed();
  recording->self_ = recording;
  recording->outer_ = t_state.recording;
  t_state.recording = recording.get();
  g_observers.add_recording();
  return recording;
}

void Recording::close() noexcept {
  // Goes after the lock does: with a recording goes its source, which may free whatever it knows.
  std::shared_ptr<Recording> detached;
  bool tells_source = false;
  {
    const RegistryGuard guard(g_registry_lock);
    if (closed_) {
      detached = detach_closed();
      return;
    }
    closed_ = true;
    tells_source = !std::exchange(has_told_source_, true);
    if (std::exchange(at_peak_, false)) resident_at_peak_ = resident_bytes();
    auto& open = open_recordings();
    open.erase(std::remove(open.begin(), open.end(), this), open.end());
    g_observers.remove_recordings(1);
    alive_.clear();
  }
  // Before the thread's chain lets go of it: its source may look for itself there.
  if (tells_source && source_ != nullptr) source_->recording_closed();
  const RegistryGuard guard(g_registry_lock);
  detached = detach_closed();
}

void Recording::leave_thread() noexcept {
  bool tells_source = false;
  {
    const RegistryGuard guard(g_registry_lock);
    tells_source = !std::exchange(has_told_source_, true);
  }
  // As in close(): the source may look for itself in the chain. It knows no more calls after it.
  if (tells_source && source_ != nullptr) source_->recording_closed();
  std::shared_ptr<Recording> left;  // goes after the lock does, as in close()
  const RegistryGuard guard(g_registry_lock);
  t_state.recording = outer_;
  outer_ = nullptr;
  left = std::move(self_);
}

ContextSource* Recording::source_of_this_thread() noexcept {
  // Only this thread changes its chain.
  return t_state.recording != nullptr ? t_state.recording->source_.get() : nullptr;
}

std::shared_ptr<Recording> Recording::detach_closed() noexcept {
  std::shared_ptr<Recording> detached;
  // Only the recording's own thread may touch its chain; if another one closes, the entry stays until that
  // thread looks.
  while (t_state.recording != nullptr && t_state.recording->closed_) {
    std::shared_ptr<Recording> closed = std::move(t_state.recording->self_);
    t_state.recording = closed->outer_;
    closed->outer_ = nullptr;
    closed->self_ = std::move(detached);
    detached = std::move(closed);
  }
  return detached;
}

void Recording::close_those_of_other_threads() noexcept {
  const auto is_ours = [](const Recording* recording) {
    const Recording* ours = t_state.recording;
    while (ours != nullptr && ours != recording) ours = ours->outer_;
    return ours != nullptr;
  };
  auto& open = open_recordings();
  const auto others = std::partition(open.begin(), open.end(), is_ours);
  std::for_each(others, open.end(), [](Recording* recording) { recording->closed_ = true; });
  g_observers.remove_recordings(static_cast<uint32_t>(open.end() - others));
  open.erase(others, open.end());
}

void Recording::close_all_of_thread() noexcept {
  while (t_state.recording != nullptr) {
    const std::shared_ptr<Recording> innermost = t_state.recording->self_;
    if (innermost->outlives_thread_) {
      innermost->leave_thread();
    } else {
      innermost->close();
    }
  }
}

bool Recording::is_open_on_this_thread() noexcept {
  std::shared_ptr<Recording> detached;  // as in close()
  const RegistryGuard guard(g_registry_lock);
  detached = detach_closed();
  return t_state.recording != nullptr;
}

RecordedBuffers Recording::buffers() const {
  const RegistryGuard guard(g_registry_lock);
  RecordedBuffers buffers = buffers_;
  buffers.num_ticks = clock_->now;
  return buffers;
}

bool Recording::has_thread() const noexcept {
  const RegistryGuard guard(g_registry_lock);
  return !closed_ && self_ != nullptr;
}

RecordedCalls Recording::calls() const {
  const RegistryGuard guard(g_registry_lock);
  return calls_;
}

bool Recording::is_closed() const noexcept {
  const RegistryGuard guard(g_registry_lock);
  return closed_;
}

uint64_t Recording::resident_growth_bytes() const noexcept {
  const RegistryGuard guard(g_registry_lock);
  return resident_at_peak_ > resident_at_opening_ ? resident_at_peak_ - resident_at_opening_ : 0;
}

void Recording::add(void* block, std::size_t bytes, ContextSource::Context context) {
  // All that may throw comes first: a block that were known by its address, but not in every column, would be
  // written behind a column's end when it is freed.
  make_room(buffers_.sizes);
  make_room(buffers_.starts);
  make_room(buffers_.ends);
  make_room(buffers_.contexts);
  make_room(buffers_.freed_in_call);
  make_room(asking_calls_);
  make_room(last_reads_);
  const auto [entry, added] = alive_.try_emplace(block, 0);
  // The block that had this address was freed behind our back, by a deleter taken from upstream.
  if (!added) end(entry->second);
  entry->second = static_cast<uint32_t>(buffers_.sizes.size());
  buffers_.sizes.push_back(bytes);
  buffers_.starts.push_back(clock_->now++);
  buffers_.ends.push_back(RecordedBuffers::kAlive);
  buffers_.contexts.push_back(context.id);
  buffers_.freed_in_call.push_back(0);
  asking_calls_.push_back(context.call);
  last_reads_.push_back(0);
  live_bytes_ += bytes;
  if (live_bytes_ > peak_live_bytes_) {
    peak_live_bytes_ = live_bytes_;
    at_peak_ = true;
  }
}

void Recording::end(uint32_t buffer) noexcept {
  // By the first free after the peak the tensors of the peak have been written.
  if (std::exchange(at_peak_, false)) resident_at_peak_ = resident_bytes();
  buffers_.ends[buffer] = clock_->now++;
  buffers_.freed_in_call[buffer] = source_ != nullptr && source_->is_running(asking_calls_[buffer]);
  live_bytes_ -= buffers_.sizes[buffer];
}

template <typename Function>
void Recording::for_each_of_this_thread(const Function& function) noexcept {
  const RegistryGuard guard(g_registry_lock);
  for (Recording* recording = t_state.recording; recording != nullptr; recording = recording->outer_) {
    if (recording->closed_) continue;
    try {
      function(*recording);
    } catch (const std::bad_alloc&) {
      recording->calls_.is_incomplete = true;
    }
  }
}

void Recording::begin_call(bool with_gradients) noexcept {
  for_each_of_this_thread([with_gradients](Recording& recording) {
    ++recording.num_calls_;
    recording.call_begin_ = recording.clock_->now;
    recording.call_with_gradients_ = with_gradients;
    recording.call_is_tracked_ = false;
    recording.call_reads_.clear();
    recording.call_outside_.clear();
  });
}

void Recording::log_arguments(const std::vector<Argument>& arguments, bool is_outermost) noexcept {
  for_each_of_this_thread([&](Recording& recording) { recording.add_arguments(arguments, is_outermost); });
}

void Recording::add_arguments(const std::vector<Argument>& arguments, bool is_outermost) {
  for (const Argument& argument : arguments) {
    call_is_tracked_ = call_is_tracked_ || (call_with_gradients_ && argument.needs_gradient);
    const auto entry = argument.is_parameter ? alive_.end() : alive_.find(const_cast<void*>(argument.block));
    if (entry != alive_.end()) {
      // What the call itself made is none of its arguments.
      const bool is_older = buffers_.starts[entry->second] < call_begin_;
      const bool is_new = std::exchange(last_reads_[entry->second], num_calls_) != num_calls_;
      if (is_older && is_new) call_reads_.push_back(entry->second);
    } else if (is_outermost) {
      call_outside_.push_back(argument.bytes);
    }
  }
}

bool Recording::has_call_to_log() noexcept {
  bool has = false;
  for_each_of_this_thread([&has](const Recording& recording) {
    has = has || !recording.call_reads_.empty() || recording.call_begin_ != recording.clock_->now;
  });
  return has;
}

void Recording::end_call(ContextSource::Context context) noexcept {
  for_each_of_this_thread([context](Recording& recording) { recording.add_call(context); });
}

void Recording::add_call(ContextSource::Context context) {
  if (call_reads_.empty() && call_begin_ == clock_->now) return;
  const auto call = static_cast<uint32_t>(calls_.ends.size());
  for (const uint32_t buffer : call_reads_) {
    make_room(calls_.reading_calls);
    calls_.read_buffers.push_back(buffer);
    calls_.reading_calls.push_back(call);
  }
  for (const uint64_t bytes : call_outside_) {
    make_room(calls_.outside_calls);
    calls_.outside_bytes.push_back(bytes);
    calls_.outside_calls.push_back(call);
  }
  make_room(calls_.begins);
  make_room(calls_.ends);
  make_room(calls_.contexts);
  make_room(calls_.frames);
  make_room(calls_.tracked);
  calls_.begins.push_back(call_begin_);
  calls_.ends.push_back(clock_->now);
  calls_.contexts.push_back(context.id);
  calls_.frames.push_back(context.frame);
  calls_.tracked.push_back(call_is_tracked_);
}

void Recording::lose_calls() noexcept {
  for_each_of_this_thread([](Recording& recording) { recording.calls_.is_incomplete = true; });
}

void Recording::log_allocation(void* block, std::size_t bytes) {
  // Before the lock is taken: it takes time. A copy: it may close the recording.
  const std::shared_ptr<ContextSource> source = t_state.recording->source_;
  const ContextSource::Context context = source != nullptr ? source->current() : ContextSource::Context{};
  std::shared_ptr<Recording> detached;  // goes after the lock does, as in close()
  const RegistryGuard guard(g_registry_lock);
  detached = detach_closed();  // what another thread closed meanwhile
  for (Recording* recording = t_state.recording; recording != nullptr; recording = recording->outer_) {
    if (!recording->closed_) recording->add(block, bytes, context);
  }
}

void Recording::log_elsewhere(std::size_t bytes) noexcept {
  const RegistryGuard guard(g_registry_lock);
  for (Recording* recording : open_recordings()) {
    ++recording->buffers_.num_elsewhere;
    recording->buffers_.bytes_elsewhere += bytes;
  }
}

void Recording::log_free(void* block) noexcept {
  const RegistryGuard guard(g_registry_lock);
  for (Recording* recording : open_recordings()) {
    const auto entry = recording->alive_.find(block);
    if (entry == recording->alive_.end()) continue;
    recording->end(entry->second);
    recording->alive_.erase(entry);
  }
}

}  // namespace memomalloc
