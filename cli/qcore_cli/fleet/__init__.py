"""Supervisors and their workers: what they do, and how they are restarted."""
