"""The parent of worker processes: starts, watches, replaces and stops them; no user code."""
