"""What crosses the pipes between these processes."""
