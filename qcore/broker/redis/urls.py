"""URLs of Redis, read strictly: what is not understood is refused and never shown.

Nothing of a URL that could not be read is part of an error: a password whose `/`, `?` or `#` was
not quoted makes of the rest of it a host, a path or an option.
"""

import difflib
import re
from collections.abc import Mapping
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode

from qcore.errors import ConfigError
from qcore.settings import BrokerConfig

SCHEMES = (
    "redis://host:6379/0, rediss://, unix:///path, embedded://PATH, "
    "redis+sentinel://h1:26379,h2:26379/SERVICE/DB, redis+cluster://h1:7000,h2:7000"
)
#: What others write, and what it is here.
_ELSEWHERE = {
    "redis+socket": "unix:///path?db=0",
    "redis+unix": "unix:///path?db=0",
    "redis-socket": "unix:///path?db=0",
    "sentinel": "redis+sentinel://h1:26379,h2:26379/SERVICE/DB",
    "redis-sentinel": "redis+sentinel://h1:26379,h2:26379/SERVICE/DB",
    "redis-cluster": "redis+cluster://h1:7000,h2:7000",
    "valkey": "redis://host:6379/0",
    "tcp": "redis://host:6379/0",
    "valkeys": "rediss://host:6379/0",
    "redis+ssl": "rediss://host:6379/0",
    "redis+tls": "rediss://host:6379/0",
}
_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<place>[^/?]*)(?P<path>[^?]*)(?:\?(?P<query>.*))?"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+)(?::(?P<port>[0-9]{1,5}))?")
_CERT_REQS = ("none", "optional", "required")
_FLAGS = ("true", "false", "yes", "no", "1", "0")
_TEXT = re.compile(r".+")
#: Options that redis-py takes, with what their values look like.
_OPTIONS = {
    "db": re.compile(r"[0-9]{1,9}"),
    "socket_connect_timeout": re.compile(r"[0-9]+(\.[0-9]+)?"),
    "socket_read_size": re.compile(r"[1-9][0-9]{0,8}"),
    "socket_keepalive": re.compile("|".join(_FLAGS), re.IGNORECASE),
    "health_check_interval": re.compile(r"[0-9]{1,9}"),
    "ssl_check_hostname": re.compile("|".join(_FLAGS), re.IGNORECASE),
    "ssl_cert_reqs": re.compile("|".join(_CERT_REQS)),
    "ssl_min_version": re.compile(r"[0-9]{1,5}"),
    **dict.fromkeys(
        (
            *("username", "password", "client_name", "lib_name", "lib_version"),
            *("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"),
            *("ssl_ciphers", "ssl_password", "ssl_include_verify_flags"),
            "ssl_exclude_verify_flags",
        ),
        _TEXT,
    ),
}
#: Options whose values the code relies on; those of a URL would count for more than its own.
_SET_HERE = (
    *("protocol", "retry", "retry_on_error", "retry_on_timeout", "socket_timeout"),
    *("decode_responses", "encoding", "encoding_errors", "max_connections", "timeout"),
)
_WITH_TLS = {"redis+sentinel": "rediss+sentinel", "redis+cluster": "rediss+cluster"}
#: How others ask for TLS.
_TLS = ("ssl", "tls", "use_ssl", "use_tls")
#: Options that may be shown with their values.
_SHOWN = frozenset(_OPTIONS) - {"username", "password", "ssl_password", "ssl_ca_data"}


class Address(NamedTuple):
    """Where one server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Parts(NamedTuple):
    scheme: str
    #: As it goes into a URL again, with its `@`; empty without.
    credentials: str
    place: str
    path: str
    options: Mapping[str, str]

    @property
    def query(self) -> str:
        return f"?{urlencode(self.options)}" if self.options else ""


class Hosts(NamedTuple):
    """A URL with several hosts, taken apart; each server is reached by a plain URL made of it."""

    #: `redis` or `rediss`.
    scheme: str
    #: With its `@`; empty without.
    credentials: str
    addresses: tuple[Address, ...]
    #: The parts of the path.
    path: tuple[str, ...]
    #: With its `?`; empty without.
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
        parts = _parts_of(url)
        if "," in parts.credentials or "%2C" in parts.credentials:
            raise bad_url(url, "user and password stand once, in front of the first host")
        places = parts.place.split(",")
        return cls(
            parts.scheme.partition("+")[0],
            parts.credentials,
            tuple(_address(url, place, port) for place in places),
            tuple(part for part in parts.path.split("/") if part),
            parts.query,
        )

    def url(self, address: Address, *, db: str = "0", credentials: bool = True) -> str:
        """Return the plain URL of one server."""
        secret = self.credentials if credentials else ""
        return f"{self.scheme}://{secret}{address}/{db}{self.query}"


def plain_url(url: str) -> str:
    """Return the URL of one server, or of a socket, as redis-py reads it and no other way.

    Raises:
        ConfigError: it is no such URL.
    """
    parts = _parts_of(url)
    if parts.scheme == "unix":
        if parts.place or not parts.path.strip("/"):
            raise bad_url(url, "a socket has a path and no host: unix:///path")
        return f"unix://{parts.credentials}{parts.path}{parts.query}"
    address = _address(url, parts.place, 6379)
    found = re.fullmatch(r"/?|/([0-9]{1,9})/?", parts.path)
    if found is None:
        raise bad_url(
            url,
            "after the host stands the number of a database, as /0; keys are kept apart by "
            "--namespace or QCORE_NAMESPACE",
        )
    db, named = found[1], parts.options.get("db")
    if db and named and int(db) != int(named):
        raise bad_url(url, "it names two databases, by its path and by db=")
    options = {name: value for name, value in parts.options.items() if name != "db"}
    query = f"?{urlencode(options)}" if options else ""
    return f"{parts.scheme}://{parts.credentials}{address}/{int(db or named or 0)}{query}"


def bad_url(url: str, why: str) -> ConfigError:
    """Return the error about a URL; of the URL only the scheme is shown."""
    return ConfigError(f"{_scheme_of(url)!r} is no Redis URL: {why}; use one of {SCHEMES}")


def _scheme_of(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    is_one = separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{1,24}", scheme)
    return f"{scheme}://***" if is_one else "***"


def unknown_scheme(url: str) -> ConfigError:
    """Return the error about a URL of a scheme that is none here."""
    scheme, separator, _ = url.partition("://")
    if meant := _ELSEWHERE.get(scheme.lower()):
        return bad_url(url, f"here it is written {meant}")
    if not separator:
        return bad_url(url, "it has no scheme, so put redis:// in front of host:port")
    return bad_url(url, "unknown scheme")


def shown_url(url: str) -> str:
    """Return the URL as it may be shown: without user, password and any other secret.

    Of one that cannot be read only the scheme is shown.
    """
    scheme, _, path = url.partition("://")
    if scheme.lower() == "embedded":
        return f"{scheme}://{path}"
    try:
        if "+" in scheme:
            Hosts.parse(url, port=1)
        else:
            plain_url(url)
        parts = _parts_of(url)
    except ConfigError:
        return _scheme_of(url)
    options = {name: v if name in _SHOWN else "***" for name, v in parts.options.items()}
    query = f"?{urlencode(options, safe='/:*')}" if options else ""
    secret = "***@" if parts.credentials else ""
    return f"{parts.scheme}://{secret}{parts.place}{parts.path}{query}"


def where_is(config: BrokerConfig) -> str:
    """Return which namespace of which Redis is meant, without secrets."""
    return f"namespace {config.namespace} at {shown_url(config.url)}"


def _parts_of(url: str) -> _Parts:
    """Take a URL apart.

    Raises:
        ConfigError: it is none, or has an option that is none; nothing of it is in the message.
    """
    if "#" in url:
        raise bad_url(url, "a '#' in it must be written %23")
    found = _PARTS.fullmatch(url)
    if found is None or re.search(r"[\s\x00-\x1f\x7f\ud800-\udfff]", url):
        raise bad_url(url, "it has a space or a control character, or no host")
    secret, at, place = found["place"].rpartition("@")
    path, query = found["path"], found["query"] or ""
    scheme = found["scheme"].lower()
    is_path = scheme == "unix" and not place  # where an `@` is a character as any other
    if "@" in query or ("@" in path and not is_path):
        raise bad_url(
            url,
            "there is an '@' after the host: write '/', '?' and '#' of a password as %2F, %3F "
            "and %23, and an '@' as %40",
        )
    options = _options(url, query)
    if not scheme.startswith("rediss") and any(name.startswith("ssl_") for name in options):
        raise bad_url(
            url, f"its options are about TLS, so write {_WITH_TLS.get(scheme, 'rediss')}://"
        )
    return _Parts(scheme, _requoted(secret) + at, place, path, options)


def _requoted(secret: str) -> str:
    user, colon, password = secret.partition(":")
    return quote(unquote(user), safe="") + colon + quote(unquote(password), safe="")


def _options(url: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _SET_HERE:
            raise bad_url(url, f"qcore sets {name} itself")
        if name in _TLS:
            raise bad_url(url, f"TLS is asked for by rediss://, not by {name}=")
        if name in ("virtual_host", "database"):
            raise bad_url(url, "the database is written /0 after the host, or db=0")
        if name not in _OPTIONS:
            close = difflib.get_close_matches(name, _OPTIONS, 1)
            raise bad_url(url, f"it has an unknown option, after the '?'{_meant(name, close)}")
        if name in options:
            raise bad_url(url, f"it has {name} twice")
        if name == "ssl_cert_reqs":  # as Celery writes it
            value = value.lower().removeprefix("ssl.").removeprefix("cert_")
        if not _OPTIONS[name].fullmatch(value):
            raise bad_url(url, f"the value of {name} is none that it can have")
        options[name] = value
    return options


def _meant(name: str, close: list[str]) -> str:
    return f": {name}, is it {close[0]}?" if close else ""


def _address(url: str, place: str, port: int) -> Address:
    found = _HOST.fullmatch(place)
    if found is None:
        raise bad_url(url, "its host is no host:port")
    number = int(found["port"] or port)
    if number not in range(1, 65536):
        raise bad_url(url, "its port is none from 1 to 65535")
    return Address(found["host"].strip("[]"), number)
