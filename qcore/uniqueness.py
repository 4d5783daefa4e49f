"""One job per thing: which arguments name the thing, and for how long it is the only one."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from enum import Enum
from numbers import Number
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import UUID

import msgspec

from qcore.durations import Seconds, seconds
from qcore.errors import ArgumentError, ConfigError
from qcore.model.admission import KEY_BYTES, KEY_LIMIT, UniqueKey, key_name
from qcore.model.codec import Arguments
from qcore.per_process import imported_late

if TYPE_CHECKING:
    from hashlib import blake2b

#: Windows are from a millisecond to this.
MAX_WINDOW_S = 366 * 24 * 3600.0

#: Those that are asked for most come first.
_PLAIN = (str, int, UUID, date, datetime, Number)
_NAMES_OF_PLAIN = "text, a number, a UUID, a date, or a tuple of these"


class Unique(msgspec.Struct, frozen=True):
    """At most one job per key: an enqueue while there is one brings that one.

    Args:
        key: The name of a parameter, or a tuple of names; or a function, whose parameters are named
            after those that it needs, and which returns the key: text, a number, a UUID, a date, or
            a tuple of these, 512 bytes at most. The producer calls it. Keys are compared as text,
            within one task and queue.
        until: "done": until the job has completed, died or been cancelled. "started": until a
            worker claims it, so that one may run and one wait. A timedelta: for so long from the
            enqueue on, whatever becomes of the job.
        on_conflict: "keep" the job that is there, and return its handle; "replace" its arguments
            and delay by the new ones unless it runs, so that the last request counts (one that is
            ready keeps its place in line, whatever the delay); or "raise" AlreadyEnqueued.

    Raises:
        ConfigError: another value. Names that are none of the task's parameters are refused when
            the task is registered.
    """

    key: str | tuple[str, ...] | Callable[..., Any]
    until: Literal["done", "started"] | timedelta = "done"
    on_conflict: Literal["keep", "replace", "raise"] = "keep"

    def __post_init__(self) -> None:
        """Check the values."""
        if not (callable(self.key) or names_in(self.key)):
            raise ConfigError(
                f"Unique: key is {self.key!r}, give the name of a parameter, a tuple of names, or "
                "a function of the arguments"
            )
        # a function, or an object of a class with an async __call__
        if any(map(inspect.iscoroutinefunction, (self.key, type(self.key).__call__))):
            raise ConfigError("Unique: key is an async function, give an ordinary one")
        if self.on_conflict not in ("keep", "replace", "raise"):
            raise ConfigError(
                f"Unique: on_conflict is {self.on_conflict!r}, give 'keep', 'replace' or 'raise'"
            )
        if isinstance(self.until, timedelta):
            window_ms("Unique: until", self.until, ConfigError)
        elif self.until not in ("done", "started"):
            raise ConfigError(
                f"Unique: until is {self.until!r}, give 'done', 'started' or a timedelta"
            )


class KeyMaker:
    """Makes the unique keys of one task.

    Args:
        unique: What the task was registered with.
        arguments: Its parameters.

    Raises:
        ConfigError: the key names what is no parameter.
    """

    def __init__(self, unique: Unique, arguments: Arguments) -> None:
        self._task = arguments.name
        self._arguments = arguments
        self._function = unique.key if callable(unique.key) else None
        self._names = names_in(unique.key)
        if self._function is not None:
            self._names = _names_of(self._task, self._function, arguments.names)
        for name in self._names:
            if name not in arguments.names:
                known = ", ".join(arguments.names) or "none"
                raise ConfigError(
                    f"task {self._task}: its unique key names {name!r}, which is none of its "
                    f"parameters: {known}"
                )
        until = unique.until
        is_window = isinstance(until, timedelta)
        self._until = str(window_ms("until", until, ConfigError) if is_window else until)
        self._what = f"task {self._task}: its unique key"
        self._conflict: Literal["keep", "replace"] = (
            "replace" if unique.on_conflict == "replace" else "keep"
        )

    def key_of(self, values: Any, expires_ms: int = 0) -> UniqueKey:
        """Return the key of a job with these arguments, which `Arguments.read` returned.

        Raises:
            ArgumentError: the function of the key failed, or what it is made of cannot be one.
        """
        found = tuple([self._arguments.value_in(values, name) for name in self._names])
        if self._function is None:
            value = found[0] if len(found) == 1 else found
        else:
            try:
                value = self._function(**dict(zip(self._names, found, strict=True)))
            except Exception as e:
                raise ArgumentError(
                    f"task {self._task}: the function of its unique key raised "
                    f"{type(e).__name__}: {e}"
                ) from e
        text = value_text(self._what, value)
        name = key_name("u", self._task, text)
        return UniqueKey(name, self._until, self._conflict, expires_ms=expires_ms)


def idempotency_key(task: str, value: object, ttl_ms: int, raw: bytes) -> UniqueKey:
    """Return the key of a request that may come several times within `ttl_ms`.

    Raises:
        ArgumentError: `value` cannot be a key.
    """
    text = value_text(f"task {task}: idempotency_key", value)
    return UniqueKey(key_name("i", task, text), str(ttl_ms), "repeat", _digest(raw, 8))


def value_text(what: str, value: object) -> str:
    """Return how a key is stored: `=` and its text, or `#` and the digest of a long one.

    Raises:
        ArgumentError: another type, empty, or too long; `what` is named.
    """
    try:
        text = _text(what, value)
    except ArgumentError:
        raise
    except Exception as e:
        kind = type(value).__name__
        raise ArgumentError(f"{what} of type {kind} cannot be made text: {e}") from e
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if not text:
        raise ArgumentError(f"{what} is empty, give {_NAMES_OF_PLAIN}")
    if size > KEY_LIMIT:
        raise ArgumentError(
            f"{what} has {size} bytes, allowed are {KEY_LIMIT}: give a shorter one, or its digest"
        )
    if size > KEY_BYTES or not text.isprintable():
        return "#" + _digest(text.encode("utf-8", "surrogatepass"), 16)
    return "=" + text


def window_ms(what: str, window: Seconds, error: type[Exception]) -> int:
    """Return a window in milliseconds; raise `error` where it is none."""
    window_s = seconds(what, window, error)
    if not 0.001 <= window_s <= MAX_WINDOW_S:
        raise error(f"{what} is {window_s:g} s, allowed is 0.001 s to 366 days")
    return round(window_s * 1000)


@imported_late
def _blake2b() -> "type[blake2b]":
    # with OpenSSL it takes 2 MB: `import qcore` does without
    from hashlib import blake2b

    return blake2b


@imported_late
def _dumps() -> Callable[..., str]:
    from json import dumps  # as hashlib: few tasks have such keys

    return dumps


def _digest(data: bytes, size: int) -> str:
    return _blake2b()(data, digest_size=size).hexdigest()


def _text(what: str, value: object) -> str:
    if isinstance(value, tuple):
        parts = cast("tuple[object, ...]", value)
        return _dumps()([_plain(what, part) for part in parts], ensure_ascii=False)
    return _plain(what, value)


def _plain(what: str, value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if not isinstance(value, _PLAIN):
        raise ArgumentError(f"{what} is of type {type(value).__name__}, give {_NAMES_OF_PLAIN}")
    return str.__str__(value) if isinstance(value, str) else str(value)


def names_in(key: object) -> tuple[str, ...]:
    """Return the names of parameters that a key is made of; () where it is none of these."""
    names = cast("tuple[object, ...]", key) if isinstance(key, tuple) else (key,)
    texts = tuple(name for name in names if isinstance(name, str))
    return texts if len(texts) == len(names) else ()


def _names_of(task: str, function: Callable[..., Any], known: Sequence[str]) -> tuple[str, ...]:
    """Return which parameters a function of a key asks for."""
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    except (TypeError, ValueError) as e:
        raise ConfigError(
            f"task {task}: the parameters of its unique key's function cannot be read: {e}"
        ) from e
    names, takes_all = list[str](), False
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_all = True
            continue
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise ConfigError(
                f"task {task}: parameter {parameter} of its unique key's function is not possible, "
                "name it after a parameter of the task"
            )
        if name in known or parameter.default is parameter.empty:
            names.append(name)
    # what it asks for and the task has not is told by whoever made it
    return tuple(dict.fromkeys([*names, *(known if takes_all else ())]))
