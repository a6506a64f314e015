#include "torch/asker.hpp"

#include <ATen/record_function.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "core/thread_state.hpp"
#include "torch/operators.hpp"

namespace memomalloc {
namespace {

// Calls that nest deeper have the tag of the deepest that is known. Fixed: the callbacks allocate nothing.
constexpr uint32_t kMaxDepth = 128;

struct Following {
  at::CallbackHandle callback = at::INVALID_CALLBACK_HANDLE;
  uint32_t depth = 0;         // of operators that started since, and run
  uint32_t outer[kMaxDepth];  // the tag outside each of them
};
thread_local Following t_following;

// Eight letters at a time: it is paid at each operator of a replay.
uint32_t tag_of(std::string_view name, uint32_t outer) noexcept {
  constexpr uint64_t kOdd = 0x9E3779B97F4A7C15u;
  uint64_t tag = (outer + name.size()) * kOdd;
  while (!name.empty()) {
    uint64_t letters = 0;
    const std::size_t count = std::min(name.size(), sizeof(letters));
    std::memcpy(&letters, name.data(), count);
    tag = ((tag ^ letters) * kOdd);
    tag ^= tag >> 32;
    name.remove_prefix(count);
  }
  const auto folded = static_cast<uint32_t>(tag);
  return folded != 0 ? folded : 1;
}

uint32_t tag_inside(std::string_view name, uint32_t outer) noexcept {
  return !is_of_the_program(name) || (outer != 0 && makes_tensors_only(name)) ? outer : tag_of(name, outer);
}

std::unique_ptr<at::ObserverContext> start_operator(const at::RecordFunction& function) {
  // On a thread that torch handed the callback on to, nobody matches anything.
  Following& following = t_following;
  if (following.callback == at::INVALID_CALLBACK_HANDLE) return nullptr;
  if (following.depth < kMaxDepth) {
    following.outer[following.depth] = t_state.asker;
    t_state.asker = tag_inside(function.name(), t_state.asker);
  }
  ++following.depth;
  return nullptr;
}

void end_operator(const at::RecordFunction&, at::ObserverContext*) {
  // Operators end in the order opposite to their starts; one that began before is not counted.
  Following& following = t_following;
  if (following.depth == 0) return;
  if (--following.depth < kMaxDepth) t_state.asker = following.outer[following.depth];
}

}  // namespace

uint32_t asker_of(const std::vector<std::string>& operators) {
  uint32_t tag = 0;
  for (const std::string& name : operators) tag = tag_inside(name, tag);
  return tag;
}

void follow_askers() {
  t_following.depth = 0;
  t_state.asker = 0;
  // Still there where the last run of this thread was ended on another one.
  if (t_following.callback != at::INVALID_CALLBACK_HANDLE) return;
  t_following.callback = at::addThreadLocalCallback(
      at::RecordFunctionCallback(&start_operator, &end_operator).scopes(operator_scopes()));
}

void stop_following_askers() {
  const at::CallbackHandle callback = std::exchange(t_following.callback, at::INVALID_CALLBACK_HANDLE);
  if (callback != at::INVALID_CALLBACK_HANDLE) at::removeCallback(callback);
  t_following.depth = 0;
  t_state.asker = 0;
}

}  // namespace memomalloc
