#pragma once

namespace memomalloc {

// Makes ours the allocator of all CPU tensors of the process, in front of the one that is there now. The
// first call installs, later ones do nothing; it is never uninstalled, since blocks outlive any scope. Throws
// std::runtime_error where the present allocator cannot be stood in front of.
void install_torch_allocator();

}  // namespace memomalloc
