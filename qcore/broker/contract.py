"""What an engine does, and the values that go in and come out.

    enqueue         -         -> ready, scheduled          producer
    promote         scheduled -> ready                     claim, maintenance
    claim           ready     -> active                    worker
    recover         active    -> active                    worker, after a lost claim reply
    extend          active    -> active                    leases
    update_records  active    -> active                    worker, before an at-most-once run
    settle          active    -> completed, scheduled, dead, ready, cancelled
    reclaim         active    -> ready, scheduled, dead, cancelled    maintenance
    reclaim_owner   active    -> ready, scheduled, dead, cancelled    supervisor
    acquit          none: a crash is taken back            supervisor
    prune           completed, cancelled -> -              maintenance

What users and operators do:

    cancel          scheduled -> cancelled; ready, active: a request, obeyed by the next step
    clear           ready, scheduled -> cancelled
    revive          dead      -> ready, with their unique keys
    free            none: a unique key is held no more
    purge           dead      -> -
    forget          removes the keys of a queue that is empty and unused
    pause, close    nothing of a queue is claimed, or nothing new is taken, until `resume`

What changes nothing, and is asked for by users, operators and supervisors:

    ended           waits until a job has ended                       handle
    job, dead       what is known of one job, of those that are dead  `JobRecord`
    names, queues   which queues there are, and how full they are     `QueueStats`
    keys            which unique keys are held, and by whom           `UniqueKeyView`
    members         which supervisors are alive, and what they run    `Member`
    beat, restart   a supervisor says that it lives, and hears orders  `Contact`, `Order`

An engine may offer more, and users ask for it by name: examining the server, the audit of all keys
and the check for lost data know Redis and nothing else.

Each is atomic: a fault finds a job before it or after it. A transition of a worker names the token
of its lease, and does nothing once that is somebody else's; so it may be repeated, but for a claim.
Times are those of the engine's clock, never of a worker's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from qcore.errors import BrokerError, BrokerUnavailable
from qcore.model.job import Lease, Reclaimed

#: Jobs and payload bytes in one call: what Redis does without others noticing.
CALL_JOBS = 500
CALL_BYTES = 1024 * 1024
#: Due jobs promoted, outcomes pruned and expired leases reclaimed in one call.
CHORE_LIMIT = 200


@dataclass(slots=True)
class Turn:
    """What one settle-and-claim call brought."""

    leases: list[Lease] = field(default_factory=list[Lease])
    #: Loop time from which on the leases were given: when the call that brought them was sent.
    sent_at: float = 0.0
    #: Tokens among the settled that were no longer held.
    lost: set[bytes] = field(default_factory=set[bytes])
    #: Milliseconds until a claim can bring more; 0: more is ready; None: nothing in sight.
    again_ms: int | None = None
    #: Quarantined jobs that are ready.
    quarantined: int = 0
    #: A claim was part of it.
    claimed: bool = False
    #: The claim is yet to be made, for what came first.
    postponed: bool = False
    #: Queues of which a settle or the claim failed. With `sent` it may have taken effect.
    unsettled: dict[str, BrokerError] = field(default_factory=dict[str, BrokerError])
    unclaimed: dict[str, BrokerError] = field(default_factory=dict[str, BrokerError])
    #: Queues that cannot be claimed from, and why: one of their keys is of another type.
    unreadable: dict[str, str] = field(default_factory=dict[str, str])
    #: Queues of which some call took effect.
    answered: set[str] = field(default_factory=set[str])

    def payload_bytes(self) -> int:
        """Return the size of what was claimed."""
        return sum(len(lease.envelope or b"") for lease in self.leases)

    def raise_if_nothing_worked(self) -> None:
        """Raise the first error if there are only errors; `sent` if any may have taken effect."""
        errors = [*self.unsettled.values(), *self.unclaimed.values()]
        if errors and not self.answered:
            raise worst_of(None, *errors)


@dataclass(slots=True, frozen=True)
class ClaimRequest:
    """What a worker asks for: at most `limit` jobs (1 to 500), under tokens with its prefix."""

    queues: Sequence[str]
    limit: int
    lease_ms: int
    #: `owner:seq:`, never used before.
    prefix: str
    #: At most so many jobs of each queue, 1 and more; by default `limit` of each.
    limits: Sequence[int] = ()
    #: Claim jobs that have lost two leases, and no others; else none of these.
    quarantined: bool = False
    #: Nothing runs there, so that it may be one that has to be alone.
    idle: bool = True
    #: Payload in one reply; one job always fits.
    max_bytes: int = CALL_BYTES


class Pruned(NamedTuple):
    """What one call of prune.lua did."""

    #: Outcomes and traces whose time was over.
    over: int
    #: Where the next call goes on among the producers.
    cursor: int
    #: There is more to forget, so call at once.
    more: bool


@dataclass(slots=True, frozen=True)
class Swept:
    """What a sweep took, by queue; those that could not be asked are missing."""

    #: When Redis answered, on its clock.
    now_ms: int
    taken: dict[str, list[Reclaimed]]


class Revived(list[str]):
    """The ids of the jobs that were revived."""

    def __init__(self) -> None:
        super().__init__()
        #: Those that stay dead: the id of each, and of the job that holds its unique key.
        self.held: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Order:
    """A restart that somebody ordered; an empty host or queue means all."""

    host: str
    queue: str
    generation: int
    #: They are to end after a drain.
    leave: bool

    def concerns(self, host: str, queues: Iterable[str]) -> bool:
        """Whether a supervisor of that host, which serves these queues, is meant."""
        return self.host in ("", host) and (not self.queue or self.queue in queues)


@dataclass(frozen=True, slots=True)
class Contact:
    """What a heartbeat brought."""

    #: Unix ms on the Redis clock.
    now_ms: int
    orders: tuple[Order, ...]


def worst_of(*errors: BrokerError | None) -> BrokerError:
    """Return the first error of all; but the first that may have taken effect, if there is one."""
    found = [error for error in errors if error is not None]
    sent = (e for e in found if isinstance(e, BrokerUnavailable) and e.sent)
    return next(sent, found[0])
