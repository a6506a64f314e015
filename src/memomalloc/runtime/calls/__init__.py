"""What a call is: its description, the calls that share a plan, and the way to an armed plan.

Uses learning and memory.
"""
