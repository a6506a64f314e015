// memomalloc._snapshot: the bytes of a pickle in, columns out. The GIL is released while anything is read.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>

#include "python/gil.hpp"
#include "snapshot/pickle_reader.hpp"

namespace nb = nanobind;

namespace memomalloc::snapshot {
namespace {

template <typename T>
nb::object to_numpy(Column<T>& column) {
  const size_t size = column.size();
  auto owned = std::make_unique<T[]>(size);
  column.move_to(owned.get());
  nb::capsule owner(owned.get(), [](void* data) noexcept { delete[] static_cast<T*>(data); });
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(owned.release(), {size}, owner));
}

void feed(PickleReader& reader, const nb::bytes& piece) {
  const auto* data = static_cast<const uint8_t*>(piece.data());
  const size_t size = piece.size();
  const WithoutGil without;
  reader.feed(data, size);
}

nb::list bytes_of(const std::deque<std::string>& texts) {
  nb::list found;
  for (const std::string& text : texts) found.append(nb::bytes(text.data(), text.size()));
  return found;
}

// Everything that was read, as one dict of columns; the reader is empty afterwards.
nb::dict take(PickleReader& reader) {
  {
    const WithoutGil without;
    reader.finish();
  }
  nb::dict taken;
  const auto put = [&](const char* name, auto& column) { taken[name] = to_numpy(column); };
  put("event_action", reader.events.action);
  put("event_trace", reader.events.trace);
  put("event_address", reader.events.address);
  put("event_size", reader.events.size);
  put("event_stream", reader.events.stream);
  put("event_time", reader.events.time);
  put("event_stack", reader.events.stack);
  put("event_pool", reader.events.pool);
  put("event_metadata", reader.events.metadata);
  put("segment_list", reader.segments.list);
  put("segment_device", reader.segments.device);
  put("segment_address", reader.segments.address);
  put("segment_size", reader.segments.size);
  put("segment_stream", reader.segments.stream);
  put("segment_pool", reader.segments.pool);
  put("segment_type", reader.segments.type);
  put("segment_stack", reader.segments.stack);
  put("segment_is_expandable", reader.segments.is_expandable);
  put("block_segment", reader.blocks.segment);
  put("block_state", reader.blocks.state);
  put("block_stack", reader.blocks.stack);
  put("block_address", reader.blocks.address);
  put("block_size", reader.blocks.size);
  put("block_requested", reader.blocks.requested);
  put("frame_file", reader.frames.file);
  put("frame_function", reader.frames.function);
  put("frame_node", reader.frames.node);
  put("frame_line", reader.frames.line);
  put("annotation_device", reader.annotations.device);
  put("annotation_time", reader.annotations.time);
  put("annotation_name", reader.annotations.name);
  put("annotation_stage", reader.annotations.stage);
  put("stack_ends", reader.stack_ends);
  put("stack_frames", reader.stack_frames);
  taken["pools"] = nb::cast(reader.pools);
  taken["texts"] = bytes_of(reader.texts);
  taken["num_device_traces"] = reader.num_device_traces;
  taken["num_host_traces"] = reader.num_host_traces;
  nb::list settings;
  for (const auto& [name, value] : reader.settings) {
    settings.append(
        nb::make_tuple(nb::bytes(name.data(), name.size()), nb::bytes(value.data(), value.size())));
  }
  taken["settings"] = settings;
  nb::list unknown;
  for (const std::string& key : reader.unknown_keys) unknown.append(nb::bytes(key.data(), key.size()));
  taken["unknown_keys"] = unknown;
  return taken;
}

}  // namespace
}  // namespace memomalloc::snapshot

NB_MODULE(_snapshot, module) {
  using namespace memomalloc::snapshot;
  module.doc() =
      "Reads pickled snapshots of caching allocators, and builds nothing else. See "
      "memomalloc.data.snapshot_file.";
  nb::exception<Refused>(module, "RefusedError", PyExc_ValueError);
  nb::class_<PickleReader>(module, "PickleReader")
      .def(nb::init<size_t>(), nb::arg("max_bytes"))
      .def("feed", &feed, nb::arg("piece"))
      .def("take", &take);
}
