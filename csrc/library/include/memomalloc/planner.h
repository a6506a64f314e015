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
} memomalloc_request;
#define MEMOMALLOC_REQUEST_INIT {sizeof(memomalloc_request), NULL, -1, 1.0, 0, NULL, NULL, NULL}

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
