// memomalloc._planner: flat int64 arrays in, arrays and numbers out. The GIL is released while anything is
// computed.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "planner/checker.hpp"
#include "planner/plan.hpp"
#include "planner/prepare.hpp"

namespace nb = nanobind;

namespace memomalloc::planner {
namespace {

using Array = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::vector<int64_t> to_vector(const Array& array) { return {array.data(), array.data() + array.size()}; }

nb::ndarray<nb::numpy, int64_t, nb::ndim<1>> to_numpy(std::vector<int64_t> values) {
  auto* owned = new std::vector<int64_t>(std::move(values));
  nb::capsule owner(owned, [](void* data) noexcept { delete static_cast<std::vector<int64_t>*>(data); });
  return {owned->data(), {owned->size()}, owner};
}

void require_equal_lengths(const Array& first, std::initializer_list<const Array*> others) {
  for (const Array* other : others) {
    if (other->size() != first.size()) throw std::invalid_argument("the arrays must have equal lengths");
  }
}

// Runs in the planner's thread without the GIL, about 20 times a second.
class PythonPoll {
 public:
  explicit PythonPoll(nb::object progress) : progress_(std::move(progress)) {}

  bool operator()(int64_t best_arena) {
    nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) {
      nb::python_error error;
      // Ctrl-C ends the search, not the program: the best plan so far is the answer.
      interrupted_ = error.matches(PyExc_KeyboardInterrupt);
      if (!interrupted_) error_ = std::make_exception_ptr(error);
      return false;
    }
    if (progress_.is_none()) return true;
    try {
      return nb::cast<bool>(progress_(best_arena));
    } catch (...) {
      error_ = std::current_exception();
      return false;
    }
  }

  bool interrupted() const { return interrupted_; }
  void rethrow() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  nb::object progress_;
  std::exception_ptr error_;
  bool interrupted_ = false;
};

Problem to_problem(const Array& sizes, const Array& starts, const Array& ends,
                   const std::optional<Array>& alignments, const std::optional<Array>& pins) {
  require_equal_lengths(sizes, {&starts, &ends});
  Problem problem{to_vector(sizes), to_vector(starts), to_vector(ends), {}, {}};
  if (alignments) {
    require_equal_lengths(sizes, {&*alignments});
    problem.alignments = to_vector(*alignments);
  }
  if (pins) {
    require_equal_lengths(sizes, {&*pins});
    problem.pins = to_vector(*pins);
  }
  return problem;
}

nb::tuple plan_arrays(const std::string& planner, const Array& sizes, const Array& starts, const Array& ends,
                      const std::optional<Array>& alignments, const std::optional<Array>& pins,
                      std::optional<int64_t> capacity, double time_limit_s, uint64_t seed,
                      nb::object progress) {
  const Problem problem = to_problem(sizes, starts, ends, alignments, pins);
  PythonPoll poll(std::move(progress));
  Request request;
  request.planner = planner;
  request.capacity = capacity.value_or(kNoCapacity);
  request.time_limit_s = time_limit_s;
  request.seed = seed;
  request.poll = std::ref(poll);
  Result result;
  {
    nb::gil_scoped_release no_gil;
    result = plan(problem, request);
  }
  poll.rethrow();
  nb::object offsets = nb::none();
  if (result.offsets.size() == problem.sizes.size()) offsets = nb::cast(to_numpy(std::move(result.offsets)));
  return nb::make_tuple(offsets, result.arena, result.planner, result.proven_optimal,
                        result.proven_infeasible, poll.interrupted());
}

int64_t lower_bound_arrays(const Array& sizes, const Array& starts, const Array& ends,
                           const std::optional<Array>& alignments, const std::optional<Array>& pins) {
  const Problem problem = to_problem(sizes, starts, ends, alignments, pins);
  nb::gil_scoped_release no_gil;
  return lower_bound_in_bytes(problem);
}

std::pair<int64_t, int64_t> find_overlap_arrays(const Array& sizes, const Array& starts, const Array& ends,
                                                const Array& offsets) {
  require_equal_lengths(sizes, {&starts, &ends, &offsets});
  nb::gil_scoped_release no_gil;
  return checker::find_overlap(sizes.size(), sizes.data(), starts.data(), ends.data(), offsets.data());
}

int64_t peak_live_bytes_arrays(const Array& sizes, const Array& starts, const Array& ends) {
  require_equal_lengths(sizes, {&starts, &ends});
  nb::gil_scoped_release no_gil;
  return checker::peak_live_bytes(sizes.size(), sizes.data(), starts.data(), ends.data());
}

}  // namespace
}  // namespace memomalloc::planner

NB_MODULE(_planner, module) {
  using namespace memomalloc::planner;
  module.doc() =
      "The planners and the checker. Callers validate; see memomalloc.data and memomalloc.planners.";
  module.def("planner_names", &planner_names);
  module.def("plan", &plan_arrays, nb::arg("planner"), nb::arg("sizes"), nb::arg("starts"), nb::arg("ends"),
             nb::arg("alignments").none(), nb::arg("pins").none(), nb::arg("capacity").none(),
             nb::arg("time_limit_s"), nb::arg("seed"), nb::arg("progress").none());
  module.def("lower_bound", &lower_bound_arrays, nb::arg("sizes"), nb::arg("starts"), nb::arg("ends"),
             nb::arg("alignments").none(), nb::arg("pins").none());
  module.def("find_overlap", &find_overlap_arrays, nb::arg("sizes"), nb::arg("starts"), nb::arg("ends"),
             nb::arg("offsets"));
  module.def("peak_live_bytes", &peak_live_bytes_arrays, nb::arg("sizes"), nb::arg("starts"),
             nb::arg("ends"));
}
