#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace memomalloc::testing {

// How a child process ended: its exit code, or minus the signal that killed it.
//
// The child is a fork of the test: `body` runs with all the test made so far, and what it returns is the exit
// code. It must not use gtest's assertions, whose failures would stay in the child.
inline int outcome_of_child(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace memomalloc::testing
