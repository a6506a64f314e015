"""Plans that travel with their model: the archive, and what it must have been learned with.

Uses calls, learning and memory.
"""
