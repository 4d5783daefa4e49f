"""What Redis says of one job, as operators read it."""

from typing import Any

from qcore.broker.redis.unique_keys import key_held
from qcore.errors import CodecError
from qcore.model.codec import decode_envelope, decode_outcome, decode_state, decode_trace
from qcore.model.job import JobStatus
from qcore.model.reading import losses_of, moment_ms, stamp_ms, text_of
from qcore.model.reasons import last_reason
from qcore.model.views import JobRecord


def record_of(queue: str, id: str, reply: list[Any]) -> JobRecord | None:
    """Return what a reply of find.lua says of a job; None when there is no trace of it."""
    where, payload, raw_state, raw_crashes, at, token, holds, key = reply
    unique = key_held(holds, key)
    if where == b"done":
        # a trace has no time in front
        keep_ms, _, raw = payload.partition(b" ")
        expired = not keep_ms.isdigit()
        outcome = decode_trace(payload) if expired else decode_outcome(raw)
        return JobRecord(
            id=id,
            queue=queue,
            status=JobStatus(outcome.status),
            reason=outcome.reason or None,
            result=None if expired else outcome.result,
            expired=expired,
            unique=unique,
        )
    if where == b"":
        return None
    state = decode_state(raw_state)
    crashes, crashed_ms = losses_of(raw_crashes)
    task, arguments = _arguments(payload)
    status = JobStatus(where.decode())
    at_ms = moment_ms(at)
    reason = None
    if status is JobStatus.DEAD:
        # the script that buries a job for its crashes writes both times in one moment
        reason = _crashed(crashes) if at_ms == crashed_ms else last_reason(state.errors)
    elif status is not JobStatus.ACTIVE and state.is_parked:
        reason = f"parked: {state.errors[-1].text}"
    return JobRecord(
        id=id,
        queue=queue,
        status=status,
        task=task,
        enqueued_ms=stamp_ms(payload),
        at_ms=at_ms,
        attempts=state.failures,
        crashes=crashes,
        reason=reason,
        deaths=state.deaths,
        errors=state.errors,
        token=None if token is None else text_of(token),
        payload=arguments,
        unique=unique,
    )


def _arguments(payload: bytes | None) -> tuple[str | None, bytes | None]:
    if payload is None:
        return None, None
    try:
        envelope = decode_envelope(payload[8:])
    except CodecError:
        return None, payload[8:]
    return envelope.task, bytes(envelope.args)


def _crashed(crashes: int) -> str:
    return f"its lease was lost {crashes} times: each worker that ran it died or stopped renewing"
