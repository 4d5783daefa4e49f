"""Settles, claims, waits for work; after a lost reply it settles again and recovers the claim."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from qcore.broker.backoff import Backoff
from qcore.broker.contract import CALL_BYTES, CALL_JOBS, ClaimRequest, Turn
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.call_limits import CallSize
from qcore.broker.redis.claiming_wait import Woken
from qcore.broker.redis.script_codec import leading
from qcore.errors import BrokerError, BrokerUnavailable
from qcore.model.job import ACKED, Acked, Buried, Lease, Outcome, Released, Retried
from qcore.runtime.worker.capacity import ClaimBudget
from qcore.runtime.worker.queue_order import QueueOrder
from qcore.settings import WorkerConfig
from qcore.telemetry import log

#: A claim whose reply was lost may still have been on its way when it was first looked for.
_SECOND_LOOK_S = 1.0
#: Timers of uvloop have whole milliseconds: one that comes early would find nothing due.
_TIMER_S = 0.002


@dataclass(slots=True)
class _LostClaim:
    prefix: str
    queues: Sequence[str]
    #: Loop time before which there is no use in looking.
    look_at: float
    #: Loop time until which the server may still make it, behind a wait that it has not given up.
    until: float = 0.0
    #: What the first look found: it runs, or has run. None before the first look.
    found: frozenset[bytes] | None = None
    #: What it took did not arrive at the first look either: it is given back.
    too_large: bool = False


@dataclass(slots=True)
class _Away:
    """A queue whose node does not answer, while those of other queues do."""

    since: float
    backoff: Backoff
    #: Loop time of the next try.
    until: float = 0.0


class Session:
    """One settle-and-claim call at a time; what a failed call leaves open is cleared up next.

    `wake` is called when a lost claim is to be looked for once more, or an absent queue to be
    tried again.

    A settle that was sent and not answered is sent again: its token makes it count once. A claim
    that was sent and not answered is never sent again: what it took is asked for by its prefix.

    In a Cluster the node of one queue may fail alone. That queue rests for a while, with its
    outcomes and its lost claims; the others go on.
    """

    def __init__(
        self, broker: Broker, config: WorkerConfig, owner: str, *, wake: Callable[[], None]
    ) -> None:
        self._broker = broker
        self._wake = wake
        self._config = config
        self._owner = owner
        self._order = QueueOrder(config.queues, config.weights)
        self._claims = 0
        self._ended: list[tuple[Lease, Outcome]] = []
        self._sending: list[tuple[Lease, Outcome]] = []
        self._unconfirmed: set[bytes] = set()
        self._lost_claims: list[_LostClaim] = []
        #: Leases of lost claims, not handed out yet.
        self._found: list[Lease] = []
        #: Loop time at which they were first asked for; they may be handed out much later.
        self._found_at = 0.0
        self._away: dict[str, _Away] = {}
        #: Of outcomes, and of payloads.
        self._size = CallSize(broker.config.call_timeout_s, CALL_BYTES)
        #: Queues with a key of another type, and said to have.
        self._unreadable: set[str] = set()
        #: Outcomes that Redis has accepted, and how many of them ended their job.
        self.settled = self.done = 0

    def add(self, lease: Lease, outcome: Outcome) -> None:
        """Keep an outcome for the next call."""
        self._ended.append((lease, outcome))

    @property
    def is_due(self) -> bool:
        """Whether the next call can tell an outcome, or look for a lost claim."""
        resting = self._resting()
        waiting = any(lease.queue not in resting for lease, _ in self._ended)
        return bool(waiting or self._found or self._due_claims(resting))

    @property
    def is_clear(self) -> bool:
        """Whether nothing is owed, now or at the second look for a lost claim."""
        return not (self._ended or self._found or self._lost_claims)

    @property
    def owes_only_waits(self) -> bool:
        """Whether nothing is owed, but for what the claims of lost waits may have taken."""
        return not (self._ended or self._found) and all(c.until for c in self._lost_claims)

    @property
    def owed(self) -> int:
        """How many outcomes Redis has not confirmed."""
        return len(self._ended) + len(self._sending)

    def leases(self) -> list[Lease]:
        """Return the leases that are held for no running job: their outcome is not confirmed."""
        return [*self._found, *(lease for lease, _ in (*self._sending, *self._ended))]

    async def take(self, budget: ClaimBudget | None) -> Turn:
        """Settle what has ended and claim what there is room for; find what lost claims took.

        Raises:
            BrokerError: nothing is known of this call; the next one makes up for it.
        """
        late = any(claim.too_large for claim in self._due_claims(self._resting()))
        if late and (sending := self._outgoing(self._resting())):
            # the link is slow: what is done is not to wait for what lost claims took
            await self._send(sending, None)
        sent_at = asyncio.get_running_loop().time()
        await self._recover()
        turn = Turn()
        resting = self._resting()
        sending = self._outgoing(resting)
        # what was found fills slots that nobody counted; the next turn can claim
        postponed = bool(self._found) and budget is not None
        claim = None if self._found or budget is None else self._claim(budget, resting)
        if sending or claim is not None:
            turn = await self._send(sending, claim)
        # of a job that is to be tried again no wakeup tells
        is_back = claim is None and any(isinstance(outcome, Retried) for _, outcome in sending)
        turn.postponed = postponed or is_back
        # a turn brings what was found or what was claimed, never both
        turn.sent_at = self._found_at if self._found else sent_at
        turn.leases += self._fitting(budget)
        return turn

    def can_wait(self, budget: ClaimBudget) -> bool:
        """Say whether `wait` is possible: for all queues, at a broker that has such a wait.

        And while nothing runs: a job that blocks the event loop must not have others claimed that
        nobody hears of.
        """
        queues, claiming = self._config.queues, self._broker.wakeups.claiming
        has_room = budget.is_idle and len(budget.queues) == len(queues)
        return has_room and claiming is not None and claiming.serves(queues)

    async def wait(self, budget: ClaimBudget) -> Woken:
        """Wait until there may be work, and claim a job; turns must not claim meanwhile.

        One job, for it may be that nobody hears of it before its lease ends: this process may be
        stopped, or its machine lost. Turns claim what else there is.

        Raises:
            BrokerError: nothing is known of this claim; the next turn makes up for it.
        """
        claiming, claim = self._broker.wakeups.claiming, self._claim(replace(budget, jobs=1), ())
        assert claiming is not None
        assert claim is not None
        block_s = self._config.claiming_block_s
        sent_at = asyncio.get_running_loop().time()
        try:
            woken = await claiming.wait(claim, block_s)
        except BaseException as e:
            if not isinstance(e, BrokerError) or e.sent:
                until = asyncio.get_running_loop().time() + block_s
                self._lose(claim.prefix, claim.queues, until=until)
            raise
        turn = woken.turn
        turn.sent_at = sent_at
        for queue, error in turn.unclaimed.items():
            if error.sent:
                self._lose(claim.prefix, [queue])
        self._note_claim(claim, turn)
        return woken

    async def end_wait(self) -> None:
        """Let the wait end now.

        Raises:
            BrokerError: it does not.
        """
        if (claiming := self._broker.wakeups.claiming) is not None:
            await claiming.end(self._config.queues, self._owner)

    def _outgoing(self, resting: Collection[str]) -> list[tuple[Lease, Outcome]]:
        """Take out the outcomes of the next call: as many bytes as the link may carry in time."""
        ready, later = self._ended, list[tuple[Lease, Outcome]]()
        if resting:
            ready = [item for item in self._ended if item[0].queue not in resting]
            later = [item for item in self._ended if item[0].queue in resting]
        sending = leading(ready, self._size.now)
        self._ended = later + ready[len(sending) :]
        return sending

    def _fitting(self, budget: ClaimBudget | None) -> list[Lease]:
        """Return what was found and has room; the rest goes back, nothing charged.

        While a lost claim could not be looked for, other queues may have filled its slots.
        """
        found, self._found = self._found, []
        most = 0 if budget is None else budget.jobs
        for lease in found[most:]:
            self.add(lease, Released())
        return found[:most]

    def _claim(self, budget: ClaimBudget, resting: Collection[str]) -> ClaimRequest | None:
        most = {queue: most for queue, most in budget.queues.items() if queue not in resting}
        if not most:
            return None
        self._claims += 1
        queues = self._order.of(most)
        return ClaimRequest(
            queues,
            min(budget.jobs, CALL_JOBS),
            round(self._config.lease_s * 1000),
            # so wide that a token has more than 64 bytes: Redis then looks it up by its hash, also
            # where less than 128 are in flight, instead of reading all of them
            f"{self._owner}:{self._claims:012}:",
            [most[queue] for queue in queues],
            self._config.quarantined,
            budget.is_idle,
            self._size.now,
        )

    async def _send(self, sending: list[tuple[Lease, Outcome]], claim: ClaimRequest | None) -> Turn:
        self._sending = sending
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            turn = await self._broker.turn(sending, claim)
        except BaseException as e:
            if isinstance(e, BrokerUnavailable) and e.sent:
                self._size.failed()
            if not isinstance(e, BrokerError) or e.sent:
                self._unconfirmed.update(lease.token for lease, _ in sending)
                if claim is not None:
                    self._lose(claim.prefix, claim.queues)
            self._ended = sending + self._ended
            self._sending = []
            raise
        self._size.took(loop.time() - began)
        self._keep_unsettled(turn)
        if claim is not None:
            for queue, error in turn.unclaimed.items():
                if error.sent:
                    self._lose(claim.prefix, [queue])
        self._confirm(turn)
        self._note_absence(turn)
        if claim is not None:
            self._note_claim(claim, turn)
        return turn

    def _lose(self, prefix: str, queues: Sequence[str], *, until: float = 0.0) -> None:
        now = asyncio.get_running_loop().time()
        groups = self._broker.groups(queues)
        self._lost_claims += [_LostClaim(prefix, group, now, until) for group in groups]

    def _keep_unsettled(self, turn: Turn) -> None:
        """Keep the outcomes of which nobody knows whether they took effect."""
        kept = [item for item in self._sending if item[0].queue in turn.unsettled]
        if kept:
            self._unconfirmed.update(lease.token for lease, _ in kept)
            self._sending = [i for i in self._sending if i[0].queue not in turn.unsettled]
            self._ended = kept + self._ended

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
        lost = turn.lost - again
        self.settled += len(self._sending) - len(lost)
        # nearly always ACKED: no look at the type
        over = [i.token for i, o in self._sending if o is ACKED or isinstance(o, Acked | Buried)]
        self.done += len(over) - (len(lost.intersection(over)) if lost else 0)
        self._sending = []

    # -- queues whose node is away --------------------------------------------------------------

    def _resting(self) -> set[str]:
        """Return the queues that are not to be tried yet."""
        if not self._away:
            return set()
        now = asyncio.get_running_loop().time()
        return {queue for queue, away in self._away.items() if away.until > now}

    def _note_absence(self, turn: Turn) -> None:
        failed = turn.unsettled | turn.unclaimed
        for queue in self._away.keys() & turn.answered - failed.keys():
            away_s = asyncio.get_running_loop().time() - self._away.pop(queue).since
            log.warning("queue.regained", queue=queue, away_s=round(away_s, 3))
        for queue, error in failed.items():
            self._rest(queue, error)

    def _note_claim(self, claim: ClaimRequest, turn: Turn) -> None:
        """Note what each queue has given; say once of each that cannot be claimed from."""
        taken = (lease.queue for lease in turn.leases)
        self._order.took(claim.queues, taken, has_more=turn.again_ms == 0)
        for queue, why in turn.unreadable.items():
            if queue not in self._unreadable:
                log.error("queue.unreadable", queue=queue, error=why)
        if self._unreadable or turn.unreadable:
            self._unreadable = self._unreadable.difference(claim.queues) | turn.unreadable.keys()

    def _rest(self, queue: str, error: BrokerError) -> None:
        loop = asyncio.get_running_loop()
        if queue not in self._away:
            log.error("queue.lost", queue=queue, error=str(error))
            min_s, max_s = self._config.reconnect_min_s, self._config.reconnect_max_s
            self._away[queue] = _Away(loop.time(), self._broker.backoff(min_s, max_s))
        away = self._away[queue]
        wait_s = away.backoff.next_s()
        away.until = loop.time() + wait_s
        loop.call_later(wait_s + _TIMER_S, self._wake)

    # -- lost claims ----------------------------------------------------------------------------

    def _due_claims(self, resting: Collection[str]) -> list[_LostClaim]:
        now = asyncio.get_running_loop().time()
        due = [claim for claim in self._lost_claims if claim.look_at <= now]
        return [claim for claim in due if claim.queues[0] not in resting]

    async def _recover(self) -> None:
        """Find what lost claims took: at once, and once more a second later."""
        loop = asyncio.get_running_loop()
        for claim in self._due_claims(self._resting()):
            lease_ms, sent_at = round(self._config.lease_s * 1000), loop.time()
            try:
                leases = await self._fetch(claim, lease_ms)
            except BrokerError as e:
                is_late = isinstance(e, BrokerUnavailable) and e.sent
                claim.too_large = is_late and claim.found is None
                if len(self._broker.groups(self._config.queues)) == 1:
                    raise
                self._rest(claim.queues[0], e)
                continue
            self._lost_claims.remove(claim)
            new = [lease for lease in leases if lease.token not in (claim.found or ())]
            for lease in new:
                log.info("job.recovered", job=lease.id, queue=lease.queue)
            if new and not self._found:
                self._found_at = sent_at
            self._found += new
            if claim.found is None:
                found = frozenset(lease.token for lease in new)
                look_at = max(loop.time(), claim.until) + _SECOND_LOOK_S
                self._lost_claims.append(replace(claim, look_at=look_at, found=found))
                loop.call_at(look_at + _TIMER_S, self._wake)

    async def _fetch(self, claim: _LostClaim, lease_ms: int) -> list[Lease]:
        """Return what a lost claim took; what cannot be fetched goes back, nothing charged."""
        if not claim.too_large:
            return await self._broker.recover(claim.queues, claim.prefix, lease_ms)
        owner, limit = claim.prefix.rstrip(":"), self._config.crash_limit
        await self._broker.reclaim_owner(claim.queues, owner, charge=False, crash_limit=limit)
        return []
