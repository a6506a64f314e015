// The replay path of an allocation and a free takes no lock, makes no system call, allocates nothing, and
// uses no atomic read-modify-write. Each claim is tested, and that the test would see it broken.
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "child_process.hpp"
#include "core/process_memory.hpp"
#include "core_fixture.hpp"
#include "fast_path_probe.hpp"
#include "interposed_calls.hpp"

namespace memomalloc::testing {
namespace {

constexpr uint32_t kNumSlots = 64;

// A chain of slots of which each overlaps the two before, so that the guard has predecessors to look at.
std::vector<PlannedBuffer> overlapping_plan() {
  std::vector<PlannedBuffer> buffers;
  for (uint32_t k = 0; k < kNumSlots; ++k) {
    const uint64_t offset = (k % 3) * 2 * kAlignmentBytes;
    buffers.push_back({offset, 3 * kAlignmentBytes, 3 * kAlignmentBytes, false});
  }
  return buffers;
}

class FastPathTest : public CoreTest {
 protected:
  void SetUp() override {
    CoreTest::SetUp();
    if (MEMOMALLOC_TEST_IS_SANITIZED) GTEST_SKIP() << "a sanitizer adds calls and code of its own";
  }

  static void replay_all_slots() {
    for (uint32_t k = 0; k < kNumSlots; ++k) {
      void* block = memomalloc_probe_allocate(3 * kAlignmentBytes);
      memomalloc_probe_release(block);
    }
  }

  // Runs `body` inside a run that all of it must be served by.
  template <typename Body>
  void in_served_run(Body body) {
    const BeginResult run = plan_.begin();
    ASSERT_EQ(run.outcome, Begin::kStarted);
    body();
    const RunCounts counts = ArmedPlan::end(run.token);
    EXPECT_EQ(counts.served, kNumSlots);
    EXPECT_EQ(counts.num_upstream(), 0u);
  }

  Armed plan_{make_layout(overlapping_plan()), 1};
};

TEST_F(FastPathTest, AllocatesNothingAndTakesNoLock) {
  for (int run = 0; run < 3; ++run) {
    in_served_run([] {
      const CallCounts before = calls_of_this_thread();
      replay_all_slots();
      const CallCounts after = calls_of_this_thread();
      EXPECT_EQ(after.num_heap_calls, before.num_heap_calls);
      EXPECT_EQ(after.num_mutex_locks, before.num_mutex_locks);
    });
  }
}

TEST_F(FastPathTest, TheCountersSeeAllocationsAndLocksWhereThereAreSome) {
  const CallCounts before = calls_of_this_thread();
  memory_use();                            // under the lock
  release(allocate(3 * kAlignmentBytes));  // upstream
  const CallCounts after = calls_of_this_thread();
  EXPECT_GE(after.num_heap_calls, before.num_heap_calls + 2);
  EXPECT_GE(after.num_mutex_locks, before.num_mutex_locks + 1);
}

// From here on the process may only exit; any other system call kills it.
void forbid_system_calls() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_exit_group, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  const sock_fprog filter = {static_cast<unsigned short>(std::size(program)), program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
    _exit(77);
}

TEST_F(FastPathTest, MakesNoSystemCall) {
  // Until the filter is there, the child may do what it wants; it exits with 77 where the system has none.
  const auto replay_without_system_calls = [this](bool misbehaves) {
    return outcome_of_child([this, misbehaves] {
      if (plan_.begin().outcome != Begin::kStarted) return 1;
      forbid_system_calls();
      replay_all_slots();
      if (misbehaves) getppid();
      return 0;
    });
  };
  const int outcome = replay_without_system_calls(false);
  if (outcome == 77) GTEST_SKIP() << "seccomp is not available";
  EXPECT_EQ(outcome, 0);
  EXPECT_EQ(replay_without_system_calls(true), -SIGSYS);
}

// The instructions of a function of this program.
std::string disassemble(const char* function) {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length <= 0) return "";
  path[length] = '\0';
  const std::string command =
      std::string("objdump --no-show-raw-insn --disassemble=") + function + " '" + path + "' 2>/dev/null";
  FILE* output = popen(command.c_str(), "r");
  if (output == nullptr) return "";
  std::string text;
  char line[512];
  while (std::fgets(line, sizeof(line), output) != nullptr) text += line;
  pclose(output);
  return text;
}

// The first instruction of a listing that is an atomic read-modify-write or a fence; empty if none is.
std::string find_read_modify_write(const std::string& listing) {
  std::istringstream lines(listing);
  for (std::string line; std::getline(lines, line);) {
    const std::string instruction = line.substr(std::min(line.rfind('\t') + 1, line.size()));
    const auto starts_with = [&](const char* prefix) { return instruction.rfind(prefix, 0) == 0; };
    // `xchg` of registers is padding; with memory it is an atomic exchange, with or without `lock`.
    const bool exchanges_memory = starts_with("xchg") && instruction.find('(') != std::string::npos;
    if (exchanges_memory || starts_with("lock") || starts_with("mfence")) return instruction;
  }
  return "";
}

TEST_F(FastPathTest, HasNoAtomicReadModifyWriteAndNoFence) {
#if !defined(__OPTIMIZE__) || !defined(__x86_64__)
  GTEST_SKIP() << "looks at optimised code for x86-64";
#endif
  for (const char* function : {"memomalloc_probe_allocate", "memomalloc_probe_release"}) {
    const std::string listing = disassemble(function);
    if (listing.find("ret") == std::string::npos) GTEST_SKIP() << "objdump is not available";
    EXPECT_EQ(find_read_modify_write(listing), "") << listing;
  }
  // A function that does use one, to see that the test would.
  EXPECT_NE(find_read_modify_write(disassemble("memomalloc_probe_fetch_add")), "");
}

}  // namespace
}  // namespace memomalloc::testing
