"""Record, replay, optimize: what runs under a PyTorch program.

May import ``data`` and ``planners``; needs torch. Nothing here installs an allocator or starts a thread when
imported: the allocator is installed by the first recording, replay or optimized call.

Rooms, each of which uses only those to its right: ``models`` (how a model is dressed), ``shipping`` (plans that
travel), ``calls`` (what a call is, and the way to its plan), ``learning`` (how a plan is learned), ``memory`` (armed
plans and what they run on). Below all are the modules beside them: events, the extension, the switch, fork safety.
"""
