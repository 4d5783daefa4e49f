"""What all producers share: the call that enqueues, and what its reply and its failures mean."""

from collections.abc import Sequence

from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.scripts import ENQUEUE, Call
from qcore.errors import BrokerError, BrokerUnavailable, PayloadTooLarge
from qcore.model.job import Job

#: The name of a queue is told again after so long: a queue may be forgotten, no sooner than an hour
#: after its last enqueue.
TOLD_S = 1800.0


def check_payloads(jobs: Sequence[Job], limit: int) -> None:
    """Raise PayloadTooLarge if the arguments of a job take more than `limit` bytes."""
    for job in jobs:
        if len(job.envelope) > limit:
            raise PayloadTooLarge(
                f"queue {job.queue}: the arguments of job {job.id} take {len(job.envelope)} "
                f"bytes, the limit is {limit}: store the data elsewhere and pass its name"
            )


def enqueue_call(keys: QueueKeys, nonce: str, number: int, jobs: Sequence[Job]) -> Call:
    """Return the script that enqueues `jobs`, as call `number` of the producer `nonce`."""
    items: list[object] = []
    for job in jobs:
        items += (job.id, _when(job), job.envelope)
    return ENQUEUE.call(keys, b"", nonce, number, *items)


def _when(job: Job) -> str:
    if job.delay_ms is not None:
        return f"+{job.delay_ms}"
    return "" if job.eta_ms is None else f"@{job.eta_ms}"


def known_of(queue: str, jobs: Sequence[Job], reply: list[bytes | list[bytes]]) -> list[bytes]:
    """Return which ids of the jobs were there already; a reply speaks of others of its call too.

    Raises:
        BrokerError: other jobs have some of the ids of `jobs`.
    """
    if reply == []:
        return []
    ids = {job.id for job in jobs}
    try:
        if not isinstance(reply, list):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError
        taken = {id[0].decode() for id in reply if isinstance(id, list)}
        known = [id for id in reply if isinstance(id, bytes) and id.decode() in ids]
    except (TypeError, ValueError, LookupError, AttributeError) as e:
        why = f"Redis answered an enqueue with what no script of qcore says: {reply!r:.200}"
        raise BrokerUnavailable(why, sent=True) from e
    if own := sorted(taken & ids):
        raise _taken(queue, jobs, own)
    return known


def _taken(queue: str, jobs: Sequence[Job], ids: list[str]) -> BrokerError:
    why = "another job has this id; enqueue it again"
    if len(ids) > 1:
        why = "other jobs have these ids; enqueue them again"
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    left = len(jobs) - len(ids)
    rest = f"; the rest of the call, {left} of {len(jobs)}, is enqueued" if left else ""
    return BrokerError(f"queue {queue}: {', '.join(ids[:3])}{more} not enqueued: {why}{rest}")


def named(jobs: Sequence[Job]) -> str:
    """Return what errors call these jobs."""
    return jobs[0].id if len(jobs) == 1 else f"{len(jobs)} jobs"


def gave_up(
    queue: str, jobs: Sequence[Job], failure: object, *, unknown: bool
) -> BrokerUnavailable:
    """Return what a producer hears whose time is over; `unknown`: some try was not answered."""
    outcome = "may have been enqueued" if unknown else "not enqueued"
    return BrokerUnavailable(f"queue {queue}: {named(jobs)} {outcome}: {failure}", sent=unknown)
