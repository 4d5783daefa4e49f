"""A process of the pool: runs one `run_in="process"` job at a time."""
