/* From the schedule of a compiler to offsets, in C. Ctrl-C ends the search with the best plan so far.
 *
 *   cmake -B build -DCMAKE_PREFIX_PATH=PREFIX && cmake --build build && build/schedule [CAPACITY]
 *
 * CAPACITY is that of the scratchpad in bytes; the exit status is 1 if the schedule does not fit into it. */
#include <inttypes.h>
#include <memomalloc/planner.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { NUM_STEPS = 6, MAX_INPUTS = 2, NONE = -1 };

/* What step i writes, and what it reads. */
static const struct {
  const char* name;
  int64_t size;
  int inputs[MAX_INPUTS];
} steps[NUM_STEPS] = {
    {"input", 602112, {NONE, NONE}}, {"conv", 3211264, {0, NONE}}, {"relu", 3211264, {1, NONE}},
    {"pool", 802816, {2, NONE}},     {"conv2", 802816, {3, NONE}}, {"add", 802816, {4, 3}},
};

static memomalloc_cancellation* cancellation;

static void on_interrupt(int signal_number) {
  (void)signal_number;
  memomalloc_cancel(cancellation);
}

int main(int argc, char** argv) {
  int64_t sizes[NUM_STEPS], starts[NUM_STEPS], ends[NUM_STEPS], offsets[NUM_STEPS];
  for (int step = 0; step < NUM_STEPS; ++step) {
    sizes[step] = steps[step].size;
    starts[step] = step;
    ends[step] = step + 1;
    /* At its last reader a buffer is still read: it dies one step later. */
    for (int i = 0; i < MAX_INPUTS; ++i) {
      if (steps[step].inputs[i] != NONE) ends[steps[step].inputs[i]] = step + 1;
    }
  }

  memomalloc_problem problem = MEMOMALLOC_PROBLEM_INIT;
  problem.num_buffers = NUM_STEPS;
  problem.sizes = sizes;
  problem.starts = starts;
  problem.ends = ends;
  problem.alignment = 64;

  cancellation = memomalloc_cancellation_create();
  signal(SIGINT, on_interrupt);
  memomalloc_request request = MEMOMALLOC_REQUEST_INIT;
  request.cancellation = cancellation;
  if (argc > 1) request.capacity = strtoll(argv[1], NULL, 10);

  memomalloc_result result = MEMOMALLOC_RESULT_INIT;
  memomalloc_error error;
  const memomalloc_status status = memomalloc_plan(&problem, &request, offsets, &result, &error);
  signal(SIGINT, SIG_DFL);
  memomalloc_cancellation_destroy(cancellation);
  if (status != MEMOMALLOC_OK) {
    fprintf(stderr, "%s: %s\n", memomalloc_status_text(status), error.message);
    return EXIT_FAILURE;
  }
  for (int step = 0; step < NUM_STEPS; ++step)
    printf("%-6s at %" PRId64 "\n", steps[step].name, offsets[step]);
  printf("%" PRId64 " bytes, %s; %s\n", result.arena,
         result.arena == result.lower_bound ? "the lower bound" : "above the lower bound", result.planner);
  return EXIT_SUCCESS;
}
