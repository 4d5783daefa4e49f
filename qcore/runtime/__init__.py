"""What runs inside processes: the supervisor, its workers, and their parts."""
