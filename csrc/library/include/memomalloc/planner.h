/* The planner of memomalloc as a C library: sizes and lifetimes in, an offset for each buffer out.
 *
 *   #include <memomalloc/planner.h>
 *
 *   const int64_t sizes[] = {1000, 2000, 500}, starts[] = {0, 1, 4}, ends[] = {3, 6, 9};
 *   memomalloc_problem problem = MEMOMALLOC_PROBLEM_INIT;
 *   problem.num_buffers = 3;
 *   problem.sizes = sizes, problem.starts = starts, problem.ends = ends;
 *   problem.alignment = 64;
 *   int64_t offsets[3];
 *   memomalloc_result result = MEMOMALLOC_RESULT_INIT;
 *   memomalloc_error error;
 *   if (memomalloc_plan(&problem, NULL, offsets, &result, &error) != MEMOMALLOC_OK) puts(error.message);
 *
 * No exception crosses this border, nothing is kept between calls, and no call waits for another: any number
 * of threads may plan at once. Whatever a caller passes is borrowed for the time of the call. C99 and C++11
 * or later.
 *
 * The binary interface has the number MEMOMALLOC_ABI, which is the version in the library's name. While it
 * stays, functions, status codes and fields are only added, fields at the end; a struct that grows begins
 * with its size, which its INIT macro sets, so that a program and a library of different ages understand each
 * other. A field that a library is too old for is refused (MEMOMALLOC_UNSUPPORTED) unless it is zero. */
#ifndef MEMOMALLOC_PLANNER_H
#define MEMOMALLOC_PLANNER_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define MEMOMALLOC_API __attribute__((visibility("default")))
#else
#define MEMOMALLOC_API
#endif

#ifdef __cplusplus
#define MEMOMALLOC_NOEXCEPT noexcept
extern "C" {
#else
#define MEMOMALLOC_NOEXCEPT
#endif

/* The number of the binary interface that this header describes. */
#define MEMOMALLOC_ABI 1

/* What a function returns; the numbers never change. It is an int32_t and no enumeration: a newer library may
 * answer with a number that this header does not have. */
typedef int32_t memomalloc_status;
#define MEMOMALLOC_OK 0
/* No plan within the capacity was found in time, or before it was cancelled; there may be one. */
#define MEMOMALLOC_NO_PLAN_FOUND 1
/* It is proven that no plan is within the capacity. */
#define MEMOMALLOC_NO_PLAN_EXISTS 2
/* Offsets that memomalloc_check refuses. */
#define MEMOMALLOC_INVALID_PLAN 3
/* Sizes, lifetimes, alignments or pins that make no problem, a null pointer, a negative limit. */
#define MEMOMALLOC_INVALID_ARGUMENT 4
/* No planner of that name. */
#define MEMOMALLOC_UNKNOWN_PLANNER 5
/* The planner does not take so many buffers, or the library is older than a field that is set. */
#define MEMOMALLOC_UNSUPPORTED 6
#define MEMOMALLOC_OUT_OF_MEMORY 7
/* The progress function threw an exception, which ended the search and was dropped. */
#define MEMOMALLOC_CALLBACK_FAILED 8
/* A fault of this library: please report it. Nothing was planned. */
#define MEMOMALLOC_INTERNAL_ERROR 9

/* Why a call failed; written by calls that fail, untouched by calls that do not. */
typedef struct memomalloc_error {
  int64_t buffer;       /* index of the buffer at fault, -1: none */
  int64_t other_buffer; /* index of the second one where two are at fault together, -1: none */
  char message[240];    /* one line in English, ends with a null character */
} memomalloc_error;

/* n buffers to place in one arena. */
typedef struct memomalloc_problem {
  size_t struct_size; /* set by MEMOMALLOC_PROBLEM_INIT */
  size_t num_buffers;
  const int64_t* sizes;      /* bytes, not negative; a buffer of 0 bytes overlaps nothing */
  const int64_t* starts;     /* first tick of each lifetime */
  const int64_t* ends;       /* first tick after each lifetime: half-open, start < end */
  const int64_t* alignments; /* bytes, 1 to 2^31, kept beside `alignment`; NULL: none */
  const int64_t* pins;       /* the offset in bytes that a buffer must get, -1 for a free one; NULL: none */
  int64_t alignment; /* bytes, 1 to 2^31: every offset is a multiple, every size is rounded up to one */
} memomalloc_problem;
#define MEMOMALLOC_PROBLEM_INIT {sizeof(memomalloc_problem), 0, NULL, NULL, NULL, NULL, NULL, 1}

/* How far a search has come. */
typedef struct memomalloc_progress {
  size_t struct_size;
  int64_t best_arena;  /* bytes; -1 while there is no plan */
  int64_t lower_bound; /* bytes; no plan can be smaller */
  double elapsed_s;
} memomalloc_progress;

/* Told about 20 times a second while a planner searches, on the thread that called memomalloc_plan. Zero ends
 * the search, as cancelling it does. */
typedef int (*memomalloc_progress_function)(const memomalloc_progress* progress, void* user_data);

/* A switch that ends searches from outside: from another thread, or from a signal handler. */
typedef struct memomalloc_cancellation memomalloc_cancellation;

/* How to plan. */
typedef struct memomalloc_request {
  size_t struct_size;                    /* set by MEMOMALLOC_REQUEST_INIT */
  const char* planner;                   /* a name of memomalloc_planner_name; NULL: "auto" */
  int64_t capacity;                      /* bytes: any plan within it will do; -1: as small as possible */
  double time_limit_s;                   /* of the planners that search; the others run once */
  uint64_t seed;                         /* of random choices */
  memomalloc_progress_function progress; /* NULL: none */
  void* user_data;                       /* for the progress function */
  const memomalloc_cancellation* cancellation; /* NULL: none; must outlive the call */
  /* Offsets of an earlier plan, one for each buffer, -1 for what it had not; NULL: none. What is found is no
   * higher than these buffers placed in that order. */
  const int64_t* warm_start;
} memomalloc_request;
#define MEMOMALLOC_REQUEST_INIT {sizeof(memomalloc_request), NULL, -1, 1.0, 0, NULL, NULL, NULL, NULL}

/* How good a plan is. */
typedef struct memomalloc_result {
  size_t struct_size;     /* set by MEMOMALLOC_RESULT_INIT */
  int64_t arena;          /* bytes: the largest offset plus rounded size; -1: there is no plan */
  int64_t lower_bound;    /* bytes; no plan can be smaller */
  double elapsed_s;       /* with preparation and check */
  int32_t proven_optimal; /* 1: no smaller arena is possible */
  int32_t cancelled;      /* 1: the search was ended by the progress function or the cancellation */
  char planner[64];       /* who found the plan, ends with a null character */
} memomalloc_result;
#define MEMOMALLOC_RESULT_INIT {sizeof(memomalloc_result), -1, 0, 0.0, 0, 0, {0}}

/* Places every buffer. What it answers was checked by a sweep over time that shares no code with the
 * planners.
 *
 * request  NULL: as small as possible, by "auto", in a second at most.
 * offsets  num_buffers entries; written if the status is MEMOMALLOC_OK, else untouched.
 * result   NULL: not wanted. Written if the status is MEMOMALLOC_OK, MEMOMALLOC_NO_PLAN_FOUND or
 *          MEMOMALLOC_NO_PLAN_EXISTS; in the last two it says which arena was reached.
 * error    NULL: not wanted.
 *
 * A search that is cancelled returns the best plan that it has: MEMOMALLOC_OK, and `cancelled` in the result.
 * Equal problems, seeds and planners give equal plans as long as no limit cuts a search off. */
MEMOMALLOC_API memomalloc_status memomalloc_plan(const memomalloc_problem* problem,
                                                 const memomalloc_request* request, int64_t* offsets,
                                                 memomalloc_result* result,
                                                 memomalloc_error* error) MEMOMALLOC_NOEXCEPT;

/* Whether offsets, whoever made them, solve the problem: MEMOMALLOC_OK, or MEMOMALLOC_INVALID_PLAN and an
 * error that names the buffers. O(n log n). */
MEMOMALLOC_API memomalloc_status memomalloc_check(const memomalloc_problem* problem, const int64_t* offsets,
                                                  memomalloc_error* error) MEMOMALLOC_NOEXCEPT;

/* What no arena can be below: at least the largest sum of rounded sizes alive at one tick, and the end of the
 * highest pin. O(n log n). */
MEMOMALLOC_API memomalloc_status memomalloc_lower_bound(const memomalloc_problem* problem,
                                                        int64_t* lower_bound,
                                                        memomalloc_error* error) MEMOMALLOC_NOEXCEPT;

/* Buffers to place in the memories of a device, at the least cost. Columns that are NULL have the value that
 * is stated for it. */
typedef struct memomalloc_device_problem {
  size_t struct_size;        /* set by MEMOMALLOC_DEVICE_PROBLEM_INIT */
  size_t num_memories;       /* 1 to 64 */
  const int64_t* capacities; /* bytes, -1: as small as possible; NULL: -1 */
  const int64_t* banks;      /* bytes of a bank, 0: the memory has none; NULL: 0 */
  const int64_t*
      chunks; /* bytes of the largest block that there is, 0: any; NULL: 0. No buffer lies across two */
  size_t num_buffers;
  const int64_t* sizes;        /* bytes, not negative, taken as they are */
  const int64_t* alignments;   /* bytes, 1 to 2^31; NULL: 1 */
  const int64_t* costs;        /* num_memories for each buffer, of lying there; -1: not there; NULL: 0 */
  const int64_t* groups;       /* equal numbers for buffers that alias, -1: none; NULL: -1 */
  const int64_t* sub_offsets;  /* bytes from the start of the group, a multiple of the alignment; NULL: 0 */
  const int64_t* pin_memories; /* where a buffer must lie, -1: free; NULL: -1 */
  const int64_t* pin_chunks;   /* NULL: 0 */
  const int64_t* pin_offsets;  /* bytes from the start of the chunk; NULL: 0 */
  size_t num_lifetimes;        /* each buffer has one at least; those of one buffer do not overlap */
  const int64_t* lifetime_buffers;
  const int64_t* lifetime_starts; /* first tick */
  const int64_t* lifetime_ends;   /* first tick after it */
  const int64_t* lifetime_lowers; /* of the buffer's bytes, the first in use; NULL: 0 */
  const int64_t* lifetime_uppers; /* the first after those in use; NULL: its size */
  size_t num_disjoint;            /* pairs of buffers that share no byte, whatever their lifetimes */
  const int64_t* disjoint;        /* two buffers for each */
  size_t num_different_banks;     /* pairs of buffers that share no bank */
  const int64_t* different_banks; /* two buffers for each */
} memomalloc_device_problem;
/* clang-format off */
#define MEMOMALLOC_DEVICE_PROBLEM_INIT                                                                       \
  {sizeof(memomalloc_device_problem), 0, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL,      \
   NULL, 0, NULL, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL}
/* clang-format on */

/* Where the buffers lie: num_buffers entries each. */
typedef struct memomalloc_places {
  int64_t* memories; /* -1 in a warm start: it had no place */
  int64_t* chunks;   /* NULL: not wanted, or 0 */
  int64_t* offsets;  /* bytes from the start of the chunk */
} memomalloc_places;

/* How good a plan for a device is. */
typedef struct memomalloc_device_result {
  size_t struct_size;      /* set by MEMOMALLOC_DEVICE_RESULT_INIT */
  int64_t cost;            /* -1: there is no plan */
  int64_t lower_bound;     /* of the cost */
  double elapsed_s;        /* with preparation and check */
  int32_t proven_cheapest; /* 1: no plan costs less */
  int32_t proven_optimal;  /* 1: and none of that cost needs less of the memories without a capacity */
  int32_t cancelled;       /* 1: the search was ended by the progress function or the cancellation */
  int32_t reserved;
} memomalloc_device_result;
#define MEMOMALLOC_DEVICE_RESULT_INIT {sizeof(memomalloc_device_result), -1, 0, 0.0, 0, 0, 0, 0}

/* Places every buffer in a memory of the device, at the least cost that can be found, and checks that. In a
 * memory with a capacity any place is as good as another; of the others as little as possible is needed.
 *
 * request     NULL: a second at most. Its planner must be NULL or "auto", its capacity -1, its warm_start
 * NULL; its progress function is told the bytes last reached in the memory that is being planned. warm_start
 * NULL: none. An earlier plan. places      written if the status is MEMOMALLOC_OK, else untouched. result
 * NULL: not wanted. error       NULL: not wanted. */
MEMOMALLOC_API memomalloc_status memomalloc_plan_device(const memomalloc_device_problem* problem,
                                                        const memomalloc_request* request,
                                                        const memomalloc_places* warm_start,
                                                        const memomalloc_places* places,
                                                        memomalloc_device_result* result,
                                                        memomalloc_error* error) MEMOMALLOC_NOEXCEPT;

/* Whether places, whoever made them, solve the problem: MEMOMALLOC_OK, or MEMOMALLOC_INVALID_PLAN and an
 * error that names the buffers. */
MEMOMALLOC_API memomalloc_status memomalloc_check_device(const memomalloc_device_problem* problem,
                                                         const memomalloc_places* places,
                                                         memomalloc_error* error) MEMOMALLOC_NOEXCEPT;

/* A new switch that is off; NULL: out of memory. */
MEMOMALLOC_API memomalloc_cancellation* memomalloc_cancellation_create(void) MEMOMALLOC_NOEXCEPT;
/* Turns it on for good: searches that were given it end within about 50 ms of a search, and those that begin
 * later end after their first pass. Any thread, any number of times, signal handlers too. */
MEMOMALLOC_API void memomalloc_cancel(memomalloc_cancellation* cancellation) MEMOMALLOC_NOEXCEPT;
/* No search may use it any more. NULL does nothing. */
MEMOMALLOC_API void memomalloc_cancellation_destroy(memomalloc_cancellation* cancellation)
    MEMOMALLOC_NOEXCEPT;

/* How many planners there are, and their names: constant, alive as long as the library. NULL beyond the last.
 */
MEMOMALLOC_API size_t memomalloc_num_planners(void) MEMOMALLOC_NOEXCEPT;
MEMOMALLOC_API const char* memomalloc_planner_name(size_t index) MEMOMALLOC_NOEXCEPT;

/* A few words for a status, also for one that is none. */
MEMOMALLOC_API const char* memomalloc_status_text(memomalloc_status status) MEMOMALLOC_NOEXCEPT;

/* The version of the library that runs, such as "0.1.0", and the MEMOMALLOC_ABI that it was built with. */
MEMOMALLOC_API const char* memomalloc_version(void) MEMOMALLOC_NOEXCEPT;
MEMOMALLOC_API int32_t memomalloc_abi(void) MEMOMALLOC_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif /* MEMOMALLOC_PLANNER_H */
