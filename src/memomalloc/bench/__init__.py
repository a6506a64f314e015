"""Side-by-side measurement: the same call with and without a plan, against every allocator a user could choose.

May import ``data``, ``planners``, ``runtime`` and ``report``; needs torch where a model is measured.
"""
