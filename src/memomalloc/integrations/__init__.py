"""The planner inside compilers: a module for each, over `memomalloc.planners` and `memomalloc.data`.

Nothing here is imported by the rest of the package, and no compiler is imported before it is used.
"""
