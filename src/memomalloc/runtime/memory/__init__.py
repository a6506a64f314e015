"""Armed plans and the memory that they run on: budget, release, statistics.

Uses no other room.
"""
