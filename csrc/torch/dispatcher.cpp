#include "torch/dispatcher.hpp"

#include <Python.h>
#include <c10/util/SmallVector.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/armed_plan.hpp"
#include "torch/call_description.hpp"
#include "torch/python_object.hpp"
#include "torch/run.hpp"

namespace nb = nanobind;
using namespace nb::literals;

// All of this is used with the GIL held, which is what guards it. The module does not say that it can do
// without the GIL, so a free-threaded Python takes it as well; there, what remains are the borrowed items of
// lists and dictionaries in CallDescription, and the tables of a Dispatcher.
namespace memomalloc {
namespace {

// --- Calls of Python

PyObject* call_function(PyObject* function, PyObject* args, PyObject* kwargs) {
  return asking_python([&] { return PyObject_Call(function, args, kwargs); });
}

// As a tuple and a dictionary; null, with Python's error set, where there is no memory for them.
Reference positional_of(const Arguments& arguments) noexcept {
  Reference positional = Reference::steal(PyTuple_New(arguments.num_positional));
  for (Py_ssize_t i = 0; positional && i < arguments.num_positional; ++i) {
    PyTuple_SET_ITEM(positional.get(), i, Py_NewRef(arguments.values[i]));
  }
  return positional;
}
Reference named_of(const Arguments& arguments) noexcept {
  Reference named = Reference::steal(PyDict_New());
  for (Py_ssize_t i = 0; named && i < arguments.num_named(); ++i) {
    if (PyDict_SetItem(named.get(), arguments.name(i), arguments.named(i)) < 0) return {};
  }
  return named;
}

// What a dispatcher calls: a function. Where `kind` is there, it is the call of a module as that class has
// it, which is made without the function's frame.
struct Callee {
  Reference function;
  Reference module;  // weak
  Reference kind;

  int traverse(visitproc visit, void* arg) const {
    for (const Reference* held : {&function, &module, &kind}) Py_VISIT(held->get());
    return 0;
  }

  PyObject* call(const Arguments& arguments) const noexcept {
    const Reference called = kind ? referent(module.get()) : Reference();
    const auto num_positional = static_cast<std::size_t>(arguments.num_positional);
    if (!called) {  // or the module is gone, which the function says
      const Reference held = Reference::borrow(function.get());
      return asking_python(
          [&] { return PyObject_Vectorcall(held.get(), arguments.values, num_positional, arguments.names); });
    }
    static PyObject* const name = PyUnicode_InternFromString("__call__");
    // Tools that trace modules replace it for a while.
    Reference method = Reference::steal(defined_in_class(kind.get(), name));
    if (!method || !PyFunction_Check(method.get())) {  // the class has a say in what it gives
      method = Reference::steal(asking_python([&] { return PyObject_GetAttr(kind.get(), name); }));
    }
    if (!method) return nullptr;
    c10::SmallVector<PyObject*, 16> all{nullptr, called.get()};  // the first is the callee's to use
    try {
      all.append(arguments.values, arguments.values + arguments.num_positional + arguments.num_named());
    } catch (...) {
      return PyErr_NoMemory();
    }
    const std::size_t flags = (num_positional + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET;
    return asking_python(
        [&] { return PyObject_Vectorcall(method.get(), all.data() + 1, flags, arguments.names); });
  }
};

// --- Counters

// Calls that ran unplanned, by reason; the reasons are few, and known when they are first counted.
class Counts {
 public:
  // Stays where it is as long as these counts do.
  uint64_t& of(const std::string& reason) { return by_reason_[reason]; }
  nb::dict as_dict() const {
    nb::dict result;
    for (const auto& [reason, count] : by_reason_) result[reason.c_str()] = count;
    return result;
  }

 private:
  std::unordered_map<std::string, uint64_t> by_reason_;
};

Counts& process_counts() {
  static auto& counts = *new Counts;
  return counts;
}

// The counter of one reason, of a dispatcher and of the process.
struct Counter {
  uint64_t* own = nullptr;
  uint64_t* process = nullptr;

  void add() const noexcept {
    ++*own;
    ++*process;
  }
};

// Rises with every use of a plan; tells which one was not used for longest.
uint64_t next_use() noexcept {
  static uint64_t uses = 0;
  return ++uses;
}

// --- What is looked up

// The sizes that calls of a family may have; see learning/envelope.py.
struct Bounds {
  std::vector<int64_t> lowest;
  std::vector<int64_t> highest;
  double room = 1.0;

  bool cover(const c10::SmallVectorImpl<int64_t>& numbers) const noexcept {
    if (lowest.empty() && highest.empty()) return numbers.empty();
    if (numbers.size() != lowest.size() || numbers.size() != highest.size()) return false;
    double excess = 1.0;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (numbers[i] > highest[i]) {
        excess *= static_cast<double>(numbers[i]) / static_cast<double>(std::max<int64_t>(highest[i], 1));
      }
      if (lowest[i] == highest[i] && highest[i] != numbers[i]) return false;
    }
    return excess * excess <= room;
  }
};

// Calls that were looked up in a row and were to go straight to the function; after so many, where nothing is
// armed, calls are not even looked up, but for one in so many.
constexpr uint32_t kPassedUntilRest = 64;
constexpr uint32_t kCallsOfRest = 15;

// Python is told of so many runs at once that went as planned: a microsecond for each of them would be too
// dear.
constexpr uint64_t kRunsUntilTold = 256;

// What calls of one group do.
struct Armed {
  std::shared_ptr<const CallKey> key;  // null: its calls are too unusual to be looked up
  Reference group;
  Reference plan_object;      // keeps `plan`
  ArmedPlan* plan = nullptr;  // null: its calls run unplanned, and are counted there
  double wait_s = 0;
  Counter unplanned;
  Bounds bounds;
  bool wants_attention = false;
  uint64_t last_use = 0;
  uint64_t num_as_planned = 0;  // runs, since Python was last told

  int traverse(visitproc visit, void* arg) const {
    for (PyObject* object : {group.get(), plan_object.get()}) Py_VISIT(object);
    if (key != nullptr) {
      for (const Reference& token : key->tokens) Py_VISIT(token.get());
    }
    return 0;
  }
};

using ArmedRef = std::shared_ptr<Armed>;

class Dispatcher;

// A call that Python has to think about. Calling it calls the program's function, with the call's own
// arguments whatever it is given, so that what became of that is known here, and cannot be lost.
struct Call {
  enum class State : uint8_t { kNotRun, kRunning, kReturned, kRaised, kSettled };

  Reference function, args, kwargs, variant;
  std::unique_ptr<CallDescription> description;  // null: too unusual
  const Unwatched* unwatched = nullptr;          // while Python thinks
  State state = State::kNotRun;
  Reference outcome;  // what the function returned or raised

  PyObject* run() {
    if (state != State::kNotRun) {
      PyErr_SetString(PyExc_RuntimeError, "a call is made once");
      return nullptr;
    }
    state = State::kRunning;
    const bool is_watched =
        unwatched != nullptr && unwatched->watcher() != nullptr && unwatched->watcher() != Py_None;
    if (is_watched) unwatched->swap(unwatched->watcher());
    PyObject* result = call_function(function.get(), args.get(), kwargs.get());
    if (is_watched) unwatched->swap(Py_None);
    if (result != nullptr) {
      outcome = Reference::borrow(result);
      state = State::kReturned;
    } else {
      outcome = take_error();
      state = State::kRaised;
      give_error(Reference::borrow(outcome.get()));
    }
    return result;
  }

  uint64_t kind() const noexcept {
    // As a hash of Python's is: it fits into what an int has without growing.
    return description != nullptr ? description->hash(Sameness::kExact) >> 4 : 0;
  }
};

class Dispatcher {
 public:
  Dispatcher(nb::object function, nb::object module, nb::object kind, nb::object owner,
             const std::string& shapes, nb::object unusual, nb::object is_of_the_program,
             nb::object report_fault, nb::object switch_object, nb::object compiler_globals,
             nb::object set_eval_frame)
      : callee_{Reference::steal(function.release().ptr()), Reference::steal(module.release().ptr()),
                kind.is_none() ? Reference() : Reference::steal(kind.release().ptr())},
        owner_(Reference::steal(PyWeakref_NewRef(owner.ptr(), nullptr))),
        unusual_(Reference::steal(unusual.release().ptr())),
        is_of_the_program_(Reference::steal(is_of_the_program.release().ptr())),
        report_fault_(Reference::steal(report_fault.release().ptr())),
        switch_(Reference::steal(switch_object.release().ptr())),
        compiler_globals_(Reference::steal(compiler_globals.release().ptr())),
        set_eval_frame_(Reference::steal(set_eval_frame.release().ptr())),
        family_(shapes == "bucketed" ? Sameness::kBucketedFamily : Sameness::kFamily) {
    if (!owner_) throw nb::python_error();
    if (!PyDict_Check(compiler_globals_.get())) throw nb::type_error("compiler_globals must be a dictionary");
    if (callee_.kind && !PyWeakref_Check(callee_.module.get())) {
      throw nb::type_error("module must be a weak reference");
    }
  }

  int traverse(visitproc visit, void* arg) const {
    if (const int stop = callee_.traverse(visit, arg)) return stop;
    for (const Reference* held : {&owner_, &unusual_, &is_of_the_program_, &report_fault_, &switch_,
                                  &compiler_globals_, &set_eval_frame_}) {
      Py_VISIT(held->get());
    }
    for (const auto& [group, armed] : by_group_) {
      if (const int stop = armed->traverse(visit, arg)) return stop;
    }
    return 0;
  }

  // --- From the program

  PyObject* call(const Arguments& arguments, PyObject* variant) {
    if (is_being_looked_at()) return callee_.call(arguments);
    PyObject* result = nullptr;
    switch (before(arguments, variant, result)) {
      case Before::kDone:
        return result;
      case Before::kProgramsError:
        return nullptr;
      case Before::kFault:
        break;
    }
    return run_unplanned("unplannable", arguments);
  }

  // The same for a call that need not be looked up; false: it has to be.
  bool call_resting(const Arguments& arguments, PyObject*& result) noexcept {
    if (rest_left_ == 0) return false;
    if (!is_on()) {
      PyErr_Clear();  // whoever looks the call up meets it as well
      return false;
    }
    --rest_left_;
    resting_.add();
    result = callee_.call(arguments);
    return true;
  }

  // --- From Python's side of us

  void arm(const Call& call, nb::object group, nb::object plan, double wait_s, bool is_family,
           std::vector<int64_t> lowest, std::vector<int64_t> highest, double room, bool wants_attention) {
    auto armed = std::make_shared<Armed>();
    armed->plan = nb::cast<PlanOwner&>(plan).plan.get();
    armed->plan_object = Reference::borrow(plan.ptr());
    armed->wait_s = wait_s;
    armed->bounds = {std::move(lowest), std::move(highest), room};
    armed->wants_attention = wants_attention;
    put(call, std::move(group), is_family, std::move(armed));
  }

  void pass(const Call& call, nb::object group, const std::string& reason, bool is_family) {
    auto armed = std::make_shared<Armed>();
    armed->unplanned = counter(reason);
    put(call, std::move(group), is_family, std::move(armed));
  }

  void disarm(nb::handle group) {
    const auto found = by_group_.find(group.ptr());
    if (found == by_group_.end()) return;
    const ArmedRef armed = found->second;  // freed at the end: that may run any code
    by_group_.erase(found);
    forget_key(armed);
  }

  void clear() {
    const auto by_group = std::exchange(by_group_, {});
    const auto by_key = std::exchange(by_key_, {});
    num_exact_ = 0;
    changed();
  }

  // Calls on what the group has armed; unplanned, if that is nothing any more.
  PyObject* replay(Call& call, nb::handle group) {
    const auto found = by_group_.find(group.ptr());
    if (found == by_group_.end() || found->second->plan == nullptr) {
      count("learning");
      return call.run();
    }
    const ArmedRef armed = found->second;
    return run_on(armed, [&call] { return call.kind(); }, [&call] { return call.run(); });
  }

  // When the group was last used, in the numbers of next_use(), and its runs as planned that nobody was told
  // of.
  uint64_t last_use(nb::handle group) const {
    const auto found = by_group_.find(group.ptr());
    return found != by_group_.end() ? found->second->last_use : 0;
  }
  uint64_t take_num_as_planned(nb::handle group) {
    const auto found = by_group_.find(group.ptr());
    return found != by_group_.end() ? std::exchange(found->second->num_as_planned, 0) : 0;
  }

  // None where it is gone.
  nb::object owner() const {
    Reference owner = referent(owner_.get());
    return owner ? nb::steal(owner.release()) : nb::none();
  }
  nb::dict unplanned() const { return counts_.as_dict(); }
  std::size_t num_armed() const noexcept { return by_group_.size(); }
  std::size_t remembered_bytes() const noexcept {
    std::size_t bytes = 0;
    for (const auto& [hash, armed] : by_key_) {
      bytes += armed->key->num_bytes() +
               (armed->bounds.lowest.size() + armed->bounds.highest.size()) * sizeof(int64_t);
    }
    return bytes;
  }

 private:
  enum class Before : uint8_t {
    kDone,           // the function was called; its result or error is there
    kProgramsError,  // a signal handler of the program raised
    kFault,          // ours: no error is set, and the function was not called
  };

  // A compiler, an exporter or a tracer looks at the program: it is to see the function.
  bool is_being_looked_at() const noexcept {
    static PyObject* const flag = PyUnicode_InternFromString("_is_compiling_flag");
    return is_traced() || PyDict_GetItem(compiler_globals_.get(), flag) == Py_True;
  }

  // False as well where that cannot be known, with Python's error set.
  bool is_on() const noexcept {
    static PyObject* const on = PyUnicode_InternFromString("on");
    const Reference value = Reference::steal(PyObject_GetAttr(switch_.get(), on));
    return value.get() == Py_True;
  }

  Before before(const Arguments& arguments, PyObject* variant, PyObject*& result) noexcept {
    bool was_called = false;
    try {
      if (!is_on()) {
        if (PyErr_Occurred() != nullptr) return fault();
        was_called = true;
        result = run_unplanned("disabled", arguments);
        return Before::kDone;
      }
      CallDescription description;
      const Describing described = describe(description, arguments, variant);
      if (described == Describing::kFailed) return fault();
      ArmedRef armed;
      if (described == Describing::kDone) {
        const Match found = find(description, armed);
        if (found == Match::kFailed) return fault();
      }
      if (armed != nullptr && armed->wants_attention) {
        bool is_due = false;
        if (!ask_whether_due(*armed, description, is_due)) return Before::kProgramsError;
        if (is_due) armed = nullptr;
      }
      if (armed != nullptr) {
        armed->last_use = next_use();
        was_called = true;
        if (armed->plan == nullptr) {
          armed->unplanned.add();
          passed(*armed);
          result = callee_.call(arguments);
        } else {
          result = run_on(armed, description, arguments);
        }
        return Before::kDone;
      }
      result =
          learn(arguments, variant,
                described == Describing::kDone ? std::make_unique<CallDescription>(std::move(description))
                                               : nullptr,
                was_called);
      return Before::kDone;
    } catch (nb::python_error& error) {
      error.restore();
      return was_called ? Before::kDone : fault();
    } catch (...) {
      if (was_called && PyErr_Occurred() == nullptr && result == nullptr) PyErr_NoMemory();
      if (!was_called) PyErr_Clear();
      return was_called ? Before::kDone : Before::kFault;
    }
  }

  // What to do about the error that is set, before the function was called.
  Before fault() noexcept {
    Reference error = take_error();
    if (!is_the_programs(error)) return Before::kFault;
    give_error(std::move(error));
    return Before::kProgramsError;
  }

  // Whether the program is to have this error: Ctrl-C, or what one of its signal handlers raised. `error` may
  // be another one afterwards: asking may be interrupted as well.
  bool is_the_programs(Reference& error) noexcept {
    if (!error) return false;
    if (!PyErr_GivenExceptionMatches(error.get(), PyExc_Exception)) return true;
    const Unwatched unwatched(set_eval_frame_.get());
    const Reference answer = Reference::steal(asking_python(
        [&] { return PyObject_CallFunctionObjArgs(is_of_the_program_.get(), error.get(), nullptr); }));
    if (answer) return answer.get() == Py_True;
    Reference other = take_error();
    if (PyErr_GivenExceptionMatches(other.get(), PyExc_Exception)) return false;
    error = std::move(other);
    return true;
  }

  // Logs a fault of ours; false: Python's error is set, and is the program's.
  bool report(const Reference& fault) noexcept {
    const Unwatched unwatched(set_eval_frame_.get());
    const Reference owner = referent(owner_.get());
    const Reference done = Reference::steal(asking_python([&] {
      return PyObject_CallFunctionObjArgs(report_fault_.get(), owner ? owner.get() : Py_None, fault.get(),
                                          nullptr);
    }));
    if (done) return true;
    Reference error = take_error();
    if (!is_the_programs(error)) return true;
    give_error(std::move(error));
    return false;
  }

  Describing describe(CallDescription& description, const Arguments& arguments, PyObject* variant) {
    try {
      return description.describe(arguments, variant, {unusual_.get(), set_eval_frame_.get()});
    } catch (const nb::python_error&) {
      throw;
    } catch (const std::exception&) {  // a tensor of a kind that has no sizes or strides
      PyErr_Clear();
      return Describing::kTooUnusual;
    }
  }

  Match find(const CallDescription& description, ArmedRef& armed) const {
    if (num_exact_ != 0) {
      const Match found = find(description, Sameness::kExact, armed);
      if (found != Match::kOther) return found;
    }
    if (by_key_.size() == num_exact_) return Match::kOther;
    const Match found = find(description, family_, armed);
    // One that its group has not seen the like of has to be thought about.
    if (armed != nullptr && armed->plan != nullptr && !armed->bounds.cover(description.numbers())) {
      armed = nullptr;
      return Match::kOther;
    }
    return found;
  }

  Match find(const CallDescription& description, Sameness sameness, ArmedRef& armed) const {
    // Comparing may run code of the program, which may change the table.
    constexpr int kMaxTries = 3;
    const uint64_t hash = description.hash(sameness);
    for (int i = 0; i < kMaxTries; ++i) {
      const uint64_t version = version_;
      const auto [first, last] = by_key_.equal_range(hash);
      for (auto at = first; at != last; ++at) {
        if (at->second->key->sameness != sameness) continue;
        ArmedRef candidate = at->second;
        const Match match = description.matches(*candidate->key);
        if (match == Match::kSame) armed = std::move(candidate);
        if (match != Match::kOther) return match;
        if (version != version_) break;
      }
      if (version == version_) break;
    }
    return Match::kOther;
  }

  // False: Python's error is set, and is the program's.
  bool ask_whether_due(Armed& armed, const CallDescription& description, bool& is_due) {
    const Reference owner = referent(owner_.get());
    if (!owner) return true;
    const Unwatched unwatched(set_eval_frame_.get());
    const Reference kind =
        Reference::steal(PyLong_FromUnsignedLongLong(description.hash(Sameness::kExact) >> 4));
    const Reference group = Reference::borrow(armed.group.get());
    static PyObject* const name = PyUnicode_InternFromString("_is_due");
    const Reference answer = Reference::steal(asking_python(
        [&] { return PyObject_CallMethodObjArgs(owner.get(), name, group.get(), kind.get(), nullptr); }));
    if (answer) {
      is_due = answer.get() == Py_True;
      return true;
    }
    Reference error = take_error();
    if (!is_the_programs(error)) return report(error);
    give_error(std::move(error));
    return false;
  }

  Counter counter(const std::string& reason) { return {&counts_.of(reason), &process_counts().of(reason)}; }

  void count(const char* reason) noexcept {
    try {
      counter(reason).add();
    } catch (...) {
      // No memory to count in: the call is made all the same.
    }
  }

  // A call that was looked up goes straight to the function.
  void passed(const Armed& armed) noexcept {
    if (++num_passed_ < kPassedUntilRest) return;
    const bool any_is_armed = std::any_of(by_group_.begin(), by_group_.end(),
                                          [](const auto& entry) { return entry.second->plan != nullptr; });
    if (any_is_armed) {
      num_passed_ = 0;
      return;
    }
    num_passed_ = kPassedUntilRest - 1;
    rest_left_ = kCallsOfRest;
    resting_ = armed.unplanned;
  }

  // What calls are to do has changed.
  void changed() noexcept {
    ++version_;
    num_passed_ = rest_left_ = 0;
  }

  PyObject* run_unplanned(const char* reason, const Arguments& arguments) noexcept {
    count(reason);
    return callee_.call(arguments);
  }

  PyObject* run_on(const ArmedRef& armed, const CallDescription& description, const Arguments& arguments) {
    return run_on(
        armed, [&description] { return description.hash(Sameness::kExact) >> 4; },
        [&] { return callee_.call(arguments); });
  }

  // Calls `function` with the armed plan. Where the call was not begun by a fault of ours, it is
  // made unplanned.
  template <typename Kind, typename Function>
  PyObject* run_on(const ArmedRef& armed, const Kind& kind, const Function& function) {
    std::optional<Run> run;
    try {
      run.emplace(begin_run(*armed->plan, armed->wait_s));
    } catch (nb::python_error& raised) {
      raised.restore();
      if (fault() == Before::kProgramsError) return nullptr;
    } catch (...) {
      // No memory: as if there were none for the run.
    }
    if (!run.has_value() || !run->started()) {
      count(run.has_value() ? run->outcome() : "no_arena");
      return function();
    }
    PyObject* result = function();
    const RunCounts counts = run->end();
    if (counts.num_upstream() > counts.kept) {
      const uint64_t num_blocked = counts.upstream[static_cast<std::size_t>(Deviation::kBlocked)];
      return deviated(*armed, kind(), counts.num_upstream() - num_blocked - counts.kept, result);
    }
    if (++armed->num_as_planned >= kRunsUntilTold) return ran(*armed, result);
    return result;
  }

  // Tells Python of runs that went as planned: it may want to compare a call with one that is not planned.
  PyObject* ran(Armed& armed, PyObject* result) noexcept {
    return tell(armed, result, [&armed](PyObject* owner) {
      const uint64_t num_as_planned = std::exchange(armed.num_as_planned, 0);
      return PyObject_CallMethod(owner, "_ran", "OK", armed.group.get(),
                                 static_cast<unsigned long long>(num_as_planned));
    });
  }

  PyObject* deviated(Armed& armed, uint64_t kind, uint64_t num_unforeseen, PyObject* result) noexcept {
    return tell(armed, result, [&](PyObject* owner) {
      const uint64_t num_as_planned = std::exchange(armed.num_as_planned, 0);
      return PyObject_CallMethod(
          owner, "_deviated", "OKKK", armed.group.get(), static_cast<unsigned long long>(kind),
          static_cast<unsigned long long>(num_unforeseen), static_cast<unsigned long long>(num_as_planned));
    });
  }

  // Tells Python, which says whether the group wants attention. `result` is the function's, null where it
  // raised; what comes back is that, or an error of the program's.
  template <typename Ask>
  PyObject* tell(Armed& armed, PyObject* result, const Ask& ask) noexcept {
    const Reference owner = referent(owner_.get());
    if (!owner) return result;
    Reference raised = result == nullptr ? take_error() : Reference();
    const Unwatched unwatched(set_eval_frame_.get());
    Reference error;
    {
      const Reference wants_attention = Reference::steal(asking_python([&] { return ask(owner.get()); }));
      if (wants_attention) {
        const bool wants = wants_attention.get() == Py_True;
        armed.wants_attention = wants;
        const auto found = by_group_.find(armed.group.get());  // may be another by now
        if (found != by_group_.end()) found->second->wants_attention = wants;
      } else {
        error = take_error();
      }
    }
    if (error && !is_the_programs(error)) {
      if (report(error)) {
        error = Reference();
      } else {
        error = take_error();
      }
    }
    if (error) {
      Py_CLEAR(result);
      give_error(std::move(error));
    } else if (raised) {
      give_error(std::move(raised));
    }
    return result;
  }

  // Lets Python think about the call, and make it.
  PyObject* learn(const Arguments& arguments, PyObject* variant, std::unique_ptr<CallDescription> description,
                  bool& was_called) {
    const Reference owner = referent(owner_.get());
    if (!owner) {
      was_called = true;
      return run_unplanned("unplannable", arguments);
    }
    num_passed_ = 0;
    nb::object call_object = asking_python([] { return nb::cast(Call{}); });  // it may run the collector
    Call& call = *nb::inst_ptr<Call>(call_object);
    call.function = Reference::borrow(callee_.function.get());
    call.args = positional_of(arguments);
    call.kwargs = named_of(arguments);
    if (!call.args || !call.kwargs) throw nb::python_error();
    call.variant = Reference::borrow(variant);
    call.description = std::move(description);
    was_called = true;  // from here on settle() sees to it
    Reference error;
    {
      const Unwatched unwatched(set_eval_frame_.get());
      call.unwatched = &unwatched;
      static PyObject* const name = PyUnicode_InternFromString("_think");
      const Reference returned = Reference::steal(asking_python(
          [&] { return PyObject_CallMethodObjArgs(owner.get(), name, call_object.ptr(), nullptr); }));
      if (!returned) error = take_error();
      call.unwatched = nullptr;
    }
    return settle(call, std::move(error));
  }

  // What a call that Python thought about gives the program: what its function returned or raised, whatever
  // else was raised.
  PyObject* settle(Call& call, Reference error) noexcept {
    // A traceback may keep the call, which no collector looks into: it keeps nothing itself from here on.
    Reference outcome = std::move(call.outcome);
    const Reference function = std::move(call.function), args = std::move(call.args),
                    kwargs = std::move(call.kwargs), variant = std::move(call.variant);
    const Call::State state = std::exchange(call.state, Call::State::kSettled);
    if (error && error.get() != outcome.get()) {
      if (is_the_programs(error)) {
        give_error(std::move(error));
        return nullptr;
      }
      if (!report(error)) return nullptr;
    }
    if (state == Call::State::kReturned) return outcome.release();
    if (state == Call::State::kRaised) {
      give_error(std::move(outcome));
      return nullptr;
    }
    count("unplannable");
    return call_function(function.get(), args.get(), kwargs.get());
  }

  void put(const Call& call, nb::object group, bool is_family, ArmedRef armed) {
    armed->group = Reference::borrow(group.ptr());
    if (call.description != nullptr) {
      armed->key =
          std::make_shared<const CallKey>(call.description->key(is_family ? family_ : Sameness::kExact));
    }
    ArmedRef old;
    const auto found = by_group_.find(group.ptr());
    if (found != by_group_.end()) {
      old = found->second;
      forget_key(old);
      if (armed->key == nullptr) armed->key = old->key;  // which may be in the middle of a comparison
      armed->last_use = old->last_use;
      armed->num_as_planned = old->num_as_planned;
    }
    by_group_[group.ptr()] = armed;
    if (armed->key != nullptr) {
      by_key_.emplace(armed->key->hash, armed);
      if (armed->key->sameness == Sameness::kExact) ++num_exact_;
    }
    changed();
  }

  void forget_key(const ArmedRef& armed) {
    changed();
    if (armed->key == nullptr) return;
    const auto [first, last] = by_key_.equal_range(armed->key->hash);
    for (auto at = first; at != last; ++at) {
      if (at->second == armed) {
        by_key_.erase(at);
        if (armed->key->sameness == Sameness::kExact) --num_exact_;
        return;
      }
    }
  }

  const Callee callee_;
  const Reference owner_;  // weak: it has us
  const Reference unusual_;
  const Reference is_of_the_program_;
  const Reference report_fault_;
  const Reference switch_;
  const Reference compiler_globals_;
  const Reference set_eval_frame_;
  const Sameness family_;
  // Armed groups are as many as there are plans at most, so these tables are bounded whatever calls come.
  std::unordered_map<PyObject*, ArmedRef> by_group_;  // each holds its group
  std::unordered_multimap<uint64_t, ArmedRef> by_key_;
  std::size_t num_exact_ = 0;  // of by_key_, the others are families
  uint64_t version_ = 0;       // of by_key_
  uint32_t num_passed_ = 0;    // in a row; see kPassedUntilRest
  uint32_t rest_left_ = 0;     // calls that need not be looked up, and are counted here:
  Counter resting_;
  Counts counts_;
};

// --- Slots

int traverse_dispatcher(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  return nb::inst_ready(self) ? nb::inst_ptr<Dispatcher>(self)->traverse(visit, arg) : 0;
}

int clear_dispatcher(PyObject* self) {
  // What is called stays as it is: somebody may call this yet.
  if (nb::inst_ready(self)) nb::inst_ptr<Dispatcher>(self)->clear();
  return 0;
}

PyType_Slot dispatcher_slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(&traverse_dispatcher)},
                                  {Py_tp_clear, reinterpret_cast<void*>(&clear_dispatcher)},
                                  {0, nullptr}};

PyObject* make_call(PyObject* self, PyObject*, PyObject*) {
  if (!nb::inst_ready(self)) {
    PyErr_SetString(PyExc_TypeError, "a Call that was not made");
    return nullptr;
  }
  const Reference held = Reference::borrow(self);
  return nb::inst_ptr<Call>(self)->run();
}

PyType_Slot call_slots[] = {{Py_tp_call, reinterpret_cast<void*>(&make_call)}, {0, nullptr}};

// What a call has no more, once it is settled, is None.
nb::object object_or_none(const Reference& reference) {
  return nb::borrow(reference ? reference.get() : Py_None);
}

// A call whose arguments are a tuple and a dictionary, as Python's code has them.
PyObject* call_by_python(Dispatcher& dispatcher, const nb::tuple& args, const nb::dict& kwargs,
                         const nb::object& variant) {
  Arguments arguments{PySequence_Fast_ITEMS(args.ptr()), static_cast<Py_ssize_t>(args.size()), nullptr};
  nb::object names;
  std::vector<nb::object> held;  // the dictionary is the program's, which may change it meanwhile
  std::vector<PyObject*> values;
  if (kwargs.size() != 0) {
    names = nb::tuple(kwargs.keys());
    values.assign(arguments.values, arguments.values + arguments.num_positional);
    for (const nb::handle name : names) {
      held.push_back(nb::borrow(kwargs[name]));
      values.push_back(held.back().ptr());
    }
    arguments.values = values.data();
    arguments.names = names.ptr();
  }
  PyObject* result = nullptr;
  if (dispatcher.call_resting(arguments, result)) return result;
  return dispatcher.call(arguments, variant.ptr());
}

// An object that a method of Python's returns; throws the error that is set.
nb::object checked(PyObject* result) {
  if (result == nullptr) throw nb::python_error();
  return nb::steal(result);
}

}  // namespace

bool is_dispatcher(PyObject* object) noexcept {
  static const PyTypeObject* const type = reinterpret_cast<PyTypeObject*>(nb::type<Dispatcher>().ptr());
  return Py_TYPE(object) == type && nb::inst_ready(object);
}

PyObject* dispatch(PyObject* dispatcher, const Arguments& arguments, PyObject* variant) noexcept {
  return nb::inst_ptr<Dispatcher>(dispatcher)->call(arguments, variant);
}

bool dispatch_resting(PyObject* dispatcher, const Arguments& arguments, PyObject*& result) noexcept {
  return nb::inst_ptr<Dispatcher>(dispatcher)->call_resting(arguments, result);
}

void bind_dispatcher(nb::module_& module) {
  module.def("next_use", &next_use);
  module.def(
      "covers",
      [](std::vector<int64_t> lowest, std::vector<int64_t> highest, double room, std::vector<int64_t> sizes) {
        const c10::SmallVector<int64_t, 8> numbers(sizes.begin(), sizes.end());
        return Bounds{std::move(lowest), std::move(highest), room}.cover(numbers);
      },
      "lowest"_a, "highest"_a, "room"_a, "sizes"_a);
  module.def("unplanned_calls", [] { return process_counts().as_dict(); });

  nb::class_<Call>(module, "Call", nb::type_slots(call_slots))
      .def_prop_ro("args", [](const Call& call) { return object_or_none(call.args); })
      .def_prop_ro("kwargs", [](const Call& call) { return object_or_none(call.kwargs); })
      .def_prop_ro("variant", [](const Call& call) { return object_or_none(call.variant); })
      .def_prop_ro("kind", &Call::kind)
      // None where the call is too unusual to be looked up.
      .def_prop_ro("numbers", [](const Call& call) -> nb::object {
        if (call.description == nullptr) return nb::none();
        nb::list numbers;
        for (const int64_t number : call.description->numbers()) numbers.append(number);
        return nb::object(std::move(numbers));
      });

  nb::class_<Dispatcher>(module, "Dispatcher", nb::type_slots(dispatcher_slots), nb::is_weak_referenceable())
      .def(nb::init<nb::object, nb::object, nb::object, nb::object, const std::string&, nb::object,
                    nb::object, nb::object, nb::object, nb::object, nb::object>(),
           "function"_a, "module"_a.none(), "kind"_a.none(), "owner"_a, "shapes"_a, "unusual"_a,
           "is_of_the_program"_a, "report_fault"_a, "switch"_a, "compiler_globals"_a,
           "set_eval_frame"_a.none())
      .def(
          "call",
          [](Dispatcher& dispatcher, nb::tuple args, nb::dict kwargs, nb::object variant) {
            return checked(call_by_python(dispatcher, args, kwargs, variant));
          },
          "args"_a, "kwargs"_a, "variant"_a.none())
      .def("arm", &Dispatcher::arm, "call"_a, "group"_a, "plan"_a, "wait_s"_a, "is_family"_a, "lowest"_a,
           "highest"_a, "room"_a, "wants_attention"_a)
      .def("pass_on", &Dispatcher::pass, "call"_a, "group"_a, "reason"_a, "is_family"_a)
      .def("disarm", &Dispatcher::disarm, "group"_a)
      .def("clear", &Dispatcher::clear)
      .def(
          "replay",
          [](Dispatcher& dispatcher, Call& call, nb::object group) {
            return checked(dispatcher.replay(call, group));
          },
          "call"_a, "group"_a)
      .def("last_use", &Dispatcher::last_use, "group"_a)
      .def("take_num_as_planned", &Dispatcher::take_num_as_planned, "group"_a)
      .def("unplanned", &Dispatcher::unplanned)
      // Copies and pickles of what holds a dispatcher are without it.
      .def("__reduce_ex__",
           [](const Dispatcher&, nb::object) {
             return nb::make_tuple(nb::borrow(reinterpret_cast<PyObject*>(Py_TYPE(Py_None))),
                                   nb::make_tuple());
           })
      .def_prop_ro("owner", &Dispatcher::owner)
      .def_prop_ro("num_armed", &Dispatcher::num_armed)
      .def_prop_ro("remembered_bytes", &Dispatcher::remembered_bytes);
}

}  // namespace memomalloc
