"""The other end of `NOTIFY_SOCKET`: what systemd would hear."""

import socket


class Manager:
    """The socket of a service manager, with everything that came in."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self._heard: list[str] = []

    def heard(self) -> list[str]:
        """Return all lines so far, in their order, without the signs of life."""
        return [line for line in self._lines() if line != "WATCHDOG=1"]

    def alive(self) -> int:
        """Return how many signs of life came so far."""
        return self._lines().count("WATCHDOG=1")

    def _lines(self) -> list[str]:
        while True:
            try:
                self._heard += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self._heard

    def close(self) -> None:
        self._socket.close()
