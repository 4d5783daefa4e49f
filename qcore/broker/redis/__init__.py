"""The engine on Redis: each transition is one script."""
