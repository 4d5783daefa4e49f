"""A private Redis server, started by its first user and stopped by its last."""
