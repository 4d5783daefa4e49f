"""Logs an outage of Redis once when it begins and once when it is over."""

import time

from qcore.telemetry import log


class Outage:
    """One line at the beginning of an outage and one at its end, however many calls fail between.

    Args:
        url: Where Redis is, as it may be shown.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._since: float | None = None

    def goes_on(self, error: Exception) -> None:
        """A call has failed."""
        if self._since is None:
            self._since = time.monotonic()
            log.error("broker.lost", url=self._url, error=str(error))

    def is_over(self) -> None:
        """A call was answered."""
        if self._since is not None:
            away_s = round(time.monotonic() - self._since, 3)
            log.warning("broker.regained", url=self._url, away_s=away_s)
            self._since = None
