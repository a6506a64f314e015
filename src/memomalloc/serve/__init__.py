"""What services need around the runtime: metrics. May import the runtime; nothing imports it.

How memomalloc is used with thread pools, FastAPI, LitServe and Ray Serve needs no code of its own: see ``docs/serving``
and ``examples``.
"""
