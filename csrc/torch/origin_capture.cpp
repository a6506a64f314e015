#include "torch/origin_capture.hpp"

#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/jit/frontend/source_range.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <algorithm>
#include <new>
#include <utility>

#include "torch/operators.hpp"

namespace memomalloc {
namespace {

// The callback by which this thread hears of operators. Trivial, as the thread's state is.
thread_local at::CallbackHandle t_callback = at::INVALID_CALLBACK_HANDLE;

// Adds the memory of the tensors of an argument. Reads addresses only, so that it needs nobody's lock.
void add_argument(const c10::IValue& value, std::vector<Argument>& arguments) {
  if (value.isTensor()) {
    const at::Tensor& tensor = value.toTensor();
    if (!tensor.defined() || !tensor.device().is_cpu()) return;
    if (tensor.is_mkldnn()) return;  // no other tensor shares its memory
    if (!tensor.has_storage()) {     // sparse, of a transform: which memory it has is not to be seen
      Recording::lose_calls();
      return;
    }
    c10::StorageImpl* storage = tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
    // Unchecked: asking some tensors for their address is an error, or makes a copy.
    const void* block = storage->_mutable_data_ptr_no_checks().get();
    if (block == nullptr) return;
    const bool needs_gradient = tensor.requires_grad();
    arguments.push_back({block, storage->nbytes(), needs_gradient, needs_gradient && tensor.is_leaf()});
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorVector()) add_argument(tensor, arguments);
  } else if (value.isList()) {
    for (const c10::IValue& entry : value.toListRef()) add_argument(entry, arguments);
  } else if (value.isTuple()) {
    for (const c10::IValue& entry : value.toTupleRef().elements()) add_argument(entry, arguments);
  }
}

}  // namespace

OriginCapture* OriginCapture::listening() noexcept {
  // All recordings of a thread have one source; the thread keeps those in its chain alive.
  auto* capture = static_cast<OriginCapture*>(Recording::source_of_this_thread());
  // relaxed: after the last was closed elsewhere, an operator more may be heard.
  return capture != nullptr && capture->num_open_.load(std::memory_order_relaxed) != 0 ? capture : nullptr;
}

std::shared_ptr<OriginCapture> OriginCapture::of_this_thread(const LibraryFrames& library,
                                                             bool follows_calls) {
  drop_released_objects();
  // A list of its own for each thread's outermost recording; inner ones share it.
  std::shared_ptr<OriginCapture> capture;
  if (OriginCapture* outer = listening(); outer != nullptr) {
    capture = std::static_pointer_cast<OriginCapture>(outer->shared_from_this());
  } else {
    capture.reset(new OriginCapture(library, follows_calls));
    start_listening(follows_calls);
    capture->stack_ = PythonStack::start(library);
  }
  // relaxed: written by the thread that listens.
  capture->num_open_.fetch_add(1, std::memory_order_relaxed);
  return capture;
}

void OriginCapture::start_listening(bool follows_calls) {
  stop_listening();  // for a recording that was closed elsewhere
  t_callback = at::addThreadLocalCallback(
      at::RecordFunctionCallback(
          [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
            // On a thread that torch handed the callback on to there is no capture, and nothing to do.
            if (OriginCapture* capture = listening(); capture != nullptr) capture->start_operator(function);
            return nullptr;
          },
          [](const at::RecordFunction& function, at::ObserverContext*) {
            if (OriginCapture* capture = listening(); capture != nullptr) capture->end_operator(function);
          })
          .needsInputs(follows_calls)
          .scopes(operator_scopes()));
}

void OriginCapture::stop_listening() noexcept {
  const at::CallbackHandle callback = std::exchange(t_callback, at::INVALID_CALLBACK_HANDLE);
  // A thread that exits has no list of callbacks any more.
  if (callback != at::INVALID_CALLBACK_HANDLE && !t_state.is_exiting) at::removeCallback(callback);
}

OriginCapture::OriginCapture(const LibraryFrames& library, bool follows_calls)
    : thread_(this_thread_number()), library_(library), follows_calls_(follows_calls), stack_(nullptr) {
  texts_.emplace_back();  // text 0: none
}

void OriginCapture::recording_closed() noexcept {
  // relaxed: see listening().
  if (num_open_.fetch_sub(1, std::memory_order_relaxed) != 1) return;
  // Elsewhere, the callback stays until its thread records again, and hears of nothing.
  if (is_on_its_thread()) stop_listening();
  stack_->stop();
}

void OriginCapture::start_operator(const at::RecordFunction& function) {
  const std::string name = function.name();
  if (!is_of_the_program(name)) {
    if (follows_calls_) Recording::lose_calls();  // kernels that are no operators read what they like
    return;
  }
  {
    const std::lock_guard<std::mutex> guard(lock_);
    running_.push_back({&function, intern(name), ++num_calls_, makes_tensors_only(name)});
  }
  if (!follows_calls_) return;
  const bool is_outermost = running_.size() == 1;
  if (is_outermost) Recording::begin_call(c10::GradMode::is_enabled());
  try {
    log_arguments(function, is_outermost);
  } catch (const std::bad_alloc&) {
    Recording::lose_calls();
  }
}

void OriginCapture::log_arguments(const at::RecordFunction& function, bool is_outermost) {
  c10::ArrayRef<const c10::IValue> values = function.inputs();
  // A boxed call shows the whole stack of its caller; its own arguments lie on top.
  const std::size_t count = function.num_inputs();
  if (count < values.size()) values = values.slice(values.size() - count);
  arguments_.clear();
  for (const c10::IValue& value : values) add_argument(value, arguments_);
  if (!arguments_.empty()) Recording::log_arguments(arguments_, is_outermost);
}

void OriginCapture::end_operator(const at::RecordFunction& function) noexcept {
  // Operators end in the order opposite to their starts, but for one that began before the recording, or ends
  // elsewhere.
  const auto ended = std::find_if(running_.rbegin(), running_.rend(),
                                  [&](const RunningOperator& other) { return other.function == &function; });
  if (ended == running_.rend()) return;
  const auto first = std::prev(ended.base());
  if (follows_calls_ && first == running_.begin() && Recording::has_call_to_log()) {
    running_.erase(std::next(first), running_.end());
    try {
      Recording::end_call(current());
    } catch (...) {
      Recording::lose_calls();
    }
  }
  running_.erase(first, running_.end());
}

ContextSource::Context OriginCapture::current() {
  // relaxed: see listening(). What is closed meanwhile keeps its stack, which only this thread ends.
  if (num_open_.load(std::memory_order_relaxed) == 0) return {};
  std::vector<uint32_t> operators;
  uint32_t call = 0;
  for (const RunningOperator& running : running_) {
    if (running.makes_tensors_only && !operators.empty()) continue;
    operators.push_back(running.name);
    call = running.call;
  }
  Source source;
  uint32_t script_modules = 0;
  std::vector<PythonObject> modules;
  const std::lock_guard<std::mutex> guard(lock_);
  read_script_frames(script_modules, source);
  read_python_frames(modules, source);
  const auto id = static_cast<uint32_t>(contexts_.size());
  contexts_.reserve(id + 1);
  const auto [entry, added] =
      context_ids_.try_emplace(Key{std::move(operators), std::move(modules), script_modules, source.file,
                                   source.line, source.function},
                               id);
  if (added) contexts_.push_back(&entry->first);
  return {entry->second, call, source.frame};
}

bool OriginCapture::is_running(uint32_t call) const noexcept {
  if (!is_on_its_thread()) return false;  // a free on another thread is no part of the operator
  return std::any_of(running_.begin(), running_.end(),
                     [call](const RunningOperator& running) { return running.call == call; });
}

std::vector<OriginCapture::Described> OriginCapture::contexts() const {
  const std::lock_guard<std::mutex> guard(lock_);
  std::vector<Described> all;
  all.reserve(contexts_.size());
  for (const Key* key : contexts_) {
    const auto& [operators, modules, script_modules, file, line, function] = *key;
    Described described;
    for (const uint32_t name : operators) described.operators.push_back(texts_[name]);
    described.modules = modules;
    described.script_modules = texts_[script_modules];
    described.file = texts_[file];
    described.line = line;
    described.function = texts_[function];
    all.push_back(std::move(described));
  }
  return all;
}

uint32_t OriginCapture::intern(const std::string& text) {
  const auto [entry, added] = text_ids_.try_emplace(text, static_cast<uint32_t>(texts_.size()));
  if (added) texts_.push_back(text);
  return entry->second;
}

void OriginCapture::read_python_frames(std::vector<PythonObject>& modules, Source& source) {
  const std::vector<PythonStack::Frame>* frames = stack_->frames();
  if (frames == nullptr) return;
  auto frame = frames->rbegin();
  for (; frame != frames->rend() && frame->code->kind != PythonStack::Kind::kBoundary; ++frame) {
    if (frame->module != nullptr) {
      modules.push_back(frame->module);
    } else if (frame->code->kind == PythonStack::Kind::kProgram && source.file == 0) {
      source = {intern(frame->code->file), frame->line(), intern(frame->code->function), frame->number};
    }
  }
  std::reverse(modules.begin(), modules.end());
}

void OriginCapture::read_script_frames(uint32_t& modules, Source& source) {
  const std::vector<torch::jit::StackEntry> stack = torch::jit::currentCallstack();
  if (stack.empty()) return;
  for (const torch::jit::StackEntry& entry : stack) {  // innermost first
    const auto position = entry.range.file_line_col();
    if (!position.has_value()) continue;
    const auto& [file, line, column] = *position;
    // A line of the library is better than none: the frames of Python only know who called the script.
    if (source.file == 0 || !library_.is_library(file)) {
      source = {intern(file), static_cast<int>(line), intern(entry.filename), 0};
    }
    if (!library_.is_library(file)) break;
  }
  std::string path;
  for (const std::string& level : torch::jit::currentModuleHierarchy()) {
    if (!path.empty()) path += '.';
    path += level;
  }
  modules = intern(path);
}

}  // namespace memomalloc
