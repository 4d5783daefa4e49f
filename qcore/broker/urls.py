"""URLs of Redis: what a URL with several hosts says, and how any of them may be shown."""

import re
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from qcore.errors import ConfigError

SCHEMES = (
    "redis://host:6379/0, rediss://, unix:///path, embedded://PATH, "
    "redis+sentinel://h1:26379,h2:26379/SERVICE/DB, redis+cluster://h1:7000,h2:7000"
)
_PARTS = re.compile(
    r"(?P<scheme>[^:/?#]+)://(?P<hosts>[^/?#]*)(?P<path>[^?#]*)(?P<query>(?:\?[^#]*)?)(?:#.*)?"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+)(?::(?P<port>\d+))?")


class Address(NamedTuple):
    """Where one server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Hosts(NamedTuple):
    """A URL with several hosts, taken apart; each server is reached by a plain URL made of it."""

    #: `redis` or `rediss`.
    scheme: str
    #: As written, with its `@`; empty without.
    credentials: str
    addresses: tuple[Address, ...]
    #: The parts of the path.
    path: tuple[str, ...]
    #: As written, with its `?`; empty without.
    query: str

    @classmethod
    def parse(cls, url: str, *, port: int) -> Self:
        """Take `redis+KIND://[user:password@]host[:port],.../path?query` apart.

        Args:
            url: With one or more hosts.
            port: Of a host that names none.

        Raises:
            ConfigError: it is no such URL.
        """
        # not urlsplit: newer ones take several hosts, one of them IPv6, for a mistake
        parts = _PARTS.fullmatch(url)
        if parts is None:
            raise bad_url(url, "it has no host")
        credentials, at, places = parts["hosts"].rpartition("@")
        if "," in credentials:
            raise bad_url(url, "user and password stand once, in front of the first host")
        addresses: list[Address] = []
        for place in places.split(","):
            found = _HOST.fullmatch(place)
            if found is None or int(found["port"] or port) not in range(1, 65536):
                raise bad_url(url, f"{place!r} is no host:port")
            addresses.append(Address(found["host"].strip("[]"), int(found["port"] or port)))
        return cls(
            parts["scheme"].lower().partition("+")[0],
            credentials + at,
            tuple(addresses),
            tuple(part for part in parts["path"].split("/") if part),
            parts["query"] if parts["query"] != "?" else "",
        )

    def url(self, address: Address, *, db: str = "0", credentials: bool = True) -> str:
        """Return the plain URL of one server."""
        secret = self.credentials if credentials else ""
        return f"{self.scheme}://{secret}{address}/{db}{self.query}"


def bad_url(url: str, why: object) -> ConfigError:
    """Return the error about a URL."""
    return ConfigError(f"{shown_url(url)!r} is no Redis URL ({why}); use one of {SCHEMES}")


def shown_url(url: str) -> str:
    """Return the URL as it may be shown: without its password, however it was written."""
    try:
        urlsplit(url)
    except ValueError:  # nobody knows what its parts are
        return url.partition("://")[0] + "://***"
    scheme, separator, rest = url.partition("://")
    secret, at, place = rest.rpartition("@")
    if at:
        user = secret.partition(":")[0]
        rest = f"{user}:***@{place}" if ":" in secret else f"{user}@{place}"
    return scheme + separator + re.sub(r"(?i)(password=)[^&]*", r"\1***", rest)
