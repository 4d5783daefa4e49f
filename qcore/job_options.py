"""What a task was registered with, and what a dispatch asks for on top."""

import math
import re
import time
from datetime import UTC, datetime

import msgspec

from qcore.durations import Seconds, seconds
from qcore.errors import ArgumentError
from qcore.model.callee import RunIn
from qcore.model.retry import Retry
from qcore.settings import KEEP_S, check_type
from qcore.uniqueness import Unique, value_text, window_ms

#: An id of a user's own: part of a reference, of a token, and of a line of words.
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a task was registered with."""

    name: str
    queue: str
    retry: Retry
    run_in: RunIn
    #: Seconds until the soft timeout; None: no limit.
    timeout_s: float | None = None
    #: Seconds until the process of a run that did not stop is killed; None: no limit.
    kill_timeout_s: float | None = None
    #: Seconds to keep the outcome; None: 24 h, and only of results that are not None.
    keep_s: float | None = None
    #: Milliseconds after its enqueue from which on no run of a job may start; -1: never.
    expires_ms: int = -1
    #: Two runs of one job never overlap while the lease of the first is trusted.
    exclusive: bool = False
    #: A run that was begun is never begun again.
    at_most_once: bool = False
    #: At most one job per key.
    unique: Unique | None = None

    @property
    def grace_s(self) -> float:
        """Seconds that a run has to end when it was stopped at its timeout."""
        return (self.kill_timeout_s or 0.0) - (self.timeout_s or 0.0)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What one dispatch asks for, on top of the task's settings."""

    delay_ms: int | None = None
    eta_ms: int | None = None
    queue: str | None = None
    keep_ms: int = -1
    expires_ms: int = -1
    #: Replicas that must have the job before `enqueue` returns.
    confirm: int = 0
    #: An id of the user's own.
    id: str | None = None
    #: What names this request, however often it comes within the time.
    idempotency_key: object = None
    idempotency_ttl_ms: int = 0


def options_of(  # noqa: PLR0913 - each is an option of a dispatch
    settings: Settings,
    *,
    delay: Seconds | None,
    eta: datetime | None,
    queue: str | None,
    keep: Seconds | None,
    expires: Seconds | None,
    confirm: int,
    id: str | None,
    idempotency_key: object,
    idempotency_ttl: Seconds,
) -> Options:
    """Return what `Task.options` was given.

    Raises:
        ArgumentError: a value that is none, or two that exclude each other.
    """
    what = f"task {settings.name}:"
    if delay is not None and eta is not None:
        raise ArgumentError(f"{what} give delay or eta, not both")
    if eta is not None:
        check_type(f"{what} eta", eta, datetime, "an aware datetime", ArgumentError)
        if eta.tzinfo is None:
            raise ArgumentError(f"{what} eta {eta} has no time zone, use datetime.UTC")
    check_type(f"{what} confirm", confirm, int, "a whole number", ArgumentError)
    if confirm < 0:
        raise ArgumentError(f"{what} confirm is {confirm}, allowed is 0 and more")
    options = Options(
        delay_ms=None if delay is None else _ms(f"{what} delay", delay),
        eta_ms=None if eta is None else int(eta.astimezone(UTC).timestamp() * 1000),
        queue=queue,
        keep_ms=-1 if keep is None else _ms(f"{what} keep", keep),
        expires_ms=-1 if expires is None else _ms(f"{what} expires", expires),
        confirm=confirm,
        id=None if id is None else _checked_id(what, id),
    )
    if options.expires_ms == 0:
        raise ArgumentError(f"{what} expires is {expires}, allowed is more than 0")
    if eta is None:  # which may be far away now, and near when the job is enqueued
        expires_ms_of(settings, options)
    if idempotency_key is None:
        return options
    return _with_key(settings, options, idempotency_key, idempotency_ttl)


def _checked_id(what: str, id: str) -> str:
    check_type(f"{what} id", id, str, "text", ArgumentError)
    if not _ID.fullmatch(id):
        raise ArgumentError(
            f"{what} id {id[:140]!r} is none: use 1 to 128 of letters, digits, '_', '.', ':', '-'"
        )
    return str.__str__(id)


def _with_key(settings: Settings, options: Options, key: object, ttl: Seconds) -> Options:
    what = f"task {settings.name}:"
    if settings.unique is not None:
        raise ArgumentError(
            f"{what} it is unique by its arguments already, and a job has one key: give no "
            "idempotency_key"
        )
    value_text(f"{what} idempotency_key", key)
    ttl_ms = window_ms(f"{what} idempotency_ttl", ttl, ArgumentError)
    own_s = KEEP_S if settings.keep_s is None else settings.keep_s
    kept_ms = round(own_s * 1000) if options.keep_ms < 0 else options.keep_ms
    return msgspec.structs.replace(
        options,
        idempotency_key=key,
        idempotency_ttl_ms=ttl_ms,
        # of a None too: every repeat hears the outcome
        keep_ms=max(kept_ms, ttl_ms),
    )


def _ms(what: str, value: Seconds) -> int:
    value_s = seconds(what, value, ArgumentError)
    if not 0 <= value_s < math.inf:
        raise ArgumentError(f"{what} is {value}, allowed is 0 and more")
    return round(value_s * 1000)


def expires_ms_of(settings: Settings, options: Options) -> int:
    """Return in how many ms a job expires, -1 for never.

    Raises:
        ArgumentError: it becomes ready too late for that. The time until an `eta` is counted on
            this machine's clock.
    """
    expires_ms = settings.expires_ms if options.expires_ms < 0 else options.expires_ms
    if expires_ms < 0:
        return -1
    wait_ms = options.delay_ms or 0
    if options.eta_ms is not None:
        wait_ms = options.eta_ms - time.time_ns() // 1_000_000
    if expires_ms <= wait_ms:
        raise ArgumentError(
            f"task {settings.name}: the job would be ready {wait_ms / 1000:g} s after its enqueue "
            f"and expire after {expires_ms / 1000:g} s, so it could never start: give it a longer "
            "expires, or less delay"
        )
    return expires_ms
