#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/allocated_bytes.hpp"
#include "core/armed_plan.hpp"
#include "core/front.hpp"
#include "core/observers.hpp"
#include "core/process_memory.hpp"
#include "core/recording.hpp"
#include "core/run_budget.hpp"
#include "core/thread_state.hpp"
#include "core/upstream_memory.hpp"
#include "python/gil.hpp"
#include "torch/allocator.hpp"
#include "torch/asker.hpp"
#include "torch/dispatcher.hpp"
#include "torch/origin_capture.hpp"
#include "torch/planned_call.hpp"
#include "torch/run.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace memomalloc {
namespace {

template <typename T>
using Column = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A numpy array that owns what it shows.
template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> to_numpy(std::vector<T> values) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* data) noexcept { delete static_cast<std::vector<T>*>(data); });
  return {owned->data(), {owned->size()}, owner};
}

// What Python holds of an object that the core shares. The core gets a copy of the pointer: a shared_ptr that
// nanobind makes of a Python object takes the GIL where its last copy dies, and that may be in a deleter,
// under the registry lock.
template <typename T>
struct Handle {
  std::shared_ptr<T> shared;
};

Handle<const Layout> compile_layout(Column<int64_t> offsets, Column<int64_t> sizes,
                                    Column<int64_t> smallest_sizes, Column<bool> escapes,
                                    Column<uint32_t> askers, uint64_t arena_bytes) {
  const std::size_t n = offsets.shape(0);
  if (sizes.shape(0) != n || smallest_sizes.shape(0) != n || escapes.shape(0) != n) {
    throw std::invalid_argument("offsets, sizes, smallest_sizes and escapes differ in length");
  }
  const bool match_askers = askers.shape(0) != 0;
  if (match_askers && askers.shape(0) != n) throw std::invalid_argument("askers and sizes differ in length");
  std::vector<PlannedBuffer> buffers(n);
  for (std::size_t i = 0; i < n; ++i) {
    // A negative number becomes a huge one, which the layout refuses.
    buffers[i] = {static_cast<uint64_t>(offsets(i)), static_cast<uint64_t>(sizes(i)),
                  static_cast<uint64_t>(smallest_sizes(i)), escapes(i), match_askers ? askers(i) : 0};
  }
  const WithoutGil without;
  return {std::make_shared<const Layout>(buffers, arena_bytes, match_askers)};
}

// A lock that nobody waits for. Python's own is taken by a call and given back by another, and a signal
// handler may raise between that and the `try`; a `with` of a native object is entered and left in one
// instruction.
class TryLock {
 public:
  class Attempt {
   public:
    explicit Attempt(std::shared_ptr<bool> is_taken) : is_taken_(std::move(is_taken)) {}
    ~Attempt() { exit(); }
    Attempt(Attempt&& other) noexcept
        : is_taken_(std::move(other.is_taken_)), is_mine_(std::exchange(other.is_mine_, false)) {}
    Attempt(const Attempt&) = delete;
    Attempt& operator=(const Attempt&) = delete;
    Attempt& operator=(Attempt&&) = delete;

    // Both are called with the GIL held.
    bool enter() noexcept {
      is_mine_ = !std::exchange(*is_taken_, true);
      return is_mine_;
    }
    void exit() noexcept {
      if (std::exchange(is_mine_, false)) *is_taken_ = false;
    }

   private:
    std::shared_ptr<bool> is_taken_;
    bool is_mine_ = false;
  };

  Attempt attempt() const { return Attempt(is_taken_); }

 private:
  std::shared_ptr<bool> is_taken_ = std::make_shared<bool>(false);
};

// In the order of Deviation.
constexpr const char* kDeviationNames[kNumDeviations] = {"size", "extra", "occupied", "blocked"};

nb::dict as_dict(const RunCounts& counts) {
  nb::dict upstream;
  for (std::size_t why = 0; why < kNumDeviations; ++why)
    upstream[kDeviationNames[why]] = counts.upstream[why];
  nb::dict result;
  result["served"] = counts.served;
  result["missing"] = counts.missing;
  result["upstream"] = upstream;
  result["upstream_bytes"] = counts.upstream_bytes;
  return result;
}

// A recording that knows who asked.
struct RecordingWithOrigins {
  std::shared_ptr<OriginCapture> origins;
  std::shared_ptr<Recording> events;

  static RecordingWithOrigins open(nb::object module_call_code, nb::object boundary_code,
                                   std::vector<std::string> library_folders, bool follows_calls,
                                   std::shared_ptr<Clock> clock) {
    const auto origins = OriginCapture::of_this_thread(
        {hold(module_call_code.ptr()), hold(boundary_code.ptr()), std::move(library_folders)}, follows_calls);
    try {
      return {origins, Recording::open(origins, std::move(clock))};
    } catch (...) {
      origins->recording_closed();
      throw;
    }
  }

  RecordingWithOrigins(std::shared_ptr<OriginCapture> capture, std::shared_ptr<Recording> recording)
      : origins(std::move(capture)), events(std::move(recording)) {}
  // As a run: a recording that nobody holds any more is over.
  ~RecordingWithOrigins() {
    if (events != nullptr) events->close();
  }
  RecordingWithOrigins(RecordingWithOrigins&&) noexcept = default;
  RecordingWithOrigins(const RecordingWithOrigins&) = delete;
  RecordingWithOrigins& operator=(const RecordingWithOrigins&) = delete;
  RecordingWithOrigins& operator=(RecordingWithOrigins&&) = delete;

  nb::dict buffers() const {
    RecordedBuffers seen = events->buffers();
    nb::dict result;
    result["sizes"] = to_numpy(std::move(seen.sizes));
    result["starts"] = to_numpy(std::move(seen.starts));
    result["ends"] = to_numpy(std::move(seen.ends));
    result["contexts"] = to_numpy(std::move(seen.contexts));
    result["freed_in_call"] = to_numpy(std::move(seen.freed_in_call));
    result["num_ticks"] = seen.num_ticks;
    result["num_elsewhere"] = seen.num_elsewhere;
    result["bytes_elsewhere"] = seen.bytes_elsewhere;
    return result;
  }

  // None if nobody followed them, or something read buffers unseen.
  nb::object calls() const {
    if (!origins->follows_calls()) return nb::none();
    RecordedCalls seen = events->calls();
    if (seen.is_incomplete) return nb::none();
    nb::dict result;
    result["begins"] = to_numpy(std::move(seen.begins));
    result["ends"] = to_numpy(std::move(seen.ends));
    result["contexts"] = to_numpy(std::move(seen.contexts));
    result["frames"] = to_numpy(std::move(seen.frames));
    result["tracked"] = to_numpy(std::move(seen.tracked));
    result["reading_calls"] = to_numpy(std::move(seen.reading_calls));
    result["read_buffers"] = to_numpy(std::move(seen.read_buffers));
    result["outside_calls"] = to_numpy(std::move(seen.outside_calls));
    result["outside_bytes"] = to_numpy(std::move(seen.outside_bytes));
    return result;
  }

  // A tuple for each context: operators, modules, TorchScript's module path, file, line, function.
  nb::list contexts() const {
    nb::list result;
    for (const OriginCapture::Described& described : origins->contexts()) {
      nb::list modules;
      for (const PythonObject& module : described.modules) modules.append(nb::borrow(module.get()));
      result.append(nb::make_tuple(nb::tuple(nb::cast(described.operators)), nb::tuple(modules),
                                   described.script_modules, described.file, described.line,
                                   described.function));
    }
    return result;
  }
};

}  // namespace

NB_MODULE(_runtime, module) {
  nb::set_leak_warnings(false);  // wrappers that live until the process ends are no leak
  module.doc() =
      "The allocator under torch: recordings, and plans that are replayed on regions of the process.";

  module.def("install", &install_torch_allocator);
  module.def("reserved_bytes", [] { return g_range.reserved_bytes(); });
  module.def(
      "is_reserved",
      [](uintptr_t address) { return g_range.contains(reinterpret_cast<const void*>(address)); },
      "address"_a);
  module.def("num_bad_frees", [] { return g_num_bad_frees.load(std::memory_order_relaxed); });
  module.def("upstream_name", [] { return std::string(upstream_name()); });
  module.def("release_upstream_memory", &release_upstream_memory, nb::call_guard<WithoutGil>());
  module.def("is_running", &is_running_on_this_thread);
  module.def("num_requests_upstream", [] { return t_state.num_upstream; });  // of this thread
  module.def("is_recording", &Recording::is_open_on_this_thread);

  module.def("asker_of", &asker_of, "operators"_a);

  module.def("set_memory_limit", &set_memory_limit, "limit_bytes"_a, nb::call_guard<WithoutGil>());
  module.def(
      "set_release_after",
      [](double idle_for_s) {
        set_release_after(std::chrono::nanoseconds(static_cast<int64_t>(idle_for_s * 1e9)));
      },
      "idle_for_s"_a, nb::call_guard<WithoutGil>());
  module.def(
      "release_pages",
      [](double idle_for_s) {
        return release_pages(std::chrono::nanoseconds(static_cast<int64_t>(idle_for_s * 1e9)));
      },
      "idle_for_s"_a = 0.0, nb::call_guard<WithoutGil>());
  module.def("release_home", &release_home, nb::call_guard<WithoutGil>());
  module.def("memory_use", [] {
    const MemoryUse use = memory_use();
    nb::dict result;
    result["limit_bytes"] = use.limit_bytes;
    result["used_bytes"] = use.used_bytes;
    result["peak_bytes"] = use.peak_bytes;
    result["num_evicted"] = use.num_evicted;
    result["num_over_limit"] = use.num_over_limit;
    result["num_releases"] = use.num_releases;
    result["released_bytes"] = use.released_bytes;
    return result;
  });
  module.def("reset_peak_allocated_bytes", &reset_peak_allocated_bytes);
  // What lives and the peak; None where nothing is counted.
  module.def("allocated_bytes", []() -> std::optional<std::pair<uint64_t, uint64_t>> {
    if (!g_observers.is_counting()) return std::nullopt;
    const AllocatedBytes::Counts counts = g_allocated_bytes.counts();
    return std::pair{counts.live, counts.peak};
  });
  module.def("regions", [] {
    nb::list result;
    for (const RegionUse& use : regions_in_use()) {
      nb::dict region;
      region["id"] = use.id;
      region["is_running"] = use.is_running;
      region["charged_bytes"] = use.charged_bytes;
      region["num_kept"] = use.num_kept;
      region["kept_bytes"] = use.kept_bytes;
      region["num_outputs"] = use.num_outputs;
      region["output_bytes"] = use.output_bytes;
      region["output_charged_bytes"] = use.output_charged_bytes;
      region["plan"] = use.plan;
      result.append(region);
    }
    return result;
  });

  nb::class_<Run>(module, "Run")
      .def_prop_ro("started", &Run::started)
      .def_prop_ro("outcome", &Run::outcome)
      // How many requests of the run went upstream, how many slots no request came for, how many of those
      // requests only met what an earlier run, or an earlier refusal, left behind, and how many were outputs
      // for which there was no memory. Zeroes where this call did not end the run.
      .def("end", [](Run& run) {
        const RunCounts counts = run.end();
        return nb::make_tuple(counts.num_upstream(), counts.missing,
                              counts.upstream[static_cast<std::size_t>(Deviation::kBlocked)], counts.kept);
      });

  nb::class_<TryLock::Attempt>(module, "Attempt")
      .def("__enter__", &TryLock::Attempt::enter)
      .def("__exit__", [](TryLock::Attempt& attempt, const nb::args&) { attempt.exit(); });
  nb::class_<TryLock>(module, "TryLock").def(nb::init<>()).def("attempt", &TryLock::attempt);

  nb::class_<Handle<const Layout>>(module, "Layout")
      .def_static("compile", &compile_layout, "offsets"_a, "sizes"_a, "smallest_sizes"_a, "escapes"_a,
                  "askers"_a, "arena_bytes"_a)
      .def_prop_ro("num_slots", [](const Handle<const Layout>& layout) { return layout.shared->num_slots(); })
      .def_prop_ro("output_bytes",
                   [](const Handle<const Layout>& layout) { return layout.shared->output_bytes(); });

  nb::class_<Handle<RunBudget>>(module, "RunBudget")
      .def(
          "__init__",
          [](Handle<RunBudget>* budget, uint64_t limit_bytes) {
            new (budget) Handle<RunBudget>{std::make_shared<RunBudget>(limit_bytes)};
          },
          "limit_bytes"_a)
      .def_prop_ro("used_bytes", [](const Handle<RunBudget>& budget) { return budget.shared->used_bytes(); });

  nb::class_<PlanOwner>(module, "ArmedPlan")
      .def(
          "__init__",
          [](PlanOwner* owner, const Handle<const Layout>& layout, std::optional<uint32_t> max_runs,
             const Handle<RunBudget>* budget, bool poison, bool prefault, bool huge_pages, bool gives_way) {
            const ReplayOptions options{poison, prefault, huge_pages, max_runs.value_or(UINT32_MAX),
                                        gives_way};
            new (owner) PlanOwner(
                ArmedPlan::make(layout.shared, options, budget != nullptr ? budget->shared : nullptr));
          },
          "layout"_a, "max_runs"_a.none() = nb::none(), "budget"_a.none() = nb::none(), "poison"_a = false,
          "prefault"_a = false, "huge_pages"_a = false, "gives_way"_a = false)
      .def(
          "begin", [](const PlanOwner& owner, double wait_s) { return begin_run(*owner.plan, wait_s); },
          "wait_s"_a = 0.0)
      .def_prop_ro("number", [](const PlanOwner& owner) { return owner.plan->number(); })
      // A tuple for each of the first deviating requests: slot, reason, bytes, whether the slot's own asker
      // asked.
      .def("last_deviating_requests",
           [](const PlanOwner& owner) {
             const DeviatingRequests deviating = owner.plan->last_deviating_requests();
             nb::list result;
             for (uint32_t i = 0; i < deviating.count; ++i) {
               const DeviatingRequest& request = deviating.first[i];
               result.append(nb::make_tuple(request.slot,
                                            kDeviationNames[static_cast<std::size_t>(request.why)],
                                            request.bytes, request.by_its_asker));
             }
             return result;
           })
      .def("counts", [](const PlanOwner& owner) {
        const PlanCounts counts = owner.plan->counts();
        nb::dict result = as_dict(counts.counts);
        result["num_runs"] = counts.num_runs;
        result["num_kept_regions"] = counts.num_kept_regions;
        return result;
      });
  nb::class_<Clock>(module, "Clock").def(nb::init<>());
  nb::class_<RecordingWithOrigins>(module, "Recording")
      .def_static("open", &RecordingWithOrigins::open, "module_call_code"_a, "boundary_code"_a,
                  "library_folders"_a, "follows_calls"_a = false, "clock"_a = nb::none())
      .def("close", [](RecordingWithOrigins& recording) { recording.events->close(); })
      .def_prop_ro("is_closed",
                   [](const RecordingWithOrigins& recording) { return recording.events->is_closed(); })
      .def_prop_ro("has_thread",
                   [](const RecordingWithOrigins& recording) { return recording.events->has_thread(); })
      .def_prop_ro(
          "resident_growth_bytes",
          [](const RecordingWithOrigins& recording) { return recording.events->resident_growth_bytes(); })
      .def("buffers", &RecordingWithOrigins::buffers)
      .def("calls", &RecordingWithOrigins::calls)
      .def("contexts", &RecordingWithOrigins::contexts);

  bind_dispatcher(module);
  bind_planned_call(module);
}

}  // namespace memomalloc
