"""The scripts: file, names of KEYS and ARGV, and what an error reply means."""

import hashlib
import re
from importlib.resources import files

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from qcore.broker.keys import QueueKeys
from qcore.errors import BrokerError, BrokerRefused, BrokerUnavailable, QueueFull

_INCLUDE = re.compile(r"^-- @include (.+)$", re.MULTILINE)


class Script:
    """One Lua file; called by name, sent by its digest."""

    def __init__(
        self, name: str, *, keys: tuple[str, ...], argv: tuple[str, ...], reads_only: bool = False
    ) -> None:
        self.name = name
        self.keys = keys
        self.argv = argv
        self.reads_only = reads_only
        self.source = _load(name)
        # Redis names a script by this digest; it is no secret.
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest().encode()

    def call(self, queues: QueueKeys | list[QueueKeys], *args: object) -> "Call":
        """Return this script bound to one queue (or, for `claim`, several) and its arguments."""
        queues = queues if isinstance(queues, list) else [queues]
        keys = [key for queue in queues for key in queue.pick(self.keys)]
        return Call(self, keys, args)


class Call:
    """A script with its keys and arguments, ready to be sent."""

    __slots__ = ("args", "keys", "script")

    def __init__(self, script: Script, keys: list[bytes], args: tuple[object, ...]) -> None:
        self.script = script
        self.keys = keys
        self.args = args

    def by_digest(self) -> tuple[object, ...]:
        """Return the command that runs a script the server knows."""
        return (b"EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def by_source(self) -> tuple[object, ...]:
        """Return the command that teaches the server the script and runs it."""
        return (b"EVAL", self.script.source, len(self.keys), *self.keys, *self.args)


def _load(name: str) -> str:
    folder = files("qcore.broker") / "lua"

    def include(found: re.Match[str]) -> str:
        return "\n".join((folder / "lib" / f"{n}.lua").read_text() for n in found[1].split())

    return _INCLUDE.sub(include, (folder / f"{name}.lua").read_text())


ENQUEUE = Script(
    "enqueue",
    keys=("jobs", "ready", "scheduled", "producers", "wake"),
    argv=("now_ms", "nonce", "call", "items"),
)
PROMOTE = Script("promote", keys=("active", "scheduled", "ready", "wake"), argv=("now_ms", "limit"))
CLAIM = Script(
    "claim",
    keys=("ready", "scheduled", "active", "running", "jobs", "state", "crashes", "wake"),
    argv=(
        "now_ms",
        "limit",
        "lease_ms",
        "prefix",
        "most_bytes",
        "promote",
        "suspects",
        "limits",
    ),
)
RECOVER = Script(
    "recover",
    keys=("active", "jobs", "state", "crashes"),
    argv=("now_ms", "lease_ms", "prefix", "cursor"),
)
EXTEND = Script("extend", keys=("active",), argv=("now_ms", "lease_ms", "tokens"))
SETTLE = Script(
    "settle",
    keys=(
        "active",
        "running",
        "jobs",
        "state",
        "crashes",
        "ready",
        "scheduled",
        "dead",
        "done",
        "expiry",
        "wake",
        "waiters",
    ),
    argv=("now_ms", "acks", "keeps", "retries", "buries", "releases", "items"),
)
RECLAIM = Script(
    "reclaim",
    keys=("active", "running", "ready", "scheduled", "dead", "crashes", "meta", "wake"),
    argv=("now_ms", "lease_ms", "stale_ms", "guard_ms", "crash_limit", "limit"),
)
RECLAIM_OWNER = Script(
    "reclaim_owner",
    keys=("active", "running", "ready", "scheduled", "dead", "crashes", "wake"),
    argv=("now_ms", "owner", "charge", "crash_limit", "cursor"),
)
CLEAR = Script(
    "clear",
    keys=("active", "ready", "scheduled", "jobs", "state", "crashes", "done", "expiry"),
    argv=("now_ms", "limit", "outcome", "keep_ms"),
)
REVIVE = Script(
    "revive",
    keys=("active", "dead", "jobs", "state", "crashes", "ready", "wake"),
    argv=("items",),
)
PURGE = Script(
    "purge",
    keys=("active", "dead", "jobs", "state", "crashes"),
    argv=("now_ms", "age_ms", "limit", "ids"),
)
PRUNE = Script(
    "prune",
    keys=("active", "done", "expiry", "producers"),
    argv=("now_ms", "limit", "silent_ms", "cursor"),
)
FIND = Script(
    "find",
    keys=("active", "running", "jobs", "state", "crashes", "scheduled", "dead", "done", "waiters"),
    argv=("id", "channel"),
)
DEPTH = Script(
    "depth",
    keys=("ready", "scheduled", "active", "dead", "jobs"),
    argv=("now_ms",),
    reads_only=True,
)

SCRIPTS = (
    ENQUEUE,
    PROMOTE,
    CLAIM,
    RECOVER,
    EXTEND,
    SETTLE,
    RECLAIM,
    RECLAIM_OWNER,
    CLEAR,
    REVIVE,
    PURGE,
    PRUNE,
    FIND,
    DEPTH,
)

#: The server is in a state that passes: nothing of the call was done, it may be tried again.
_PASSING_ERRORS = (
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,  # also MASTERDOWN
    TryAgainError,
    AskError,  # also MOVED
)
_PASSING_CODES = re.compile(
    r"\b(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|BUSY|TRYAGAIN|MISCONF|NOREPLICAS|UNBLOCKED|"
    r"MOVED|ASK)\b|max number of clients"
)
#: The server will never do this for this client.
_REFUSED_ERRORS = (AuthenticationError, AuthorizationError, NoPermissionError)
_REFUSED_CODES = re.compile(
    r"\b(NOAUTH|WRONGPASS|NOPERM|NOPROTO)\b|unknown command|invalid password|AUTH"
)


def unknown_script(reply: object) -> bool:
    """Say whether the server did not know the digest, so that nothing was run."""
    return isinstance(reply, NoScriptError) or (
        isinstance(reply, ResponseError) and "NOSCRIPT" in str(reply)
    )


def error_of(reply: RedisError) -> BrokerError:
    """Return what an error reply means to a caller.

    The client turns codes it knows into classes; others, and those that Redis 6.2 wraps because
    they came from inside a script, are found in the text.
    """
    text = str(reply)
    if isinstance(reply, OutOfMemoryError) or re.search(r"\bOOM\b", text):
        return QueueFull(
            "Redis is at its memory limit (maxmemory), nothing was enqueued: let workers drain "
            "the queues, or raise maxmemory"
        )
    if isinstance(reply, _PASSING_ERRORS) or _PASSING_CODES.search(text):
        return BrokerUnavailable(f"Redis cannot do this at the moment: {text}")
    if isinstance(reply, _REFUSED_ERRORS) or _REFUSED_CODES.search(text):
        return BrokerRefused(f"Redis refuses this client: {text}; check user, password and rights")
    return BrokerError(f"Redis answered with an error: {text}")
