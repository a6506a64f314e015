// Reads a pickled snapshot of a caching allocator, piece by piece, and builds nothing but columns of numbers.
//
// A pickle is a program. This machine knows the instructions that make plain containers (numbers, texts,
// lists, tuples, dicts) and refuses all others, so that no file can name, call or build anything. Whatever
// the file says, a step takes time in proportion to the bytes it was read from, nothing recurses, and what is
// kept is counted and bounded.
//
// It streams as far as a pickle allows: a dict that is appended to a list is looked at once, and where it is
// an event, a frame, a block, a segment or an annotation, it becomes a row of columns and its memory is used
// again. What refers to it later, by the memo, finds the row. Lists of frames become stacks, each of which is
// kept once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "snapshot/column.hpp"
#include "snapshot/value.hpp"

namespace memomalloc::snapshot {

// The file is no snapshot, or does what none does; the text says what.
class Refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// In the order of kActions in pickle_reader.cpp.
enum class Action : int8_t {
  kAlloc,
  kFreeRequested,
  kFreeCompleted,
  kSegmentAlloc,
  kSegmentFree,
  kSegmentMap,
  kSegmentUnmap,
  kSnapshot,
  kOutOfMemory,
  kAnnotate,
  kOther,
};

constexpr int64_t kAbsent = INT64_MIN;

struct Events {
  Column<int8_t> action;
  Column<int32_t> trace;    // which of all traces; -1: of none
  Column<int64_t> address;  // of an out-of-memory: what the device had free
  Column<int64_t> size, stream, time;
  Column<int32_t> stack, pool, metadata;  // -1: none
};
struct Segments {
  Column<int32_t> list;  // 0: of the devices, 1: of the host; -1: of none
  Column<int64_t> device, address, size, stream;
  Column<int32_t> pool, type, stack;
  Column<int8_t> is_expandable;
};
struct Blocks {
  Column<int32_t> segment, state, stack;
  Column<int64_t> address, size, requested;
};
struct Frames {
  Column<int32_t> file, function, node;  // texts; node: of an FX graph, or -1
  Column<int64_t> line;
};
struct Annotations {
  Column<int64_t> device, time;
  Column<int32_t> name, stage;
};

class PickleReader {
 public:
  // max_bytes: of what is kept in memory, about.
  explicit PickleReader(size_t max_bytes);
  ~PickleReader();
  PickleReader(const PickleReader&) = delete;
  PickleReader& operator=(const PickleReader&) = delete;

  // Takes the next bytes of the file.
  void feed(const uint8_t* data, size_t size);
  // After the last bytes: sees that the whole is a snapshot, and which rows belong to it.
  void finish();

  // All valid after finish().
  Events events;
  Segments segments;
  Blocks blocks;
  Frames frames;
  Annotations annotations;
  Column<int64_t> stack_ends;    // where the frames of each stack end, in stack_frames
  Column<int32_t> stack_frames;  // innermost first
  std::vector<std::pair<int64_t, int64_t>> pools;
  std::deque<std::string> texts;
  int32_t num_device_traces = 0, num_host_traces = 0;
  std::vector<std::pair<std::string, std::string>> settings;  // as text
  std::vector<std::string> unknown_keys;

 private:
  enum class Form : uint8_t { kList, kTuple, kDict };
  struct Node {
    std::vector<Value> items;  // of a dict: key, value, key, value
    Form form = Form::kList;
    bool is_plain = false;  // looked at: it is no row
  };
  // A node that is owned, or what it has become.
  struct Slot {
    Node* node = nullptr;
    Value row;
  };

  size_t run(const uint8_t* data, size_t size);
  [[noreturn]] void refuse(const std::string& why) const;
  void charge(size_t bytes);

  void push(Value value);
  size_t pop_mark();
  Value integer(int64_t number);
  Value long_integer(const uint8_t* data, size_t size);
  Value text(const char* data, size_t size);
  Value container(Form form, std::vector<Value>&& items = {});
  Value tuple(size_t from);
  void memoize(uint64_t index, Value value);
  Value recall(uint64_t index);
  void line_instruction(uint8_t code, std::string_view line);

  Value resolve(Value value) const;
  Node* node(Value value) const;  // null where it is no container, or no longer
  Node& open_node(Value value, Form form);
  void become(Value value, Value row);
  void append(Value list, size_t from);
  void set_items(Value dict, size_t from);

  Value look_at(Value value);
  bool to_row(const Node& dict, Value& row);
  bool to_event(const Node& dict, Value& row);
  bool to_frame(const Node& dict, Value& row);
  bool to_block(const Node& dict, Value& row);
  bool to_segment(const Node& dict, Value& row);
  bool to_annotation(const Node& dict, Value& row);
  Value stack_of(Value list);
  int64_t number(Value value, const char* what) const;
  int32_t text_index(Value value) const;
  int32_t stack_index(Value value) const;
  int32_t pool_index(Value value) const;

  void take_segments(Value list, int32_t which);
  int32_t take_traces(Value list, int32_t first);
  void take_settings(Value dict, const std::string& prefix, int depth);
  std::string as_text(Value value) const;

  const size_t max_bytes_;
  size_t kept_bytes_ = 0;
  size_t num_settings_seen_ = 0;
  size_t base_ = 0;  // bytes of all that was run
  size_t at_ = 0;    // of the instruction that runs, for messages
  bool stopped_ = false;
  std::vector<uint8_t> pending_;
  std::vector<Value> stack_;
  std::vector<size_t> marks_;
  std::deque<Value> memo_;
  std::deque<Slot> slots_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<Node*> free_nodes_;
  std::vector<int64_t> wide_ints_;
  std::vector<double> floats_;
  std::unordered_map<std::string_view, int32_t> text_indices_;
  std::unordered_multimap<uint64_t, int32_t> stack_indices_;
  std::map<std::pair<int64_t, int64_t>, int32_t> pool_indices_;
  std::map<std::array<int64_t, 4>, int32_t> frame_indices_;
};

}  // namespace memomalloc::snapshot
