"""Signals, and how processes end, in words."""

import signal


def signal_name(number: int) -> str:
    """Return the name of a signal; real-time signals have none of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ending(code: int) -> str:
    """Return how a process ended, in words."""
    return f"exited with {code}" if code >= 0 else f"was ended by {signal_name(-code)}"
