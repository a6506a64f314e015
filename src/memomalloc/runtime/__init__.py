"""Record, replay, optimize: what runs under a PyTorch program.

May import ``data`` and ``planners``; needs torch. Nothing here installs an allocator or starts a thread when
imported: the allocator is installed by the first recording, replay or optimized call.
"""
