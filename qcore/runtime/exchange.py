"""What a worker and its broker owe each other: outcomes not yet told, claims not yet answered."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from qcore.broker.broker import Broker
from qcore.broker.coalescer import CALL_JOBS
from qcore.broker.wire import ClaimRequest, Turn
from qcore.config import WorkerConfig
from qcore.errors import BrokerUnavailable
from qcore.model.job import Lease, Outcome
from qcore.runtime.slots import Room

log = structlog.get_logger()

#: A claim whose reply was lost may still have been on its way when it was first looked for.
_SECOND_LOOK_S = 1.0


@dataclass(slots=True)
class _LostClaim:
    prefix: str
    #: Loop time before which there is no use in looking.
    look_at: float
    #: What the first look found: it runs, or has run. None before the first look.
    found: frozenset[bytes] | None = None


class Exchange:
    """One settle-and-claim call at a time; what a failed call leaves open is cleared up next.

    `wake` is called when a lost claim is to be looked for once more.

    A settle that was sent and not answered is sent again: its token makes it count once. A claim
    that was sent and not answered is never sent again: what it took is asked for by its prefix.
    """

    def __init__(
        self, broker: Broker, config: WorkerConfig, owner: str, *, wake: Callable[[], None]
    ) -> None:
        self._broker = broker
        self._wake = wake
        self._config = config
        self._owner = owner
        self._claims = 0
        self._ended: list[tuple[Lease, Outcome]] = []
        self._sending: list[tuple[Lease, Outcome]] = []
        self._unconfirmed: set[bytes] = set()
        self._lost_claims: list[_LostClaim] = []
        #: Leases of lost claims, not handed out yet.
        self._found: list[Lease] = []
        #: Outcomes that Redis has accepted.
        self.settled = 0

    def add(self, lease: Lease, outcome: Outcome) -> None:
        """Keep an outcome for the next call."""
        self._ended.append((lease, outcome))

    @property
    def is_owing(self) -> bool:
        """Whether an outcome or a lost claim waits for the next call."""
        return bool(self._ended or self._found or self._due_claims())

    @property
    def is_clear(self) -> bool:
        """Whether nothing is owed, now or at the second look for a lost claim."""
        return not (self._ended or self._found or self._lost_claims)

    @property
    def owed(self) -> int:
        """How many outcomes Redis has not confirmed."""
        return len(self._ended) + len(self._sending)

    def leases(self) -> list[Lease]:
        """Return the leases that are held for no running job: their outcome is not confirmed."""
        return [*self._found, *(lease for lease, _ in (*self._sending, *self._ended))]

    async def take(self, room: Room | None) -> Turn:
        """Settle what has ended and claim what there is room for; find what lost claims took.

        Raises:
            BrokerError: nothing is known of this call; the next one makes up for it.
        """
        await self._recover()
        # what was found fills slots that nobody counted; the next turn can claim
        claim = None if self._found or room is None else self._claim(room)
        turn = Turn()
        if self._ended or claim is not None:
            turn = await self._send(claim)
        turn.leases += self._found
        self._found = []
        return turn

    def _claim(self, room: Room) -> ClaimRequest:
        self._claims += 1
        return ClaimRequest(
            tuple(room.queues),
            min(room.jobs, CALL_JOBS),
            round(self._config.lease_s * 1000),
            f"{self._owner}:{self._claims}:",
            tuple(room.queues.values()),
            room.suspects,
        )

    async def _send(self, claim: ClaimRequest | None) -> Turn:
        self._sending, self._ended = self._ended, []
        try:
            turn = await self._broker.turn(self._sending, claim)
        except BaseException as e:
            if not isinstance(e, BrokerUnavailable) or e.sent:
                self._unconfirmed.update(lease.token for lease, _ in self._sending)
                if claim is not None:
                    now = asyncio.get_running_loop().time()
                    self._lost_claims.append(_LostClaim(claim.prefix, now))
            self._ended = self._sending + self._ended
            self._sending = []
            raise
        self._confirm(turn)
        return turn

    def _confirm(self, turn: Turn) -> None:
        """Tell an outcome that came too late from one that was accepted before, unheard."""
        again = turn.lost & self._unconfirmed
        if again:
            log.info("settle.unconfirmed", jobs=len(again))
        for lease, _ in self._sending if turn.lost else ():
            if lease.token in turn.lost and lease.token not in again:
                log.warning("lease.lost", job=lease.id, queue=lease.queue)
        if self._unconfirmed:
            self._unconfirmed.difference_update(lease.token for lease, _ in self._sending)
        self.settled += len(self._sending) - len(turn.lost - again)
        self._sending = []

    def _due_claims(self) -> list[_LostClaim]:
        now = asyncio.get_running_loop().time()
        return [claim for claim in self._lost_claims if claim.look_at <= now]

    async def _recover(self) -> None:
        """Find what lost claims took: at once, and once more a second later."""
        loop = asyncio.get_running_loop()
        for claim in self._due_claims():
            lease_ms = round(self._config.lease_s * 1000)
            leases = await self._broker.recover(self._config.queues, claim.prefix, lease_ms)
            self._lost_claims.remove(claim)
            new = [lease for lease in leases if lease.token not in (claim.found or ())]
            for lease in new:
                log.info("job.recovered", job=lease.id, queue=lease.queue)
            self._found += new
            if claim.found is None:
                found = frozenset(lease.token for lease in new)
                again = _LostClaim(claim.prefix, loop.time() + _SECOND_LOOK_S, found)
                self._lost_claims.append(again)
                loop.call_later(_SECOND_LOOK_S, self._wake)
