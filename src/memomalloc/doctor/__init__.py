"""Why a program's memory grows, or why it is slow: watch it run, try remedies, say which it is.

May import every part of the package but the command line; what is diagnosed runs in processes of its own.
"""
