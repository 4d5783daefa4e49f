"""A school's audit of a term, run as a queue."""
