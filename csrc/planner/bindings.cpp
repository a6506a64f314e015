// memomalloc._planner: flat int64 arrays in, arrays and numbers out. The GIL is released while anything is
// computed.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <exception>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "planner/checker.hpp"
#include "planner/device_checker.hpp"
#include "planner/device_plan.hpp"
#include "planner/plan.hpp"
#include "planner/prepare.hpp"
#include "python/gil.hpp"

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
    const WithGil with;
    if (PyErr_CheckSignals() != 0) {
      nb::python_error error;
      // Ctrl-C ends the search, not the program: the best plan so far is the answer.
      interrupted_ = error.matches(PyExc_KeyboardInterrupt);
      if (!interrupted_) error_ = std::make_exception_ptr(error);
      return false;
    }
    if (progress_.is_none()) return true;
    try {
      return asking_python([&] { return nb::cast<bool>(progress_(best_arena)); });
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
                      const std::optional<Array>& warm_start, nb::object progress) {
  const Problem problem = to_problem(sizes, starts, ends, alignments, pins);
  PythonPoll poll(std::move(progress));
  Request request;
  request.planner = planner;
  request.capacity = capacity.value_or(kNoCapacity);
  request.time_limit_s = time_limit_s;
  request.seed = seed;
  if (warm_start) {
    require_equal_lengths(sizes, {&*warm_start});
    request.warm_start = to_vector(*warm_start);
  }
  request.poll = std::ref(poll);
  Result result;
  {
    const WithoutGil without;
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
  const WithoutGil without;
  return lower_bound_in_bytes(problem);
}

std::pair<int64_t, int64_t> find_overlap_arrays(const Array& sizes, const Array& starts, const Array& ends,
                                                const Array& offsets) {
  require_equal_lengths(sizes, {&starts, &ends, &offsets});
  const WithoutGil without;
  return checker::find_overlap(sizes.size(), sizes.data(), starts.data(), ends.data(), offsets.data());
}

int64_t peak_live_bytes_arrays(const Array& sizes, const Array& starts, const Array& ends) {
  require_equal_lengths(sizes, {&starts, &ends});
  const WithoutGil without;
  return checker::peak_live_bytes(sizes.size(), sizes.data(), starts.data(), ends.data());
}

// The columns of a problem for a device, which the caller has validated. The arrays are kept alive.
class DeviceColumns {
 public:
  DeviceColumns(Array capacities, Array banks, Array chunks, Array sizes, Array alignments, Array costs,
                Array groups, Array sub_offsets, Array pin_memories, Array pin_chunks, Array pin_offsets,
                Array lifetime_buffers, Array lifetime_starts, Array lifetime_ends, Array lifetime_lowers,
                Array lifetime_uppers, Array disjoint, Array different_banks)
      : arrays_{
            capacities,      banks,         chunks,          sizes,           alignments,  costs,
            groups,          sub_offsets,   pin_memories,    pin_chunks,      pin_offsets, lifetime_buffers,
            lifetime_starts, lifetime_ends, lifetime_lowers, lifetime_uppers, disjoint,    different_banks} {
    require_equal_lengths(capacities, {&banks, &chunks});
    require_equal_lengths(sizes,
                          {&alignments, &groups, &sub_offsets, &pin_memories, &pin_chunks, &pin_offsets});
    require_equal_lengths(lifetime_buffers,
                          {&lifetime_starts, &lifetime_ends, &lifetime_lowers, &lifetime_uppers});
    if (costs.size() != sizes.size() * capacities.size() || disjoint.size() % 2 != 0 ||
        different_banks.size() % 2 != 0) {
      throw std::invalid_argument("costs need one for each buffer and memory, pairs two numbers");
    }
    view_ = {capacities.size(),
             capacities.data(),
             banks.data(),
             chunks.data(),
             sizes.size(),
             sizes.data(),
             alignments.data(),
             costs.data(),
             groups.data(),
             sub_offsets.data(),
             pin_memories.data(),
             pin_chunks.data(),
             pin_offsets.data(),
             lifetime_buffers.size(),
             lifetime_buffers.data(),
             lifetime_starts.data(),
             lifetime_ends.data(),
             lifetime_lowers.data(),
             lifetime_uppers.data(),
             disjoint.size() / 2,
             disjoint.data(),
             different_banks.size() / 2,
             different_banks.data()};
  }

  const checker::DeviceView& view() const { return view_; }

 private:
  std::vector<Array> arrays_;
  checker::DeviceView view_{};
};

std::vector<Place> to_places(const Array& memories, const Array& chunks, const Array& offsets) {
  require_equal_lengths(memories, {&chunks, &offsets});
  std::vector<Place> places(memories.size());
  for (size_t i = 0; i < places.size(); ++i)
    places[i] = {memories.data()[i], chunks.data()[i], offsets.data()[i]};
  return places;
}

nb::tuple plan_device_columns(const DeviceColumns& columns, double time_limit_s, uint64_t seed,
                              const std::optional<std::tuple<Array, Array, Array>>& warm_start,
                              nb::object progress) {
  PythonPoll poll(std::move(progress));
  DeviceRequest request;
  request.time_limit_s = time_limit_s;
  request.seed = seed;
  if (warm_start) {
    const auto& [memories, chunks, offsets] = *warm_start;
    request.warm_start = to_places(memories, chunks, offsets);
    if (request.warm_start.size() != columns.view().num_buffers) {
      throw std::invalid_argument("the arrays must have equal lengths");
    }
  }
  request.poll = std::ref(poll);
  DeviceResult result;
  {
    const WithoutGil without;
    result = plan_device(device_problem_of(columns.view()), request);
  }
  poll.rethrow();
  nb::object places = nb::none();
  if (result.places.size() == columns.view().num_buffers && !result.proven_infeasible) {
    std::vector<int64_t> memories;
    std::vector<int64_t> chunks;
    std::vector<int64_t> offsets;
    for (const Place& place : result.places) {
      memories.push_back(place.memory);
      chunks.push_back(place.chunk);
      offsets.push_back(place.offset);
    }
    places = nb::make_tuple(to_numpy(std::move(memories)), to_numpy(std::move(chunks)),
                            to_numpy(std::move(offsets)));
  }
  return nb::make_tuple(places, result.cost, result.cost_lower_bound, to_numpy(std::move(result.bytes)),
                        result.proven_cheapest, result.proven_optimal, result.proven_infeasible,
                        poll.interrupted());
}

std::tuple<int64_t, int64_t, int64_t> find_device_fault_columns(const DeviceColumns& columns,
                                                                const Array& memories, const Array& chunks,
                                                                const Array& offsets) {
  require_equal_lengths(memories, {&chunks, &offsets});
  if (memories.size() != columns.view().num_buffers)
    throw std::invalid_argument("there must be a place for each buffer");
  const WithoutGil without;
  const checker::DeviceFinding found =
      checker::find_device_fault(columns.view(), memories.data(), chunks.data(), offsets.data());
  return {static_cast<int64_t>(found.fault), found.buffer, found.other_buffer};
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
             nb::arg("time_limit_s"), nb::arg("seed"), nb::arg("warm_start").none(),
             nb::arg("progress").none());
  module.def("lower_bound", &lower_bound_arrays, nb::arg("sizes"), nb::arg("starts"), nb::arg("ends"),
             nb::arg("alignments").none(), nb::arg("pins").none());
  module.def("find_overlap", &find_overlap_arrays, nb::arg("sizes"), nb::arg("starts"), nb::arg("ends"),
             nb::arg("offsets"));
  module.def("peak_live_bytes", &peak_live_bytes_arrays, nb::arg("sizes"), nb::arg("starts"),
             nb::arg("ends"));
  nb::class_<DeviceColumns>(module, "DeviceColumns")
      .def(nb::init<Array, Array, Array, Array, Array, Array, Array, Array, Array, Array, Array, Array, Array,
                    Array, Array, Array, Array, Array>(),
           nb::kw_only(), nb::arg("capacities"), nb::arg("banks"), nb::arg("chunks"), nb::arg("sizes"),
           nb::arg("alignments"), nb::arg("costs"), nb::arg("groups"), nb::arg("sub_offsets"),
           nb::arg("pin_memories"), nb::arg("pin_chunks"), nb::arg("pin_offsets"),
           nb::arg("lifetime_buffers"), nb::arg("lifetime_starts"), nb::arg("lifetime_ends"),
           nb::arg("lifetime_lowers"), nb::arg("lifetime_uppers"), nb::arg("disjoint"),
           nb::arg("different_banks"));
  module.def("plan_device", &plan_device_columns, nb::arg("columns"), nb::arg("time_limit_s"),
             nb::arg("seed"), nb::arg("warm_start").none(), nb::arg("progress").none());
  module.def("find_device_fault", &find_device_fault_columns, nb::arg("columns"), nb::arg("memories"),
             nb::arg("chunks"), nb::arg("offsets"));
}
