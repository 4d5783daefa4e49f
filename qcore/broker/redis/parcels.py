"""The jobs of one caller on their way to Redis, and how they end there."""

import asyncio
import copy
from dataclasses import dataclass
from typing import Any

from qcore.broker.redis.enqueueing import admissions_in, gave_up, named
from qcore.broker.redis.keys import QueueKeys
from qcore.errors import BrokerError, BrokerRefused, BrokerUnavailable, NotConfirmed, QueueFull
from qcore.model.admission import Admission
from qcore.model.job import Job


@dataclass(slots=True, eq=False)
class Parcel:
    """Jobs of one caller for one queue; they are accepted or refused together."""

    keys: QueueKeys
    jobs: list[Job]
    size: int
    deadline: float
    done: "asyncio.Future[list[Admission]]"
    #: What the first answer said of jobs that were there already; a repeat does not know it.
    known: list[Admission] | None = None
    #: A try was sent whose answer never came.
    unknown: bool = False
    #: Why it did not fit when it was last tried; it waits until it does. None: it was not tried.
    full: QueueFull | None = None
    #: That was in the last call.
    is_refused: bool = False

    @property
    def own_id(self) -> str | None:
        """The id that its caller gave; only one job has one."""
        terms = self.jobs[0].terms
        return self.jobs[0].id if terms is not None and terms.own_id else None

    @property
    def may_join(self) -> bool:
        """Whether jobs that are there may stand for its own."""
        return any(job.terms is not None for job in self.jobs)


#: What one script takes: the parcels of each queue, by its name.
Groups = dict[str, list[Parcel]]


def by_queue(batch: list[Parcel]) -> Groups:
    """Group parcels by the queue that they are for."""
    groups: Groups = {}
    for parcel in batch:
        groups.setdefault(parcel.keys.queue, []).append(parcel)
    return groups


def read(reply: Any) -> dict[str, Admission] | Exception:
    """Return what a reply says of the jobs of its call, or why it says nothing."""
    if isinstance(reply, Exception):
        return reply
    try:
        return admissions_in(reply)
    except BrokerUnavailable as e:
        return e


def conclude(parcel: Parcel, end: list[Admission] | Exception) -> None:
    """Tell the caller of a parcel its end, unless it was cancelled or has heard one."""
    if parcel.done.done():  # its caller was cancelled
        return
    if isinstance(end, Exception):
        end = copy.copy(end)  # each caller adds its own notes
        if isinstance(end, BrokerRefused):  # perhaps only the repeat
            end.sent = end.sent or parcel.unknown
        parcel.done.set_exception(end)
    else:
        parcel.done.set_result(end)


def cut_off(parcel: Parcel, *, sent: bool) -> BrokerUnavailable:
    """Return what the caller of a call hears that was cut off; `sent`: it may have been made."""
    return gave_up(parcel.keys.queue, parcel.jobs, "the call was cut off", unknown=sent)


def unconfirmed(parcel: Parcel, why: str) -> NotConfirmed:
    """Return what the caller hears where too few replicas have its jobs."""
    return NotConfirmed(
        f"queue {parcel.keys.queue}: {named(parcel.jobs)} enqueued, but {why}; it is lost if the "
        "master fails before one has it, so do not enqueue it again while it is there"
    )


def kept_waiting(parcel: Parcel) -> QueueFull:
    """Return what the caller hears whose jobs were not tried in time."""
    return QueueFull(
        f"queue {parcel.keys.queue} is full, and others wait for room in it: "
        f"{named(parcel.jobs)} not enqueued; let workers drain it, or raise its max_jobs"
    )


def is_left(parcel: Parcel, now: float, failure: BrokerError) -> bool:
    """Whether a parcel goes on in the repeat of its call; one whose time is over is given up."""
    if parcel.done.done() or parcel.is_refused:
        return False
    if now < parcel.deadline:
        return True
    queue, jobs = parcel.keys.queue, parcel.jobs
    parcel.done.set_exception(gave_up(queue, jobs, failure, unknown=parcel.unknown))
    return False
