"""What the operating system says of processes, and what they get from it."""
