"""The jobs of a task: what their producer sends, and what it knows of them then."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from qcore.broker.identity import new_id
from qcore.errors import ArgumentError
from qcore.handle import Accepted
from qcore.job_options import Options, Settings, expires_ms_of
from qcore.model.admission import Terms
from qcore.model.codec import ENVELOPE_VERSION, Arguments, encode
from qcore.model.job import Envelope, Job
from qcore.settings import KEEP_S
from qcore.uniqueness import KeyMaker, idempotency_key


class JobMaker:
    """Makes the jobs of one task that are enqueued with the same options."""

    def __init__(
        self,
        settings: Settings,
        arguments: Arguments,
        keys: KeyMaker | None,
        options: Options,
        *,
        returns_a_value: bool,
    ) -> None:
        self._settings = settings
        self._arguments = arguments
        self._keys = keys
        self._options = options
        self._returns_a_value = returns_a_value

    def job(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Job:
        """Return a job of one call.

        Raises:
            ArgumentError: the arguments do not fit, or make no key.
        """
        settings, options = self._settings, self._options
        raw, values = self._arguments.read(args, kwargs)
        expires_ms = expires_ms_of(settings, options)
        envelope = Envelope(
            ENVELOPE_VERSION,
            settings.name,
            msgspec.Raw(raw),
            options.keep_ms,
            expires_ms,
        )
        return Job(
            options.id or new_id(),
            options.queue or settings.queue,
            encode(envelope),
            options.delay_ms,
            options.eta_ms,
            self._terms(raw, values, max(0, expires_ms)),
        )

    def _terms(self, raw: bytes, values: Any, expires_ms: int) -> Terms | None:
        """Return what a job with these arguments depends on; None: on nothing, as most."""
        options, keys = self._options, self._keys
        if keys is None and options.id is None and options.idempotency_key is None:
            return None
        key = None if keys is None else keys.key_of(values, expires_ms)
        if options.idempotency_key is not None:
            name, ttl_ms = self._settings.name, options.idempotency_ttl_ms
            key = idempotency_key(name, options.idempotency_key, ttl_ms, raw)
        return Terms(own_id=options.id is not None, key=key)

    def job_of_item(self, number: int, call: tuple[Any, ...] | Mapping[str, Any]) -> Job:
        """Return a job of the item of that number; errors name it."""
        try:
            if isinstance(call, tuple):
                return self.job(call, {})
            if isinstance(call, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
                return self.job((), call)
        except ArgumentError as e:
            raise ArgumentError(f"item {number}: {e}") from e
        # a bare value is the mistake to expect here, whatever the annotation says
        raise ArgumentError(
            f"item {number} has the type {type(call).__name__}: give a tuple of positional "
            "arguments, as in (42,), or a mapping of named ones"
        )

    def accepted(self, delay_ms: int | None, eta_ms: int | None, since: float) -> Accepted:
        """Return what the producer of such a job knows that was accepted at `since`."""
        keep_s = self._options.keep_ms / 1000
        if keep_s < 0:
            keep_s = KEEP_S if self._settings.keep_s is None else self._settings.keep_s
        begins = since + (delay_ms or 0) / 1000
        if eta_ms is not None:
            wait_s = eta_ms / 1000 - datetime.now(UTC).timestamp()
            begins = max(since, time.monotonic() + wait_s)
        explicit = self._options.keep_ms >= 0 or self._settings.keep_s is not None
        keeps_all = keep_s > 0 and (explicit or self._returns_a_value)
        return Accepted(keep_s, begins + keep_s, since, keeps_all=keeps_all)
