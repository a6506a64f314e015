#include "snapshot/pickle_reader.hpp"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

namespace memomalloc::snapshot {
namespace {

// No text of a snapshot is longer: names of files, functions and annotations, and lines of a program.
constexpr size_t kMaxText = 1 << 20;
// A dict with more entries is no row of anything.
constexpr size_t kMaxRowItems = 2 * 64;
// The settings of an allocator: a dict of numbers and texts, with a dict or two inside.
constexpr int kMaxSettingsDepth = 3;
constexpr size_t kMaxSettings = 1000;
// What a piece of a program takes here besides its own bytes; rather too much.
constexpr size_t kLeastLimit = 1 << 25, kMaxRatio = 8;
constexpr size_t kNodeBytes = 128, kSlotBytes = 24, kEventBytes = 64, kTextBytes = 128;

// The texts that mean something, at the same index in the table of texts.
enum Word : int32_t {
  kActionKey,
  kAddrKey,
  kAddressKey,
  kSizeKey,
  kStreamKey,
  kTimeKey,
  kFramesKey,
  kPoolKey,
  kSegmentPoolKey,
  kDeviceFreeKey,
  kMetadataKey,
  kFileKey,
  kLineKey,
  kNameKey,
  kFxNodeKey,
  kStateKey,
  kRequestedKey,
  kHistoryKey,
  kRealSizeKey,
  kTotalSizeKey,
  kBlocksKey,
  kDeviceKey,
  kTypeKey,
  kExpandableKey,
  kStageKey,
  kSegmentsKey,
  kDeviceTracesKey,
  kHostSegmentsKey,
  kHostTracesKey,
  kSettingsKey,
  kAnnotationsKey,
  kFirstAction,
};
constexpr const char* kWords[] = {
    "action",
    "addr",
    "address",
    "size",
    "stream",
    "time_us",
    "frames",
    "pool_id",
    "segment_pool_id",
    "device_free",
    "user_metadata",
    "filename",
    "line",
    "name",
    "fx_node_name",
    "state",
    "requested_size",
    "history",
    "real_size",
    "total_size",
    "blocks",
    "device",
    "segment_type",
    "is_expandable",
    "stage",
    "segments",
    "device_traces",
    "host_segments",
    "host_traces",
    "allocator_settings",
    "external_annotations",
};
constexpr const char* kActions[] = {"alloc",        "free_requested", "free_completed", "segment_alloc",
                                    "segment_free", "segment_map",    "segment_unmap",  "snapshot",
                                    "oom",          "annotate"};
static_assert(std::size(kWords) == kFirstAction);
static_assert(std::size(kActions) == static_cast<size_t>(Action::kOther));

enum Code : uint8_t {
  kMark = '(',
  kStop = '.',
  kFloatLine = 'F',
  kIntLine = 'I',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kLongLine = 'L',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinString = 'T',
  kShortBinString = 'U',
  kUnicodeLine = 'V',
  kBinUnicode = 'X',
  kAppend = 'a',
  kDict = 'd',
  kEmptyDict = '}',
  kAppends = 'e',
  kGetLine = 'g',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kList = 'l',
  kEmptyList = ']',
  kPutLine = 'p',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kEmptyTuple = ')',
  kSetItems = 'u',
  kBinFloat = 'G',
  kProto = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kMemoize = 0x94,
  kFrame = 0x95,
};

// What the instructions do that are refused, for a person.
const char* meaning(uint8_t code) {
  switch (code) {
    case 'c':
    case 0x93:
      return "names something to import";
    case 'R':
      return "calls a function";
    case 'b':
    case 'i':
    case 'o':
    case 0x81:
    case 0x92:
      return "builds an object of a class";
    case 'P':
    case 'Q':
      return "refers to something outside the file";
    case 0x82:
    case 0x83:
    case 0x84:
      return "refers to a registered extension";
    case 0x97:
    case 0x98:
      return "takes a buffer that is not in the file";
    case 'B':
    case 'C':
    case 0x8e:
    case 0x96:
      return "makes raw bytes";
    case 0x8f:
    case 0x90:
    case 0x91:
      return "makes a set";
    default:
      return "is none that plain data has";
  }
}

template <typename T>
T little_endian(const uint8_t* data) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value |= static_cast<T>(static_cast<T>(data[i]) << (8 * i));
  return value;
}

uint64_t mixed(uint64_t hash, uint64_t value) {
  hash ^= value + 0x9e3779b97f4a7c15 + (hash << 6) + (hash >> 2);
  return hash * 0xff51afd7ed558ccd;
}

void append_utf8(std::string& text, uint32_t code) {
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
  } else if (code < 0x10000) {
    text += {static_cast<char>(0xe0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 63)),
             static_cast<char>(0x80 | (code & 63))};
  } else {
    text += {static_cast<char>(0xf0 | (code >> 18 & 7)), static_cast<char>(0x80 | (code >> 12 & 63)),
             static_cast<char>(0x80 | (code >> 6 & 63)), static_cast<char>(0x80 | (code & 63))};
  }
}

// The text of a line of protocol 0: Latin-1 with \u and \U escapes, as UTF-8.
std::string unescaped(std::string_view line) {
  std::string text;
  for (size_t i = 0; i < line.size(); ++i) {
    const size_t digits = line[i] == '\\' && i + 1 < line.size() ? line[i + 1] == 'u'   ? 4
                                                                   : line[i + 1] == 'U' ? 8
                                                                                        : 0
                                                                 : 0;
    uint32_t code = 0;
    if (digits && i + 2 + digits <= line.size()) {
      const char* begin = line.data() + i + 2;
      const auto [end, error] = std::from_chars(begin, begin + digits, code, 16);
      if (error == std::errc() && end == begin + digits && code < 0x110000) {
        append_utf8(text, code);
        i += 1 + digits;
        continue;
      }
    }
    append_utf8(text, static_cast<uint8_t>(line[i]));
  }
  return text;
}

}  // namespace

PickleReader::PickleReader(size_t max_bytes) : max_bytes_(max_bytes) {
  for (const char* word : kWords) text(word, std::strlen(word));
  for (const char* action : kActions) text(action, std::strlen(action));
}

PickleReader::~PickleReader() = default;

void PickleReader::refuse(const std::string& why) const {
  throw Refused("at byte " + std::to_string(at_) + ": " + why);
}

void PickleReader::charge(size_t bytes) {
  kept_bytes_ += bytes;
  // What a pickler writes takes about as much here as in the file.
  const size_t most = std::min(max_bytes_, kLeastLimit + kMaxRatio * at_);
  if (kept_bytes_ > most) {
    refuse("what was read so far takes " + std::to_string(kept_bytes_ >> 20) +
           " MiB of memory, more than a snapshot of so many bytes may take");
  }
}

void PickleReader::feed(const uint8_t* data, size_t size) {
  if (pending_.empty()) {
    const size_t used = run(data, size);
    pending_.assign(data + used, data + size);
    return;
  }
  pending_.insert(pending_.end(), data, data + size);
  const size_t used = run(pending_.data(), pending_.size());
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(used));
}

// Runs all instructions that are whole; gives the bytes that they had.
size_t PickleReader::run(const uint8_t* const data, const size_t size) {
  size_t begin = 0;
  while (begin < size) {
    at_ = base_ + begin;
    if (stopped_) refuse("there is more after the end of the pickle");
    const uint8_t code = data[begin];
    const uint8_t* const argument = data + begin + 1;
    const size_t left = size - begin - 1;
    size_t used = 0;
    // Whether so many bytes of the argument are there; `used` says where the instruction ends.
    const auto has = [&](size_t bytes) {
      used = bytes;
      return left >= bytes;
    };
    // The bytes of a text behind its length; null: not there yet.
    const auto counted = [&](size_t length_bytes, uint64_t length) -> const char* {
      if (length > kMaxText)
        refuse("a text of " + std::to_string(length) + " bytes, of which no snapshot has one");
      return has(length_bytes + length) ? reinterpret_cast<const char*>(argument + length_bytes) : nullptr;
    };
    bool whole = true;
    switch (code) {
      case kProto:
        if ((whole = has(1)) && *argument > 5)
          refuse("pickle protocol " + std::to_string(*argument) + ", of which this reads up to 5");
        break;
      case kFrame:
        whole = has(8);  // how many bytes belong together is of no interest here
        break;
      case kMark:
        charge(sizeof(size_t));
        marks_.push_back(stack_.size());
        break;
      case kStop:
        if (!marks_.empty() || stack_.size() != 1) refuse("the pickle ends with other than one value");
        stopped_ = true;
        break;
      case kNone:
        push({});
        break;
      case kNewTrue:
      case kNewFalse:
        push({Kind::kBool, code == kNewTrue});
        break;
      case kBinInt:
        if ((whole = has(4))) push(integer(static_cast<int32_t>(little_endian<uint32_t>(argument))));
        break;
      case kBinInt1:
        if ((whole = has(1))) push(integer(*argument));
        break;
      case kBinInt2:
        if ((whole = has(2))) push(integer(little_endian<uint16_t>(argument)));
        break;
      case kLong1:
        if ((whole = has(1) && has(1 + *argument))) push(long_integer(argument + 1, *argument));
        break;
      case kLong4:
        if ((whole = has(4))) {
          const uint32_t length = little_endian<uint32_t>(argument);
          if (length > 255) refuse("a number of " + std::to_string(length) + " bytes");
          if ((whole = has(4 + length))) push(long_integer(argument + 4, length));
        }
        break;
      case kBinFloat:
        if ((whole = has(8))) {
          uint64_t bits = 0;
          for (size_t i = 0; i < 8; ++i) bits = bits << 8 | argument[i];
          double value;
          std::memcpy(&value, &bits, sizeof value);
          charge(sizeof value);
          floats_.push_back(value);
          push({Kind::kFloat, static_cast<int64_t>(floats_.size()) - 1});
        }
        break;
      case kShortBinUnicode:
      case kShortBinString:
        if ((whole = has(1))) {
          const uint8_t length = *argument;
          const char* bytes = counted(1, length);
          if ((whole = bytes != nullptr)) push(text(bytes, length));
        }
        break;
      case kBinUnicode:
      case kBinString:
        if ((whole = has(4))) {
          const uint32_t length = little_endian<uint32_t>(argument);
          const char* bytes = counted(4, length);
          if ((whole = bytes != nullptr)) push(text(bytes, length));
        }
        break;
      case kBinUnicode8:
        if ((whole = has(8))) {
          const uint64_t length = little_endian<uint64_t>(argument);
          const char* bytes = counted(8, length);
          if ((whole = bytes != nullptr)) push(text(bytes, length));
        }
        break;
      case kIntLine:
      case kLongLine:
      case kFloatLine:
      case kUnicodeLine:
      case kGetLine:
      case kPutLine: {
        const auto* end = static_cast<const uint8_t*>(std::memchr(argument, '\n', std::min(left, kMaxText)));
        if (end == nullptr && left >= kMaxText) refuse("a line without an end");
        if ((whole = end != nullptr)) {
          used = static_cast<size_t>(end - argument) + 1;
          line_instruction(code, {reinterpret_cast<const char*>(argument), used - 1});
        }
        break;
      }
      case kEmptyList:
        push(container(Form::kList));
        break;
      case kEmptyDict:
        push(container(Form::kDict));
        break;
      case kEmptyTuple:
        push(container(Form::kTuple));
        break;
      case kTuple1:
      case kTuple2:
      case kTuple3: {
        const size_t count = 1 + code - kTuple1;
        if (stack_.size() - (marks_.empty() ? 0 : marks_.back()) < count)
          refuse("a tuple of more values than there are");
        push(tuple(stack_.size() - count));
        break;
      }
      case kTuple:
        push(tuple(pop_mark()));
        break;
      case kList:
      case kDict: {
        const size_t from = pop_mark();
        const Value made = container(code == kList ? Form::kList : Form::kDict);
        code == kList ? append(made, from) : set_items(made, from);
        push(made);
        break;
      }
      case kAppend: {
        if (stack_.size() < 2 || (!marks_.empty() && marks_.back() > stack_.size() - 2))
          refuse("nothing to append");
        append(stack_[stack_.size() - 2], stack_.size() - 1);
        break;
      }
      case kAppends: {
        const size_t from = pop_mark();
        if (from == 0 || (!marks_.empty() && marks_.back() == from)) refuse("no list to append to");
        append(stack_[from - 1], from);
        break;
      }
      case kSetItem:
        if (stack_.size() < 3 || (!marks_.empty() && marks_.back() > stack_.size() - 3))
          refuse("nothing to set");
        set_items(stack_[stack_.size() - 3], stack_.size() - 2);
        break;
      case kSetItems: {
        const size_t from = pop_mark();
        if (from == 0 || (!marks_.empty() && marks_.back() == from)) refuse("no dict to set items of");
        const Value dict = stack_[from - 1];
        if (from == stack_.size()) break;
        set_items(dict, from);
        // Picklers set all items of a small dict at once: a row need not wait for the list that it goes into.
        if (Value row; node(dict)->items.size() <= kMaxRowItems && to_row(*node(dict), row))
          become(dict, row);
        break;
      }
      case kMemoize:
        if (stack_.empty()) refuse("nothing to remember");
        memoize(memo_.size(), stack_.back());
        break;
      case kBinPut:
      case kLongBinPut: {
        if ((whole = has(code == kBinPut ? 1 : 4))) {
          if (stack_.empty()) refuse("nothing to remember");
          memoize(code == kBinPut ? *argument : little_endian<uint32_t>(argument), stack_.back());
        }
        break;
      }
      case kBinGet:
        if ((whole = has(1))) push(recall(*argument));
        break;
      case kLongBinGet:
        if ((whole = has(4))) push(recall(little_endian<uint32_t>(argument)));
        break;
      default: {
        char name[8];
        std::snprintf(name, sizeof name, "0x%02x", code);
        refuse(std::string("the instruction ") + name + " " + meaning(code) +
               ", which no snapshot needs: do not unpickle this file");
      }
    }
    if (!whole) break;
    begin += 1 + used;
  }
  base_ += begin;
  return begin;
}

void PickleReader::line_instruction(const uint8_t code, std::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  if (code == kUnicodeLine) {
    const std::string found = unescaped(line);
    push(text(found.data(), found.size()));
    return;
  }
  if (code == kFloatLine) {
    charge(sizeof(double));
    floats_.push_back(std::strtod(std::string(line.substr(0, 64)).c_str(), nullptr));
    push({Kind::kFloat, static_cast<int64_t>(floats_.size()) - 1});
    return;
  }
  if (code == kIntLine && (line == "00" || line == "01")) {
    push({Kind::kBool, line == "01"});
    return;
  }
  if (code == kLongLine && !line.empty() && line.back() == 'L') line.remove_suffix(1);
  int64_t number = 0;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), number);
  if (error == std::errc::result_out_of_range && code != kGetLine && code != kPutLine) {
    push({Kind::kHugeInt, 0});
    return;
  }
  if (error != std::errc() || end != line.data() + line.size()) refuse("a line that is no number");
  if (code == kIntLine || code == kLongLine) {
    push(integer(number));
  } else if (code == kGetLine) {
    push(recall(static_cast<uint64_t>(number)));
  } else {
    if (stack_.empty()) refuse("nothing to remember");
    memoize(static_cast<uint64_t>(number), stack_.back());
  }
}

void PickleReader::push(Value value) {
  charge(sizeof value);
  stack_.push_back(value);
}

size_t PickleReader::pop_mark() {
  if (marks_.empty()) refuse("the beginning of a container is missing");
  const size_t from = marks_.back();
  marks_.pop_back();
  kept_bytes_ -= sizeof(size_t);
  return from;
}

Value PickleReader::integer(int64_t number) {
  if (Value::fits(number)) return {Kind::kInt, number};
  charge(sizeof number);
  wide_ints_.push_back(number);
  return {Kind::kWideInt, static_cast<int64_t>(wide_ints_.size()) - 1};
}

Value PickleReader::long_integer(const uint8_t* data, size_t size) {
  uint64_t bits = 0;
  const bool negative = size > 0 && data[size - 1] & 0x80;
  for (size_t i = 0; i < 8; ++i)
    bits |= static_cast<uint64_t>(i < size ? data[i] : negative ? 0xff : 0) << (8 * i);
  for (size_t i = 8; i < size; ++i) {
    if (data[i] != (negative ? 0xff : 0)) return {Kind::kHugeInt, 0};
  }
  if (size > 8 && (bits >> 63 != 0) != negative) return {Kind::kHugeInt, 0};
  return integer(static_cast<int64_t>(bits));
}

Value PickleReader::text(const char* data, size_t size) {
  const std::string_view found(data, size);
  const auto known = text_indices_.find(found);
  if (known != text_indices_.end()) return {Kind::kText, known->second};
  charge(size + kTextBytes);
  const auto index = static_cast<int32_t>(texts.size());
  text_indices_.emplace(texts.emplace_back(found), index);
  return {Kind::kText, index};
}

Value PickleReader::container(Form form, std::vector<Value>&& items) {
  if (free_nodes_.empty()) {
    charge(kNodeBytes);
    nodes_.push_back(std::make_unique<Node>());
    free_nodes_.push_back(nodes_.back().get());
  }
  charge(kSlotBytes);
  Node* made = free_nodes_.back();
  free_nodes_.pop_back();
  made->form = form;
  made->is_plain = false;
  made->items = std::move(items);
  slots_.push_back({made, {}});
  return {Kind::kContainer, static_cast<int64_t>(slots_.size()) - 1};
}

Value PickleReader::tuple(size_t from) {
  const size_t count = stack_.size() - from;
  const auto is_number = [](Value value) { return value.is(Kind::kInt) || value.is(Kind::kWideInt); };
  if (count == 2 && is_number(stack_[from]) && is_number(stack_[from + 1])) {
    const std::pair<int64_t, int64_t> pool(number(stack_[from], "a number"),
                                           number(stack_[from + 1], "a number"));
    stack_.resize(from);
    kept_bytes_ -= 2 * sizeof(Value);
    auto [known, is_new] = pool_indices_.try_emplace(pool, static_cast<int32_t>(pools.size()));
    if (is_new) {
      charge(96);
      pools.push_back(pool);
    }
    return {Kind::kIntPair, known->second};
  }
  // What was on the stack is in the tuple now: the same bytes.
  std::vector<Value> items(stack_.begin() + static_cast<std::ptrdiff_t>(from), stack_.end());
  stack_.resize(from);
  return container(Form::kTuple, std::move(items));
}

void PickleReader::memoize(uint64_t index, Value value) {
  // Picklers count up. One number after a gap would take memory for the whole of the gap.
  if (index > memo_.size() + 256)
    refuse("it remembers a value as number " + std::to_string(index) + " after " +
           std::to_string(memo_.size()) + " others");
  while (memo_.size() <= index) {
    charge(sizeof value);
    memo_.push_back({Kind::kHugeInt, -1});
  }
  memo_[index] = value;
}

Value PickleReader::recall(uint64_t index) {
  if (index >= memo_.size())
    refuse("it recalls value " + std::to_string(index) + ", which it never remembered");
  return memo_[index];
}

Value PickleReader::resolve(Value value) const {
  if (!value.is(Kind::kContainer)) return value;
  const Slot& slot = slots_[static_cast<size_t>(value.payload())];
  return slot.node == nullptr ? slot.row : value;
}

PickleReader::Node* PickleReader::node(Value value) const {
  return value.is(Kind::kContainer) ? slots_[static_cast<size_t>(value.payload())].node : nullptr;
}

PickleReader::Node& PickleReader::open_node(Value value, Form form) {
  Node* found = node(value);
  if (found == nullptr && value.is(Kind::kContainer))
    refuse("a row of the snapshot is changed after it was complete");
  if (found == nullptr || found->form != form)
    refuse(form == Form::kList ? "no list to append to" : "no dict to set items of");
  return *found;
}

// What refers to the container finds the row from now on; its memory is used again.
void PickleReader::become(Value value, Value row) {
  Slot& slot = slots_[static_cast<size_t>(value.payload())];
  kept_bytes_ -= slot.node->items.size() * sizeof(Value);
  // A large one would keep its memory for ever.
  if (slot.node->items.capacity() > 1024) {
    std::vector<Value>().swap(slot.node->items);
  } else {
    slot.node->items.clear();
  }
  free_nodes_.push_back(slot.node);
  slot = {nullptr, row};
}

void PickleReader::append(Value list, size_t from) {
  Node& target = open_node(list, Form::kList);
  for (size_t i = from; i < stack_.size(); ++i) target.items.push_back(look_at(stack_[i]));
  stack_.resize(from);
}

void PickleReader::set_items(Value dict, size_t from) {
  Node& target = open_node(dict, Form::kDict);
  if ((stack_.size() - from) % 2 != 0) refuse("a key without a value");
  for (size_t i = from; i < stack_.size(); i += 2) {
    const Value key = resolve(stack_[i]);
    Value value = stack_[i + 1];
    if (key.is(Kind::kContainer) || key.is(Kind::kFloat)) refuse("a key that is no text or number");
    if (key.is(Kind::kText) && key.payload() == kFramesKey) value = stack_of(value);
    target.items.push_back(key);
    target.items.push_back(value);
  }
  stack_.resize(from);
}

// --- Rows
// ----------------------------------------------------------------------------------------------------------

// A dict that is complete, as far as a pickler goes: as a row, if it is one.
Value PickleReader::look_at(Value value) {
  Node* found = node(value);
  if (found == nullptr) return resolve(value);
  if (found->form != Form::kDict || found->is_plain || found->items.size() > kMaxRowItems) return value;
  Value row;
  if (to_row(*found, row)) {
    become(value, row);
    return row;
  }
  found->is_plain = true;
  return value;
}

bool PickleReader::to_row(const Node& dict, Value& row) {
  return to_event(dict, row) || to_frame(dict, row) || to_segment(dict, row) || to_block(dict, row) ||
         to_annotation(dict, row);
}

int64_t PickleReader::number(Value value, const char* what) const {
  value = resolve(value);
  if (value.is(Kind::kInt) || value.is(Kind::kBool)) return value.payload();
  if (value.is(Kind::kWideInt)) {
    const int64_t wide = wide_ints_[static_cast<size_t>(value.payload())];
    if (wide != kAbsent) return wide;
  }
  if (value.is(Kind::kNone)) return kAbsent;
  refuse(std::string(what) + " is no whole number of 64 bits");
}

int32_t PickleReader::text_index(Value value) const {
  value = resolve(value);
  return value.is(Kind::kText) ? static_cast<int32_t>(value.payload()) : -1;
}

int32_t PickleReader::stack_index(Value value) const {
  value = resolve(value);
  return value.is(Kind::kStack) ? static_cast<int32_t>(value.payload()) : -1;
}

int32_t PickleReader::pool_index(Value value) const {
  value = resolve(value);
  return value.is(Kind::kIntPair) ? static_cast<int32_t>(value.payload()) : -1;
}

bool PickleReader::to_event(const Node& dict, Value& row) {
  int32_t action = -1, stack = -1, pool = -1, metadata = -1;
  int64_t address = kAbsent, free = kAbsent, size = kAbsent, stream = 0, time = kAbsent;
  for (size_t i = 0; i < dict.items.size(); i += 2) {
    if (!dict.items[i].is(Kind::kText)) continue;
    const Value value = dict.items[i + 1];
    switch (dict.items[i].payload()) {
      case kActionKey:
        action = text_index(value);
        break;
      case kAddrKey:
        address = number(value, "the address of an event");
        break;
      case kDeviceFreeKey:
        free = number(value, "what a device had free");
        break;
      case kSizeKey:
        size = number(value, "the size of an event");
        break;
      case kStreamKey:
        stream = number(value, "the stream of an event");
        break;
      case kTimeKey:
        time = number(value, "the time of an event");
        break;
      case kFramesKey:
        stack = stack_index(value);
        break;
      case kPoolKey:
      case kSegmentPoolKey:
        pool = pool_index(value);
        break;
      case kMetadataKey:
        metadata = text_index(value);
        break;
      default:
        break;
    }
  }
  if (action < 0) return false;
  const auto known = static_cast<uint32_t>(action - kFirstAction);
  charge(kEventBytes);
  events.action.push_back(
      static_cast<int8_t>(std::min<uint32_t>(known, static_cast<uint32_t>(Action::kOther))));
  events.trace.push_back(-1);
  events.address.push_back(address == kAbsent ? free : address);
  events.size.push_back(size);
  events.stream.push_back(stream);
  events.time.push_back(time);
  events.stack.push_back(stack);
  events.pool.push_back(pool);
  events.metadata.push_back(metadata);
  row = {Kind::kEvent, static_cast<int64_t>(events.action.size()) - 1};
  return true;
}

bool PickleReader::to_frame(const Node& dict, Value& row) {
  std::array<int64_t, 4> key = {-1, -1, -1, 0};
  for (size_t i = 0; i < dict.items.size(); i += 2) {
    if (!dict.items[i].is(Kind::kText)) continue;
    const Value value = dict.items[i + 1];
    switch (dict.items[i].payload()) {
      case kFileKey:
        key[0] = text_index(value);
        break;
      case kNameKey:
        key[1] = text_index(value);
        break;
      case kFxNodeKey:
        key[2] = text_index(value);
        break;
      case kLineKey:
        key[3] = number(value, "the line of a frame");
        break;
      default:
        break;
    }
  }
  if (key[0] < 0 || key[1] < 0) return false;
  const auto [known, is_new] = frame_indices_.try_emplace(key, static_cast<int32_t>(frames.file.size()));
  if (is_new) {
    charge(128);
    frames.file.push_back(static_cast<int32_t>(key[0]));
    frames.function.push_back(static_cast<int32_t>(key[1]));
    frames.node.push_back(static_cast<int32_t>(key[2]));
    frames.line.push_back(key[3]);
  }
  row = {Kind::kFrame, known->second};
  return true;
}

// A list of frames as the stack that it is; anything else as it is.
Value PickleReader::stack_of(Value list) {
  Node* found = node(list);
  if (found == nullptr || found->form != Form::kList || found->is_plain) return list;
  uint64_t hash = found->items.size();
  for (const Value& item : found->items) {
    if (!item.is(Kind::kFrame)) {
      found->is_plain = true;
      return list;
    }
    hash = mixed(hash, static_cast<uint64_t>(item.payload()));
  }
  const size_t size = found->items.size();
  // Of one hash there may be many in a file that means harm; then equal ones are kept twice.
  int tried = 0;
  for (auto [at, end] = stack_indices_.equal_range(hash); at != end && tried < 4; ++at, ++tried) {
    const auto index = static_cast<size_t>(at->second);
    const auto begin = static_cast<size_t>(index ? stack_ends[index - 1] : 0);
    bool equal = static_cast<size_t>(stack_ends[index]) - begin == size;
    for (size_t i = 0; equal && i < size; ++i) equal = stack_frames[begin + i] == found->items[i].payload();
    if (equal) {
      const Value row(Kind::kStack, at->second);
      become(list, row);
      return row;
    }
  }
  charge(64 + size * sizeof(int32_t));
  for (const Value& item : found->items) stack_frames.push_back(static_cast<int32_t>(item.payload()));
  stack_ends.push_back(static_cast<int64_t>(stack_frames.size()));
  const Value row(Kind::kStack, static_cast<int64_t>(stack_ends.size()) - 1);
  if (tried < 4) stack_indices_.emplace(hash, static_cast<int32_t>(row.payload()));
  become(list, row);
  return row;
}

bool PickleReader::to_block(const Node& dict, Value& row) {
  int32_t state = -1, stack = -1;
  int64_t address = kAbsent, size = kAbsent, requested = kAbsent;
  for (size_t i = 0; i < dict.items.size(); i += 2) {
    if (!dict.items[i].is(Kind::kText)) continue;
    const Value value = dict.items[i + 1];
    switch (dict.items[i].payload()) {
      case kStateKey:
        state = text_index(value);
        break;
      case kAddressKey:
        address = number(value, "the address of a block");
        break;
      case kSizeKey:
        size = number(value, "the size of a block");
        break;
      case kRequestedKey:
        requested = number(value, "the requested size of a block");
        break;
      case kFramesKey:
        stack = stack_index(value);
        break;
      case kHistoryKey: {
        // As torch before 2.1 wrote it: what was asked for is in the first entry of a list.
        const Node* history = node(value);
        const Node* first = history && history->form == Form::kList && !history->items.empty()
                                ? node(history->items[0])
                                : nullptr;
        if (first == nullptr || first->form != Form::kDict || first->items.size() > kMaxRowItems) break;
        for (size_t k = 0; k < first->items.size(); k += 2) {
          if (!first->items[k].is(Kind::kText)) continue;
          if (first->items[k].payload() == kRealSizeKey)
            requested = number(first->items[k + 1], "the size of a block");
          if (first->items[k].payload() == kFramesKey) stack = stack_index(first->items[k + 1]);
        }
        break;
      }
      default:
        break;
    }
  }
  if (state < 0 || size == kAbsent) return false;
  charge(kEventBytes);
  blocks.segment.push_back(-1);
  blocks.state.push_back(state);
  blocks.stack.push_back(stack);
  blocks.address.push_back(address);
  blocks.size.push_back(size);
  blocks.requested.push_back(requested == kAbsent ? size : requested);
  row = {Kind::kBlock, static_cast<int64_t>(blocks.state.size()) - 1};
  return true;
}

bool PickleReader::to_segment(const Node& dict, Value& row) {
  int32_t pool = -1, type = -1, stack = -1;
  int64_t device = 0, address = kAbsent, size = kAbsent, stream = 0, is_expandable = 0;
  const Node* inside = nullptr;
  for (size_t i = 0; i < dict.items.size(); i += 2) {
    if (!dict.items[i].is(Kind::kText)) continue;
    const Value value = dict.items[i + 1];
    switch (dict.items[i].payload()) {
      case kDeviceKey:
        device = number(value, "the device of a segment");
        break;
      case kAddressKey:
        address = number(value, "the address of a segment");
        break;
      case kTotalSizeKey:
        size = number(value, "the size of a segment");
        break;
      case kStreamKey:
        stream = number(value, "the stream of a segment");
        break;
      case kSegmentPoolKey:
      case kPoolKey:
        pool = pool_index(value);
        break;
      case kTypeKey:
        type = text_index(value);
        break;
      case kExpandableKey:
        is_expandable = number(value, "whether a segment is expandable");
        break;
      case kFramesKey:
        stack = stack_index(value);
        break;
      case kBlocksKey:
        inside = node(value);
        break;
      default:
        break;
    }
  }
  if (size == kAbsent || inside == nullptr || inside->form != Form::kList) return false;
  const auto index = static_cast<int32_t>(segments.size.size());
  for (const Value& item : inside->items) {
    if (!item.is(Kind::kBlock)) refuse("a segment has a block that is none");
    int32_t& owner = blocks.segment[static_cast<size_t>(item.payload())];
    if (owner >= 0) refuse("a block is in two segments");
    owner = index;
  }
  charge(kEventBytes);
  segments.list.push_back(-1);
  segments.device.push_back(device);
  segments.address.push_back(address);
  segments.size.push_back(size);
  segments.stream.push_back(stream);
  segments.pool.push_back(pool);
  segments.type.push_back(type);
  segments.stack.push_back(stack);
  segments.is_expandable.push_back(is_expandable > 0);
  row = {Kind::kSegment, index};
  return true;
}

bool PickleReader::to_annotation(const Node& dict, Value& row) {
  int64_t device = 0, time = kAbsent;
  int32_t name = -1, stage = -1;
  for (size_t i = 0; i < dict.items.size(); i += 2) {
    if (!dict.items[i].is(Kind::kText)) continue;
    const Value value = dict.items[i + 1];
    switch (dict.items[i].payload()) {
      case kDeviceKey:
        device = number(value, "the device of an annotation");
        break;
      case kTimeKey:
        time = number(value, "the time of an annotation");
        break;
      case kNameKey:
        name = text_index(value);
        break;
      case kStageKey:
        stage = text_index(value);
        break;
      default:
        break;
    }
  }
  if (time == kAbsent || name < 0) return false;
  charge(kEventBytes);
  annotations.device.push_back(device);
  annotations.time.push_back(time);
  annotations.name.push_back(name);
  annotations.stage.push_back(stage);
  row = {Kind::kAnnotation, static_cast<int64_t>(annotations.time.size()) - 1};
  return true;
}

// --- The whole
// -----------------------------------------------------------------------------------------------------

void PickleReader::finish() {
  at_ = base_;
  if (!stopped_)
    refuse(pending_.empty() && base_ == 0 ? "the file is empty"
                                          : "the file ends here, before the pickle does: it is truncated");
  const Value top = stack_.back();
  Node* found = node(top);
  if (found == nullptr) refuse("the pickle holds no snapshot: a dict with segments and device_traces");
  if (found->form == Form::kList) {  // as torch.cuda.memory_snapshot() gives it
    take_segments(top, 0);
    return;
  }
  if (found->form != Form::kDict || found->items.size() > kMaxRowItems)
    refuse("the pickle holds no snapshot: a dict with segments and device_traces");
  bool has_segments = false;
  Value host_traces;
  for (size_t i = 0; i < found->items.size(); i += 2) {
    const int32_t key = text_index(found->items[i]);
    const Value value = found->items[i + 1];
    switch (key) {
      case kSegmentsKey:
        take_segments(value, 0);
        has_segments = true;
        break;
      case kHostSegmentsKey:
        take_segments(value, 1);
        break;
      case kDeviceTracesKey:
        num_device_traces = take_traces(value, 0);
        has_segments = true;
        break;
      case kHostTracesKey:
        host_traces = value;
        break;
      case kSettingsKey:
        take_settings(value, "", 0);
        break;
      case kAnnotationsKey:
        break;  // each is a row by now
      default:
        unknown_keys.push_back(key < 0 ? "(no text)" : texts[static_cast<size_t>(key)].substr(0, 60));
    }
  }
  if (!has_segments) refuse("the pickle holds no snapshot: a dict with segments and device_traces");
  // Numbered after those of the devices.
  if (!host_traces.is(Kind::kNone)) num_host_traces = take_traces(host_traces, num_device_traces);
}

void PickleReader::take_segments(Value list, int32_t which) {
  const Node* found = node(list);
  if (found == nullptr || found->form != Form::kList) refuse("the segments are no list");
  for (const Value& item : found->items) {
    if (!item.is(Kind::kSegment)) refuse("a segment is none: it needs total_size and blocks");
    int32_t& taken = segments.list[static_cast<size_t>(item.payload())];
    if (taken >= 0) refuse("a segment is listed twice");
    taken = which;
  }
}

// One list of events, or one for each device; gives how many there are.
int32_t PickleReader::take_traces(Value list, int32_t first) {
  const Node* found = node(list);
  if (found == nullptr || found->form != Form::kList) refuse("the traces are no list");
  if (found->items.size() > 4096) refuse("traces of more than 4096 devices");
  const bool is_flat = !found->items.empty() && found->items[0].is(Kind::kEvent);
  const auto count = static_cast<int32_t>(is_flat ? 1 : found->items.size());
  for (int32_t trace = 0; trace < count; ++trace) {
    const Node* entries = is_flat ? found : node(found->items[static_cast<size_t>(trace)]);
    if (entries == nullptr || entries->form != Form::kList) refuse("the trace of a device is no list");
    int64_t before = -1;
    for (const Value& item : entries->items) {
      if (!item.is(Kind::kEvent)) refuse("an event of a trace is none: it needs an action");
      int32_t& taken = events.trace[static_cast<size_t>(item.payload())];
      if (taken >= 0 || item.payload() <= before) refuse("an event is listed twice");
      taken = first + trace;
      before = item.payload();
    }
  }
  return count;
}

void PickleReader::take_settings(Value dict, const std::string& prefix, int depth) {
  const Node* found = node(dict);
  if (found == nullptr || found->form != Form::kDict || depth >= kMaxSettingsDepth) return;
  // Dicts that refer to each other can be many without having many bytes.
  for (size_t i = 0; i < found->items.size() && num_settings_seen_ < kMaxSettings;
       i += 2, ++num_settings_seen_) {
    const std::string name = prefix + as_text(found->items[i]);
    const Value value = found->items[i + 1];
    if (node(value) != nullptr && node(value)->form == Form::kDict) {
      take_settings(value, name + ".", depth + 1);
    } else {
      settings.emplace_back(name, as_text(value));
    }
  }
}

std::string PickleReader::as_text(Value value) const {
  value = resolve(value);
  switch (value.kind()) {
    case Kind::kText:
      return texts[static_cast<size_t>(value.payload())].substr(0, 200);
    case Kind::kBool:
      return value.payload() ? "True" : "False";
    case Kind::kInt:
    case Kind::kWideInt:
      return std::to_string(number(value, "a setting"));
    case Kind::kFloat: {
      char digits[32];
      std::snprintf(digits, sizeof digits, "%g", floats_[static_cast<size_t>(value.payload())]);
      return digits;
    }
    case Kind::kNone:
      return "None";
    default:
      return "(not shown)";
  }
}

}  // namespace memomalloc::snapshot
