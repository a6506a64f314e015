"""Make memory visible: tables, pictures, the offline HTML memory map, and exports for other viewers.

Takes traces and plans, writes files or text. May import ``memomalloc.errors``, ``memomalloc.extras`` and
``memomalloc.data``, and nothing else of the package; never torch.
"""
