"""How a model is dressed: as another object, in place, or as the outermost call of a program.

Uses shipping, calls, learning and memory.
"""
