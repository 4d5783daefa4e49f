"""The scripts: file, names of KEYS, and what an error reply means."""

import hashlib
import re
from importlib.resources import files

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from qcore.broker.redis.keys import QueueKeys
from qcore.errors import BrokerError, BrokerRefused, BrokerUnavailable, QueueClosed, QueueFull
from qcore.model.reading import shown_time

_INCLUDE = re.compile(r"^-- @include (.+)$", re.MULTILINE)
#: A line of the header that names a key: `-- KEYS  active     zset  token -> ...`.
_KEY = re.compile(r"^--(?: KEYS|     )  (\w+) +(?:list|zset|hash) ", re.MULTILINE)


class Script:
    """One Lua file; called by name, sent by its digest. Its header names its KEYS, in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = _load(name)
        self.keys = tuple(_KEY.findall(self.source))
        # Redis names a script by this digest; it is no secret.
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest().encode()

    def call(self, queues: QueueKeys | list[QueueKeys], *args: object) -> "Call":
        """Return this script bound to one queue (or, for `claim`, several) and its arguments."""
        if isinstance(queues, list):
            return Call(self, [key for queue in queues for key in queue.pick(self.keys)], args)
        return Call(self, queues.pick(self.keys), args)


class Call:
    """A script with its keys and arguments, ready to be sent."""

    __slots__ = ("args", "keys", "script", "teaches")

    def __init__(self, script: Script, keys: list[bytes], args: tuple[object, ...]) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        #: It goes out by its source always: what stands behind it speaks of its writes.
        self.teaches = False

    def by_digest(self) -> tuple[object, ...]:
        """Return the command that runs a script the server knows."""
        return (b"EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def by_source(self) -> tuple[object, ...]:
        """Return the command that teaches the server the script and runs it."""
        return (b"EVAL", self.script.source, len(self.keys), *self.keys, *self.args)


def _load(name: str) -> str:
    folder = files("qcore.broker.redis") / "lua"

    def include(found: re.Match[str]) -> str:
        return "\n".join((folder / "lib" / f"{n}.lua").read_text() for n in found[1].split())

    return _INCLUDE.sub(include, (folder / f"{name}.lua").read_text())


ENQUEUE = Script("enqueue")
ADMISSION = Script("admission")
PROMOTE = Script("promote")
CLAIM = Script("claim")
RECOVER = Script("recover")
EXTEND = Script("extend")
UPDATE_RECORD = Script("update_record")
ACK = Script("ack")
SETTLE = Script("settle")
RECLAIM = Script("reclaim")
RECLAIM_OWNER = Script("reclaim_owner")
ACQUIT = Script("acquit")
CANCEL = Script("cancel")
CLEAR = Script("clear")
PAUSE = Script("pause")
CLOSE = Script("close")
RESUME = Script("resume")
REVIVE = Script("revive")
PURGE = Script("purge")
PRUNE = Script("prune")
FREE = Script("free")
FORGET = Script("forget")
FIND = Script("find")
DEPTH = Script("depth")
AUDIT = Script("audit")
JUDGE_KEYS = Script("judge_keys")
HEARTBEAT = Script("heartbeat")
RESTART = Script("restart")

SCRIPTS = (
    ENQUEUE,
    ADMISSION,
    PROMOTE,
    CLAIM,
    RECOVER,
    EXTEND,
    UPDATE_RECORD,
    ACK,
    SETTLE,
    RECLAIM,
    RECLAIM_OWNER,
    ACQUIT,
    CANCEL,
    CLEAR,
    PAUSE,
    CLOSE,
    RESUME,
    REVIVE,
    PURGE,
    PRUNE,
    FREE,
    FORGET,
    FIND,
    DEPTH,
    AUDIT,
    JUDGE_KEYS,
    HEARTBEAT,
    RESTART,
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
    r"MOVED|ASK)\b|max number of clients|WAIT cannot be used with replica"
)
#: What enqueue.lua says of a queue that takes no new jobs: since when, and one of its keys.
_CLOSED = re.compile(r"QCLOSED (\d+) \{[^:]*:([^}]*)\}")
#: What Redis adds to an error in a script: its digest, and the line.
_ORIGIN = re.compile(r" script: [0-9a-f]{40}, on @user_script:[0-9]+\.?$")
#: The server will never do this for this client.
_REFUSED_ERRORS = (AuthenticationError, AuthorizationError, NoPermissionError)
_REFUSED_CODES = re.compile(
    r"\b(NOAUTH|WRONGPASS|NOPERM|NOPROTO)\b|unknown command|invalid password|AUTH"
)


class Moved(BrokerUnavailable):
    """The slot of the keys belongs to another node of the Cluster; nothing of the call was done."""

    slot: int
    host: str
    port: int


def _moved(error: MovedError) -> Moved:
    """Read where the slot went; not in `Moved` itself, whose copies are made from its message."""
    moved = Moved(f"another node of the Cluster has these keys: MOVED {error}")
    slot, _, address = str(error).partition(" ")
    host, _, port = address.rpartition(":")
    moved.slot, moved.host, moved.port = int(slot), host, int(port)
    return moved


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
    text = _ORIGIN.sub("", str(reply)).rstrip(". ")
    if closed := _CLOSED.search(text):
        return QueueClosed(
            f"queue {closed[2]} is closed since {shown_time(int(closed[1]))}, nothing was "
            f"enqueued: try again when it is open; `qcore resume {closed[2]}` opens it"
        )
    if isinstance(reply, OutOfMemoryError) or re.search(r"\bOOM\b", text):
        return QueueFull(
            "Redis is at its memory limit (maxmemory), nothing was enqueued: let workers drain "
            "the queues, or raise maxmemory"
        )
    if isinstance(reply, MovedError):
        return _moved(reply)
    # a script is unknown still where the call that was to teach it was refused
    if isinstance(reply, _PASSING_ERRORS) or unknown_script(reply) or _PASSING_CODES.search(text):
        remedy = "; give the address of its master" if "read only replica" in text else ""
        return BrokerUnavailable(f"Redis cannot do this at the moment: {text}{remedy}")
    if isinstance(reply, _REFUSED_ERRORS) or _REFUSED_CODES.search(text):
        return BrokerRefused(f"Redis refuses this client: {text}; check user, password and rights")
    return BrokerError(f"Redis answered with an error: {text}")
