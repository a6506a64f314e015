// Preloaded before Python: counts how often the calling thread takes the interpreter's lock.
#define _GNU_SOURCE
#include <dlfcn.h>

static __thread unsigned long num_taken;

unsigned long count_gil_taken(void) { return num_taken; }

typedef struct _ts PyThreadState;

#define FORWARD(type, name, parameters, arguments)                 \
  type name parameters {                                           \
    static type(*next) parameters;                                 \
    if (!next) next = (type(*) parameters)dlsym(RTLD_NEXT, #name); \
    ++num_taken;                                                   \
    return next arguments;                                         \
  }

FORWARD(int, PyGILState_Ensure, (void), ())
FORWARD(void, PyEval_RestoreThread, (PyThreadState * state), (state))
FORWARD(void, PyEval_AcquireThread, (PyThreadState * state), (state))
