#pragma once

#include <atomic>
#include <cstddef>

// allocate() and release() as the compiler makes them for a caller, under names that a disassembler finds.
extern "C" void* memomalloc_probe_allocate(std::size_t bytes);
extern "C" void memomalloc_probe_release(void* block);

// What the two above must not do.
extern "C" void memomalloc_probe_fetch_add(std::atomic<int>& counter);
