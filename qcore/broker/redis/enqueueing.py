"""What all producers share: the call that enqueues, and what its reply and its failures mean."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.scripts import ADMISSION, ENQUEUE, Call
from qcore.errors import BrokerError, BrokerUnavailable, PayloadTooLarge, QueueFull
from qcore.model.admission import Admission, Terms
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


def enqueue_call(
    keys: QueueKeys, nonce: str, number: int, parcels: Sequence[Sequence[Job]], max_jobs: int = 0
) -> Call:
    """Return the script that enqueues `parcels`, as call `number` of the producer `nonce`.

    Where at most `max_jobs` may wait, each parcel is accepted as a whole or not at all; 0: any
    number.
    """
    items, depends = list[object](), max_jobs > 0
    for jobs in parcels:
        for job in jobs:
            when = _when(job)
            if job.terms is not None:
                depends = True
                when = f"{when} {_words(job.terms)}"
            items += (job.id, when, job.envelope)
    if not depends:
        return ENQUEUE.call(keys, b"", nonce, number, *items)
    sizes = " ".join([str(len(jobs)) for jobs in parcels])
    return ADMISSION.call(keys, b"", nonce, f"{number} {max_jobs} {sizes}", *items)


def _when(job: Job) -> str:
    if job.delay_ms is not None:
        return f"+{job.delay_ms}"
    return "" if job.eta_ms is None else f"@{job.eta_ms}"


def _words(terms: Terms) -> str:
    own, key = "1" if terms.own_id else "0", terms.key
    if key is None:
        return f"{own} - - - 0 "
    return f"{own} {key.until} {key.conflict} {key.digest} {key.expires_ms} {key.name}"


def admissions_in(reply: Any) -> dict[str, Admission]:
    """Read what a call answered: what became of jobs that were not created, by their ids.

    Raises:
        BrokerUnavailable: no script of qcore says that.
    """
    try:
        if not isinstance(reply, list):
            raise TypeError
        found = (_admission(words) for words in cast("list[Any]", reply))
        return {admission.id: admission for admission in found}
    except (TypeError, ValueError, LookupError, AttributeError) as e:
        why = f"Redis answered an enqueue with what no script of qcore says: {reply!r:.200}"
        raise BrokerUnavailable(why, sent=True) from e


def _admission(words: bytes | list[bytes]) -> Admission:
    if isinstance(words, bytes):
        id = words.decode()
        return Admission(id, "known", id)
    id, how, job, first_ms, count, digest, *_ = (*words, *_NOTHING[len(words) :])
    return Admission(
        id.decode(), how.decode(), job.decode(), int(first_ms), int(count), digest.decode()
    )


#: What stands for the words that an answer leaves out.
_NOTHING = (b"", b"taken", b"", b"0", b"0", b"-")


def admissions_of(
    queue: str, jobs: Sequence[Job], answered: Mapping[str, Admission], max_jobs: int = 0
) -> list[Admission]:
    """Return what became of those of `jobs` that were not created; its call may have had others.

    Raises:
        QueueFull: none of them fitted into `max_jobs`.
        BrokerError: other jobs have some of the ids of `jobs`.
    """
    own = [answered[job.id] for job in jobs if job.id in answered]
    if own and own[0].how == "full":
        raise QueueFull(
            f"queue {queue} has {own[0].job} waiting jobs of at most {max_jobs}: {named(jobs)} not "
            "enqueued; let workers drain it, or raise its max_jobs"
        )
    if taken := [admission.id for admission in own if admission.how == "taken"]:
        raise _taken(queue, jobs, taken)
    return own


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
