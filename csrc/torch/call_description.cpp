#include "torch/call_description.hpp"

#include <ATen/Parallel.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Layout.h>
#include <torch/csrc/MemoryFormat.h>
#include <torch/csrc/QScheme.h>
#include <torch/csrc/Size.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <cstring>
#include <utility>

// Declared here since torch's header of them, ATen/autocast_mode.h, brings in every operator of torch, which
// makes this file a third longer to compile. With other arguments they would not link.
namespace at::autocast {
TORCH_API bool is_autocast_enabled(at::DeviceType device_type);
TORCH_API at::ScalarType get_autocast_dtype(at::DeviceType device_type);
}  // namespace at::autocast

namespace memomalloc {
namespace {

// In the low byte of the word that begins a value: what follows it is told by this word alone, so that no two
// calls have the same words.
enum class Tag : uint64_t {
  kModes = 1,
  kArguments,
  kNone,
  kFalse,
  kTrue,
  kInteger,
  kFloat,
  kFloatByValue,
  kComplex,
  kText,
  kBytes,
  kDtype,
  kDevice,
  kSingleton,
  kSize,
  kTensor,
  kList,
  kTuple,
  kDictionary,
  kUnusual,
};

constexpr uint64_t word(Tag tag, uint64_t payload = 0) { return static_cast<uint64_t>(tag) | payload << 8; }

// Longer texts and bytes are kept as objects, which does not copy them.
constexpr Py_ssize_t kMaxCopiedBytes = 128;

// The bits of a number: equal for equal numbers, and for all that are none, which are not even equal to
// themselves.
uint64_t bits_of(double value) noexcept {
  if (value == 0) value = 0;  // -0.0 equals 0.0
  uint64_t bits = 0x7FF8000000000000u;
  if (value == value) std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Tensors of these keys have sizes and strides of their own kind, or none, or Python answers for them.
constexpr c10::DispatchKeySet kUnusualTensors = c10::DispatchKeySet(
    {c10::DispatchKey::Sparse, c10::DispatchKey::SparseCsr, c10::DispatchKey::NestedTensor,
     c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot, c10::DispatchKey::Functionalize,
     c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::FuncTorchGradWrapper,
     c10::DispatchKey::BatchedNestedTensor});

// Inputs of a new call lie in no cache. Where there are many, each is fetched while those before it are
// looked at.
void prefetch(PyObject* const* items, Py_ssize_t n, Py_ssize_t at) noexcept {
  constexpr Py_ssize_t kObjectsAhead = 6, kTensorsAhead = 3;
  constexpr int kLines = 3;  // that we read of a TensorImpl
  if (at + kObjectsAhead < n) __builtin_prefetch(items[at + kObjectsAhead]);
  if (at + kTensorsAhead >= n || !THPVariable_CheckExact(items[at + kTensorsAhead])) return;
  const auto* impl =
      reinterpret_cast<const char*>(THPVariable_Unpack(items[at + kTensorsAhead]).unsafeGetTensorImpl());
  for (int line = 0; line < kLines; ++line) __builtin_prefetch(impl + 64 * line);
}

class Hash {
 public:
  void add(uint64_t value) noexcept {
    state_ = (state_ ^ value) * 0x9E3779B97F4A7C15u;
    state_ ^= state_ >> 29;
  }
  uint64_t get() const noexcept { return state_; }

 private:
  uint64_t state_ = 0x243F6A8885A308D3u;
};

}  // namespace

bool is_traced() noexcept { return torch::jit::tracer::isTracing(); }

int64_t bucket_of(int64_t size) noexcept {
  if (size <= 2) return size;
  const int num_bits = 64 - __builtin_clzll(static_cast<uint64_t>(size - 1));
  // A bucket that no number of 64 bits has: every size so large is in it.
  if (num_bits > 62) return size <= int64_t{3} << 61 ? int64_t{3} << 61 : INT64_MAX;
  const int64_t power = int64_t{1} << num_bits;
  return size <= power / 4 * 3 ? power / 4 * 3 : power;
}

// --- Describing

Describing CallDescription::describe(const Arguments& arguments, PyObject* variant, const Unusual& unusual) {
  unusual_ = unusual;
  put_modes();
  const Py_ssize_t num_positional = arguments.num_positional, num_named = arguments.num_named();
  structure_.push_back(
      word(Tag::kArguments, static_cast<uint64_t>(num_positional) << 24 | static_cast<uint64_t>(num_named)));
  bool done = put(variant, 0, true);
  for (Py_ssize_t i = 0; done && i < num_positional; ++i) {
    prefetch(arguments.values, num_positional, i);
    done = put(arguments.values[i], 0, false);
  }
  for (Py_ssize_t i = 0; done && i < num_named; ++i) {
    done = put(arguments.name(i), 0, true) && put(arguments.named(i), 0, false);
  }
  if (done) return Describing::kDone;
  return PyErr_Occurred() != nullptr ? Describing::kFailed : Describing::kTooUnusual;
}

void CallDescription::put_modes() {
  const bool autocasts = at::autocast::is_autocast_enabled(at::kCPU);
  const auto autocast_dtype =
      autocasts ? static_cast<uint64_t>(at::autocast::get_autocast_dtype(at::kCPU)) : 0;
  structure_.push_back(
      word(Tag::kModes, static_cast<uint64_t>(c10::GradMode::is_enabled()) |
                            static_cast<uint64_t>(c10::InferenceMode::is_enabled()) << 1 |
                            static_cast<uint64_t>(autocasts) << 2 | (autocast_dtype & 0xFF) << 8 |
                            (static_cast<uint64_t>(c10::get_default_dtype_as_scalartype()) & 0xFF) << 16 |
                            static_cast<uint64_t>(static_cast<uint32_t>(at::get_num_threads())) << 24));
}

bool CallDescription::put(PyObject* value, int depth, bool by_value) {
  if (depth > kMaxDepth) return false;
  PyTypeObject* type = Py_TYPE(value);
  if (THPVariable_CheckTypeExact(type)) return put_tensor(value, by_value);
  if (value == Py_None || value == Py_True || value == Py_False) {
    structure_.push_back(word(value == Py_None ? Tag::kNone : value == Py_True ? Tag::kTrue : Tag::kFalse));
    return true;
  }
  if (type == &PyLong_Type) return put_integer(value, by_value);
  if (type == &PyUnicode_Type || type == &PyBytes_Type) return put_text(value);
  if (type == &PyFloat_Type) {
    structure_.push_back(word(by_value ? Tag::kFloatByValue : Tag::kFloat));
    (by_value ? structure_ : details_).push_back(bits_of(PyFloat_AS_DOUBLE(value)));
    return true;
  }
  if (type == &PyList_Type) return put_list(value, depth, by_value);
  if (type == &PyTuple_Type) return put_tuple(value, depth, by_value);
  if (type == &PyDict_Type) return put_dictionary(value, depth, by_value);
  if (type == &THPDtypeType) {
    const auto dtype = reinterpret_cast<THPDtype*>(value)->scalar_type;
    structure_.push_back(word(Tag::kDtype, static_cast<uint64_t>(static_cast<uint8_t>(dtype))));
    return true;
  }
  if (type == &THPDeviceType) {
    const c10::Device device = reinterpret_cast<THPDevice*>(value)->device;
    structure_.push_back(word(Tag::kDevice, static_cast<uint64_t>(static_cast<uint8_t>(device.type())) << 8 |
                                                static_cast<uint8_t>(device.index())));
    return true;
  }
  if (type == reinterpret_cast<PyTypeObject*>(&THPSizeType)) return put_size(value);
  if (type == &THPLayoutType || type == &THPMemoryFormatType || type == &THPQSchemeType) {
    structure_.push_back(word(Tag::kSingleton));
    structure_.push_back(reinterpret_cast<uintptr_t>(value));
    return true;
  }
  if (type == &PyComplex_Type) {
    const double real = PyComplex_RealAsDouble(value), imaginary = PyComplex_ImagAsDouble(value);
    const bool is_number = real == real && imaginary == imaginary;
    structure_.push_back(word(Tag::kComplex, is_number ? 1 : 0));
    structure_.push_back(is_number ? bits_of(real) : 0);
    structure_.push_back(is_number ? bits_of(imaginary) : 0);
    return true;
  }
  return put_unusual(value, by_value);
}

bool CallDescription::put_tensor(PyObject* value, bool by_value) {
  if (by_value) return put_unusual(value, by_value);
  const at::Tensor& tensor = THPVariable_Unpack(value);
  if (!tensor.defined()) return put_unusual(value, by_value);
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (impl->key_set().has_any(kUnusualTensors) || impl->has_symbolic_sizes_strides() ||
      impl->layout() != c10::kStrided) {
    return put_unusual(value, by_value);
  }
  const c10::IntArrayRef sizes = impl->sizes(), strides = impl->strides();
  const c10::Device device = impl->device();
  if (sizes.size() > 255) return put_unusual(value, by_value);
  structure_.push_back(word(
      Tag::kTensor, static_cast<uint64_t>(Py_TYPE(value) == reinterpret_cast<PyTypeObject*>(ParameterClass)) |
                        static_cast<uint64_t>(impl->is_contiguous()) << 1 |
                        static_cast<uint64_t>(impl->requires_grad()) << 2 |
                        static_cast<uint64_t>(sizes.size()) << 8 |
                        static_cast<uint64_t>(static_cast<uint8_t>(tensor.scalar_type())) << 16 |
                        static_cast<uint64_t>(static_cast<uint8_t>(device.type())) << 24 |
                        static_cast<uint64_t>(static_cast<uint8_t>(device.index())) << 32));
  numbers_.append(sizes.begin(), sizes.end());
  details_.append(strides.begin(), strides.end());
  return true;
}

bool CallDescription::put_integer(PyObject* value, bool by_value) {
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow != 0) return by_value ? put_unusual(value, by_value) : false;
  structure_.push_back(word(Tag::kInteger, by_value ? 1 : 0));
  if (by_value) {
    structure_.push_back(static_cast<uint64_t>(number));
  } else {
    numbers_.push_back(number);
  }
  return true;
}

bool CallDescription::put_text(PyObject* value) {
  const bool is_text = PyUnicode_CheckExact(value);
  if (is_text && !PyUnicode_IS_ASCII(value)) return put_unusual(value, true);
  const Py_ssize_t num_bytes = is_text ? PyUnicode_GET_LENGTH(value) : PyBytes_GET_SIZE(value);
  if (num_bytes > kMaxCopiedBytes) return put_unusual(value, true);
  const void* bytes = is_text ? PyUnicode_DATA(value) : PyBytes_AS_STRING(value);
  structure_.push_back(word(is_text ? Tag::kText : Tag::kBytes, static_cast<uint64_t>(num_bytes)));
  const std::size_t first = structure_.size();
  structure_.append((static_cast<std::size_t>(num_bytes) + 7) / 8, 0);
  std::memcpy(structure_.data() + first, bytes, static_cast<std::size_t>(num_bytes));
  return true;
}

bool CallDescription::put_size(PyObject* value) {
  const Py_ssize_t n = PyTuple_GET_SIZE(value);
  structure_.push_back(word(Tag::kSize, static_cast<uint64_t>(n)));
  for (Py_ssize_t i = 0; i < n; ++i) {
    if (!PyLong_CheckExact(PyTuple_GET_ITEM(value, i))) return false;
    int overflow = 0;
    structure_.push_back(
        static_cast<uint64_t>(PyLong_AsLongLongAndOverflow(PyTuple_GET_ITEM(value, i), &overflow)));
    if (overflow != 0) return false;
  }
  return true;
}

// The code of the program may run wherever a value is unusual, and may change what is being gone through:
// what is gone through is held, and looked at anew each time.

bool CallDescription::put_list(PyObject* value, int depth, bool by_value) {
  const Reference held = Reference::borrow(value);
  const Py_ssize_t n = PyList_GET_SIZE(value);
  structure_.push_back(word(Tag::kList, static_cast<uint64_t>(n)));
  for (Py_ssize_t i = 0; i < n; ++i) {
    if (PyList_GET_SIZE(value) != n) return false;
    prefetch(PySequence_Fast_ITEMS(value), n, i);
    const Reference item = Reference::borrow(PyList_GET_ITEM(value, i));
    if (!put(item.get(), depth + 1, by_value)) return false;
  }
  return PyList_GET_SIZE(value) == n;
}

bool CallDescription::put_tuple(PyObject* value, int depth, bool by_value) {
  const Reference held = Reference::borrow(value);
  const Py_ssize_t n = PyTuple_GET_SIZE(value);
  structure_.push_back(word(Tag::kTuple, static_cast<uint64_t>(n)));
  for (Py_ssize_t i = 0; i < n; ++i) {
    prefetch(PySequence_Fast_ITEMS(value), n, i);
    if (!put(PyTuple_GET_ITEM(value, i), depth + 1, by_value)) return false;
  }
  return true;
}

bool CallDescription::put_dictionary(PyObject* value, int depth, bool by_value) {
  const Reference held = Reference::borrow(value);
  const Py_ssize_t n = PyDict_GET_SIZE(value);
  structure_.push_back(word(Tag::kDictionary, static_cast<uint64_t>(n)));
  Py_ssize_t at = 0, num_seen = 0;
  PyObject *key, *item;
  while (PyDict_Next(value, &at, &key, &item)) {
    const Reference held_key = Reference::borrow(key), held_item = Reference::borrow(item);
    if (!put(key, depth + 1, true) || !put(item, depth + 1, by_value)) return false;
    ++num_seen;
  }
  return num_seen == n && PyDict_GET_SIZE(value) == n;
}

bool CallDescription::put_unusual(PyObject* value, bool by_value) {
  const Reference held = Reference::borrow(value);
  const Unwatched unwatched(unusual_.set_eval_frame);
  const Reference described = Reference::steal(asking_python([&] {
    return PyObject_CallFunctionObjArgs(unusual_.describe, value, by_value ? Py_True : Py_False, nullptr);
  }));
  if (!described) return false;
  PyObject *exact = nullptr, *family = nullptr, *sizes = nullptr;
  if (!PyArg_ParseTuple(described.get(), "OOO!", &exact, &family, &PyList_Type, &sizes)) return false;
  const Py_hash_t exact_hash = asking_python([&] { return PyObject_Hash(exact); });
  if (exact_hash == -1) return false;
  const Py_hash_t family_hash = asking_python([&] { return PyObject_Hash(family); });
  if (family_hash == -1) return false;
  const Py_ssize_t n = PyList_GET_SIZE(sizes);
  structure_.push_back(word(Tag::kUnusual, static_cast<uint64_t>(n)));
  for (Py_ssize_t i = 0; i < n; ++i) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(PyList_GET_ITEM(sizes, i), &overflow);
    if (overflow != 0 || PyErr_Occurred() != nullptr) return false;
    numbers_.push_back(number);
  }
  tokens_.push_back({Reference::borrow(exact), Reference::borrow(family), static_cast<uint64_t>(exact_hash),
                     static_cast<uint64_t>(family_hash)});
  return true;
}

// --- Comparing

template <typename Visit>
void CallDescription::each_word(Sameness sameness, Visit visit) const {
  for (const uint64_t value : structure_) visit(value);
  switch (sameness) {
    case Sameness::kExact:
      for (const int64_t number : numbers_) visit(static_cast<uint64_t>(number));
      for (const uint64_t detail : details_) visit(detail);
      break;
    case Sameness::kBucketedFamily:
      for (const int64_t number : numbers_) visit(static_cast<uint64_t>(bucket_of(number)));
      break;
    case Sameness::kFamily:
      break;
  }
}

uint64_t CallDescription::hash(Sameness sameness) const noexcept {
  Hash hash;
  each_word(sameness, [&hash](uint64_t value) { hash.add(value); });
  for (const Token& token : tokens_) {
    hash.add(sameness == Sameness::kExact ? token.exact_hash : token.family_hash);
  }
  return hash.get();
}

Match CallDescription::matches(const CallKey& key) const {
  if (tokens_.size() != key.tokens.size()) return Match::kOther;
  std::size_t at = 0;
  bool same = true;
  each_word(key.sameness, [&](uint64_t value) {
    same = same && at < key.words.size() && key.words[at] == value;
    ++at;
  });
  if (!same || at != key.words.size()) return Match::kOther;
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const Token& token = tokens_[i];
    PyObject* ours = (key.sameness == Sameness::kExact ? token.exact : token.family).get();
    const int equal =
        asking_python([&] { return PyObject_RichCompareBool(ours, key.tokens[i].get(), Py_EQ); });
    if (equal != 1) return equal < 0 ? Match::kFailed : Match::kOther;
  }
  return Match::kSame;
}

CallKey CallDescription::key(Sameness sameness) const {
  CallKey key{sameness, hash(sameness), {}, {}};
  key.words.reserve(structure_.size() + numbers_.size() + details_.size());
  each_word(sameness, [&key](uint64_t value) { key.words.push_back(value); });
  for (const Token& token : tokens_) {
    key.tokens.push_back(
        Reference::borrow((sameness == Sameness::kExact ? token.exact : token.family).get()));
  }
  return key;
}

}  // namespace memomalloc
