#pragma once

#include <Python.h>
#include <c10/util/SmallVector.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "torch/arguments.hpp"
#include "torch/python_object.hpp"

// What a call is, in numbers: its arguments, and the modes of torch on this thread. Two calls have equal
// descriptions exactly if Python's specification of them, runtime/calls/signatures.py, has equal signatures;
// a property test holds the two together. Everything here is called with the GIL held.
namespace memomalloc {

// What calls of one plan have in common: `exact` is all that counts about them, `family` leaves out the
// sizes.
enum class Sameness : uint8_t { kExact, kFamily, kBucketedFamily };

// Part of a description that only Python can make. Its hash was taken once: later it may be another, or fail.
struct Token {
  Reference exact;
  Reference family;
  uint64_t exact_hash;
  uint64_t family_hash;
};

// The description of a call as it is remembered, for one kind of sameness.
struct CallKey {
  Sameness sameness;
  uint64_t hash;
  std::vector<uint64_t> words;
  std::vector<Reference> tokens;

  std::size_t num_bytes() const noexcept { return words.size() * sizeof(uint64_t); }
};

// How a comparison with a remembered key came out. Tokens are compared by classes of the program, whose code
// may raise: kFailed leaves Python's error set.
enum class Match : uint8_t { kSame, kOther, kFailed };

enum class Describing : uint8_t {
  kDone,
  kTooUnusual,  // Python may describe it, we cannot
  kFailed,      // Python's error is set
};

// How Python describes a value that is unusual: `describe(value, by_value)` is a tuple of an exact
// description, one without sizes, and the list of these sizes.
struct Unusual {
  PyObject* describe;
  PyObject* set_eval_frame;  // see Unwatched
};

class CallDescription {
 public:
  Describing describe(const Arguments& arguments, PyObject* variant, const Unusual& unusual);

  uint64_t hash(Sameness sameness) const noexcept;
  Match matches(const CallKey& key) const;
  CallKey key(Sameness sameness) const;

  // The dimensions and whole numbers of the call, in the order in which they were met.
  const c10::SmallVectorImpl<int64_t>& numbers() const noexcept { return numbers_; }

 private:
  static constexpr int kMaxDepth = 64;

  // Each returns false to stop, with Python's error set or not.
  bool put(PyObject* value, int depth, bool by_value);
  bool put_tensor(PyObject* value, bool by_value);
  bool put_integer(PyObject* value, bool by_value);
  bool put_text(PyObject* value);
  bool put_list(PyObject* value, int depth, bool by_value);
  bool put_tuple(PyObject* value, int depth, bool by_value);
  bool put_dictionary(PyObject* value, int depth, bool by_value);
  bool put_size(PyObject* value);
  bool put_unusual(PyObject* value, bool by_value);
  void put_modes();
  // Calls `visit` with every word of a description of this kind, in order.
  template <typename Visit>
  void each_word(Sameness sameness, Visit visit) const;

  Unusual unusual_{};  // while describe() runs
  // What all kinds of sameness share; how many numbers and details there are follows from it.
  c10::SmallVector<uint64_t, 96> structure_;
  c10::SmallVector<int64_t, 96> numbers_;
  // What only the exact description has: strides, values of floats.
  c10::SmallVector<uint64_t, 96> details_;
  std::vector<Token> tokens_;
};

// Whether a tracer of TorchScript looks at this thread.
bool is_traced() noexcept;

// The next larger of 1, 2, 3, 4, 6, 8, 12, 16, ...: as shape_policy.bucket_of() has it.
int64_t bucket_of(int64_t size) noexcept;

}  // namespace memomalloc
