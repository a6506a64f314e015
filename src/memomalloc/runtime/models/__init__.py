"""How a model is dressed: as a wrapper, in place, or as the outermost call of a program.

Uses shipping, calls, learning and memory.
"""
