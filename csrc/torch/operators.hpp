#pragma once

#include <ATen/record_function.h>

#include <algorithm>
#include <iterator>
#include <string_view>
#include <unordered_set>

// Which of the things that torch calls "functions" are operators that ask for memory. Origins and
// askers must agree on it.
namespace memomalloc {

// Not the methods of TorchScript: its module path says what they are.
inline std::unordered_set<at::RecordScope, std::hash<at::RecordScope>> operator_scopes() {
  return {at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION,
          at::RecordScope::KERNEL_FUNCTION_DTYPE};
}

// What torch calls the whole of a compiled graph is no operator of the program.
inline bool is_of_the_program(std::string_view name) {
  constexpr std::string_view kCompiledRegion = "Torch-Compiled Region";
  return name.substr(0, kCompiledRegion.size()) != kCompiledRegion;
}

// Operators that do nothing but make or resize a tensor: whoever called them is the one that asked.
inline bool makes_tensors_only(std::string_view name) {
  static constexpr std::string_view kNames[] = {
      "aten::empty",          "aten::empty_strided",     "aten::empty_like",
      "aten::new_empty",      "aten::new_empty_strided", "aten::empty_permuted",
      "aten::resize_",        "aten::resize_as_",        "aten::set_",
      "aten::_resize_output_"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

}  // namespace memomalloc
