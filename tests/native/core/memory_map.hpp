#pragma once

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace memomalloc::testing {

// What /proc/self/maps says of an address: "rw-p", "---p" and the like; empty where nothing is mapped.
inline std::string protection_of(const void* address) {
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream fields(line);
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char dash = 0;
    std::string protection;
    fields >> std::hex >> begin >> dash >> end >> protection;
    if (begin <= wanted && wanted < end) return protection;
  }
  return "";
}

inline bool is_mapped(const void* address) { return protection_of(address) == "rw-p"; }

}  // namespace memomalloc::testing
