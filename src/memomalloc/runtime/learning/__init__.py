"""How a plan is learned: recordings, who asked for what, and when to record, arm, grow or give up.

Uses memory.
"""
