"""Importing this plans a program that knows nothing of memomalloc.

As the first line of a program, ``import memomalloc.auto`` does what ``memomalloc run`` does: each module that is called
from outside any other module is optimized in place. ``MEMOMALLOC_DISABLE=1`` turns it off. The options
of ``memomalloc run`` are ``MEMOMALLOC_MEMORY_LIMIT``, ``MEMOMALLOC_RELEASE_AFTER`` and ``MEMOMALLOC_SHAPES``.
``memomalloc watch`` may then look into the process, by a socket that only its owner may open.
"""

from memomalloc.runtime import extension

extension.load()  # says what is missing, before an import inside the runtime fails for lack of torch

from memomalloc.doctor.attached import let_watch  # noqa: E402
from memomalloc.runtime.models.outermost_calls import optimize_outermost_calls  # noqa: E402

optimize_outermost_calls()
let_watch()
