"""The state machine on Redis: a method per transition; settle and claim share one, `turn`."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from qcore.broker.backoff import Backoff
from qcore.broker.contract import CHORE_LIMIT, ClaimRequest, Pruned, Swept, Turn
from qcore.broker.redis import owner_leases, scripts
from qcore.broker.redis.call_limits import leasing_s
from qcore.broker.redis.claiming import claim_rest
from qcore.broker.redis.cluster_pipeline import answered, answers
from qcore.broker.redis.coalescer import Coalescer
from qcore.broker.redis.endpoint import Endpoint
from qcore.broker.redis.enqueueing import check_payloads
from qcore.broker.redis.keys import QueueKeys, queue_keys, queues_key
from qcore.broker.redis.results import Ending, ResultWaiter
from qcore.broker.redis.script_codec import (
    add_claim,
    add_settle,
    by_queue,
    claim_call,
    limit_told,
    parts_of,
    read_reclaimed,
    settle_calls,
)
from qcore.broker.redis.scripts import Call
from qcore.broker.redis.wakeups import Wakeups
from qcore.errors import BrokerError
from qcore.model.admission import Admission
from qcore.model.codec import TRACE_BYTES
from qcore.model.job import Job, Lease, Outcome, Reclaimed
from qcore.model.reading import text_of
from qcore.model.token import id_of
from qcore.settings import NAME, BrokerConfig

#: A trace of an outcome whose time is over stays as long again as it was kept, and so long at most.
TRACE_MS = 24 * 3600 * 1000
#: A producer that was silent for so long has no call left to repeat.
PRODUCER_SILENT_MS = 3600 * 1000


class Broker:
    """Every transition of every job of one namespace.

    It belongs to one process and event loop (`Brokers`). It holds few connections, each opened
    when first needed: for turns, for wakeups, for renewals, for upkeep and questions, for enqueues
    (one for each value of `confirm`), and to hear of the ends of jobs. In a Cluster those that
    block or enqueue are per queue, the others per node, except the one that hears. Every method
    raises BrokerUnavailable when Redis is away or late, and repeats nothing, except enqueue.
    """

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self._endpoint = Endpoint(config)
        self._turns = self._endpoint.pipeline()
        self._renewing = self._endpoint.pipeline()
        self._upkeep = self._endpoint.pipeline()
        #: How idle workers wait.
        self.wakeups = Wakeups(self._endpoint, self._upkeep, self._keys_of)
        #: By what may fail alone, and by how many replicas confirm: none waits for another.
        self._coalescers: dict[tuple[str, int], Coalescer] = {}
        self._waiting = ResultWaiter(self._endpoint, self._upkeep, config)
        self._known_keys: dict[str, QueueKeys] = {}
        self._told_limits: set[str] = set()

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return self._endpoint.shown

    def groups(self, queues: Sequence[str]) -> list[Sequence[str]]:
        """Return what fails together and can be asked in one call: all, or in a Cluster each."""
        return [[queue] for queue in queues] if self._endpoint.is_cluster else [queues]

    def backoff(self, min_s: float, max_s: float) -> Backoff:
        """Return the delays between tries to reach Redis; short where another server takes over."""
        return self._endpoint.backoff(min_s, max_s)

    def _keys_of(self, queue: str) -> QueueKeys:
        """Return the keys of one queue."""
        keys = self._known_keys.get(queue)
        if keys is None:
            keys = self._known_keys[queue] = queue_keys(self.config.namespace, queue)
        return keys

    async def _ask(self, commands: Sequence[Call | tuple[object, ...]]) -> list[Any]:
        """Send commands of operators and upkeep; raise the first error among the replies."""
        return await answers(self._upkeep, commands)

    async def register(self, queues: Iterable[str]) -> None:
        """Let operators find queues in the set of all, and see their limits; one round trip."""
        names, limits = tuple(queues), self.config.depth_limits
        known = (b"SADD", queues_key(self.config.namespace), *names)
        new = [queue for queue in names if queue not in self._told_limits]  # else once is enough
        told = [limit_told(self._keys_of(queue), limits.get(queue)) for queue in new]
        said, *_ = await self._upkeep.send([known, *told])
        if isinstance(said, BrokerError):
            raise said
        self._told_limits.update(new)

    async def some_queues(self, limit: int) -> list[str]:
        """Return the names of at most `limit` queues, drawn from all that were ever used."""
        key = queues_key(self.config.namespace)
        (names,) = await self._ask([(b"SRANDMEMBER", key, limit)])
        return [name for raw in names if NAME.fullmatch(name := text_of(raw))]

    async def open(self) -> None:
        """Join the embedded server where the URL names one; connect to nothing otherwise.

        Raises:
            ConfigError: there is no server to start, or its folder cannot be used.
            BrokerUnavailable: it did not come up in time.
        """
        await self._endpoint.open()

    async def close(self) -> None:
        """Deliver what waits, or if cancelled drop it; close connections; leave the server."""
        senders = list(self._coalescers.values())
        own = self._turns, self._renewing, self._upkeep
        pipelines = [*own, *(sender.pipeline for sender in senders)]
        try:
            await self._waiting.close()
            for sender in senders:
                await sender.close()
            await self.wakeups.close()
            for pipeline in pipelines:
                await pipeline.close()
        finally:
            for sender in senders:
                sender.abandon()
            for pipeline in pipelines:
                pipeline.drop()
            await self.wakeups.drop()
            await self._endpoint.close()

    # -- producers ------------------------------------------------------------------------------

    def enqueue(self, jobs: list[Job], *, confirm: int = 0) -> "asyncio.Future[list[Admission]]":
        """- -> ready or scheduled, in the order given; all jobs or none, but for taken ids.

        The call is on its way when this returns; what it returns is to be awaited.

        Args:
            jobs: 1 to 500 jobs of one queue, 1 MB of envelopes together (a single one may be
                larger, up to the payload limit).
            confirm: Return only when so many replicas have them, too.

        Returns:
            What became of those that were not created.

        Raises:
            PayloadTooLarge, QueueClosed, QueueFull, BrokerRefused: none was enqueued.
            BrokerUnavailable: after `enqueue_timeout_s`; `sent` says whether they may be.
            NotConfirmed: they are enqueued, but fewer replicas had them in time.
            BrokerError: other jobs have the ids that it names; the rest of the call is enqueued.

        Redis: one script, shared with all callers of the moment (of a queue with a limit).
        """
        check_payloads(jobs, self.config.payload_limit_bytes)
        queue = jobs[0].queue
        return self._coalescer(queue, confirm).add(self._keys_of(queue), jobs)

    def _coalescer(self, queue: str, confirm: int) -> Coalescer:
        limit = self.config.depth_limits.get(queue)
        place = queue if self._endpoint.is_cluster or limit is not None else "", confirm
        if place not in self._coalescers:
            self._coalescers[place] = Coalescer(
                self._endpoint.pipeline(),
                names=queues_key(self.config.namespace),
                timeout_s=self.config.enqueue_timeout_s,
                confirm=confirm,
                limit=limit,
            )
        return self._coalescers[place]

    async def ended(self, queue: str, id: str) -> Ending:
        """Wait until a job has ended; see `ResultWaiter.ended`."""
        return await self._waiting.ended(self._keys_of(queue), id)

    # -- workers --------------------------------------------------------------------------------

    async def turn(
        self,
        ended: Sequence[tuple[Lease, Outcome]],
        claim: ClaimRequest | None,
        *,
        now_ms: int | None = None,
    ) -> Turn:
        """Settle ended jobs and claim new ones, in one write and one read.

        Where a part failed, the turn says so; if all did, this raises. After BrokerUnavailable
        the settles can be repeated: those that took effect come back as lost. The claim must not
        be; ask `recover` with its prefix.

        Redis: ack.lua and settle.lua, as far as there is something for them, once per queue and
        500 jobs, then claim.lua; one round trip. For each 250 queues, in a Cluster for each queue,
        a claim.lua of its own, one after another while there is room, so that the order of the
        queues and the limits hold; see `claim_rest`.
        """
        now = _now(now_ms)
        settles = settle_calls(self._keys_of, ended, now)
        claims = parts_of(claim, self.groups(claim.queues)) if claim is not None else []
        first = claims.pop(0) if claims else None
        calls = [call for _, call in settles]
        if first is not None:
            calls.append(claim_call(self._keys_of, first, now))
        max_s = None if claim is None else leasing_s(self.config.call_timeout_s, claim.lease_ms)
        began = asyncio.get_running_loop().time() if claims else 0.0
        replies = await self._turns.send(calls, timeout_s=max_s)
        turn = Turn()
        for (queue, _), reply in zip(settles, replies, strict=False):
            add_settle(turn, queue, reply)
        if first is not None:
            add_claim(turn, first, replies[-1])
        if claims:
            await claim_rest(self._turns, self._keys_of, claims, turn, now, began=began)
        turn.raise_if_nothing_worked()
        return turn

    async def recover(
        self,
        queues: Sequence[str],
        prefix: str,
        lease_ms: int,
        *,
        payloads: bool = True,
        now_ms: int | None = None,
    ) -> list[Lease]:
        """Active -> active: return the leases of a claim whose reply was lost, renewed.

        `prefix` is that claim's `owner:seq:`, or `owner:` for all claims of a process. Without
        `payloads` their jobs cannot be run, and the replies are small.

        Redis: recover.lua once per queue and 1,000 leases of it; a round trip per 100 queues.
        """
        keys = [self._keys_of(queue) for queue in queues]
        return await owner_leases.recover(
            self._upkeep, keys, _now(now_ms), lease_ms, prefix, payloads=payloads
        )

    async def extend(
        self,
        leases: Sequence[Lease],
        lease_ms: int,
        *,
        timeout_s: float | None = None,
        now_ms: int | None = None,
    ) -> set[bytes]:
        """Active -> active with a deadline `lease_ms` from now; return the tokens that were lost.

        Redis: extend.lua once per queue and 500 leases; one round trip.
        """
        words = _now(now_ms), lease_ms
        calls = [
            scripts.EXTEND.call(self._keys_of(queue), *words, *(lease.token for lease in held))
            for queue, held in by_queue(leases)
        ]
        replies = await answers(self._renewing, calls, timeout_s=timeout_s)
        return {token for lost in replies for token in lost}

    async def update_records(self, records: Sequence[tuple[Lease, bytes]]) -> set[bytes]:
        """Active -> active with new records; return the tokens that were lost.

        Raises:
            BrokerUnavailable: they may have been written; writing them again does no harm.

        Redis: update_record.lua once per queue and 500 leases; one round trip.
        """
        written = {lease.token: record for lease, record in records}
        calls = [
            scripts.UPDATE_RECORD.call(
                self._keys_of(queue),
                *(word for lease in held for word in (lease.token, written[lease.token])),
            )
            for queue, held in by_queue([lease for lease, _ in records])
        ]
        return {token for lost in await self._ask(calls) for token in lost}

    async def cancel_requested(self, leases: Sequence[Lease]) -> set[bytes]:
        """Return the tokens of the jobs, among those running, that somebody wants cancelled.

        Not on the pipeline of the renewals: on a slow Redis these must not queue behind anything.

        Redis: HMGET once per queue and 500 leases; one round trip.
        """
        asked = by_queue(leases)
        commands = [
            (
                b"HMGET",
                self._keys_of(queue).names["cancels"],
                *(id_of(lease.token) for lease in held),
            )
            for queue, held in asked
        ]
        replies = await self._ask(commands)
        return {
            lease.token
            for (_, held), cancels in zip(asked, replies, strict=True)
            for lease, cancel in zip(held, cancels, strict=True)
            if cancel is not None
        }

    # -- upkeep ---------------------------------------------------------------------------------

    async def promote(
        self, queues: Sequence[str], *, limit: int = CHORE_LIMIT, now_ms: int | None = None
    ) -> tuple[int, int]:
        """Scheduled -> ready, at most `limit` due jobs of each queue.

        Returns:
            How many were promoted, and how many quarantined jobs wait for a process of their own:
            none in a queue that is paused.

        Raises:
            BrokerError: no queue could be asked.
        """
        calls = [scripts.PROMOTE.call(self._keys_of(q), _now(now_ms), limit) for q in queues]
        promoted, quarantined = zip(
            *(await answered(self._upkeep, queues, calls)).values(), strict=True
        )
        return sum(promoted), sum(quarantined)

    async def reclaim(
        self,
        queues: Sequence[str],
        *,
        lease_ms: int,
        stale_ms: int,
        guard_ms: int,
        crash_limit: int,
        heard_ms: int = 0,
        now_ms: int | None = None,
    ) -> Swept:
        """Active with an expired lease -> ready, scheduled or dead; each loss counts as a crash.

        When the last sweep of a queue is older than `stale_ms`, Redis or every sweeper was away:
        nothing is reclaimed for `guard_ms`, in which live owners renew. At most 200 a queue.

        `heard_ms` is when Redis last answered a sweep of the caller, on its clock: a round over
        many queues may take longer than `stale_ms`, and Redis was not away for that. It is for
        queues that the caller has swept since Redis last was away: others need their guard first.

        Raises:
            BrokerError: no queue could be asked.
        """
        if self._endpoint.is_cluster:
            heard_ms = 0  # another node may have said that
        words = lease_ms, stale_ms, guard_ms, crash_limit, CHORE_LIMIT, heard_ms
        calls = [scripts.RECLAIM.call(self._keys_of(q), _now(now_ms), *words) for q in queues]
        replies = await answered(self._upkeep, queues, calls)
        taken = {queue: read_reclaimed(flat) for queue, (_, *flat) in replies.items()}
        return Swept(max(int(now) for now, *_ in replies.values()), taken)

    async def reclaim_owner(
        self,
        queues: Sequence[str],
        owner: str,
        *,
        charge: bool,
        crash_limit: int,
        culprits: Collection[bytes] = (),
        now_ms: int | None = None,
    ) -> dict[str, list[Reclaimed]]:
        """Active of one owner -> ready, scheduled or dead, whatever the deadlines.

        Args:
            queues: Where the owner, a process that is certainly gone, may hold leases.
            owner: That process.
            charge: Whether the loss counts as a crash.
            crash_limit: The loss that makes a job dead.
            culprits: Tokens of the jobs for whose sake the process was ended: with some, only
                these are charged, and the others go back as if nothing had been.
            now_ms: For tests.

        Returns what was taken, by queue; those that failed are missing.

        Raises:
            BrokerError: all queues failed.

        Redis: reclaim_owner.lua once per queue and 1,000 leases; a round trip per 100 queues.
        """
        keys = [self._keys_of(queue) for queue in queues]
        how = _now(now_ms), owner, int(charge), crash_limit
        return await owner_leases.reclaim_owner(self._upkeep, keys, *how, culprits=culprits)

    async def prune(self, queue: str, *, cursor: int = 0, now_ms: int | None = None) -> Pruned:
        """Completed, cancelled -> -: forget outcomes whose time is over, and silent producers.

        An outcome leaves a trace, for as long as it was kept and at most 24 h. 200 a call, or 1 MB.
        """
        limits = CHORE_LIMIT, TRACE_MS, TRACE_BYTES, PRODUCER_SILENT_MS
        call = scripts.PRUNE.call(self._keys_of(queue), _now(now_ms), *limits, cursor)
        ((count, cursor, more),) = await self._ask([call])
        return Pruned(int(count), int(cursor), bool(more))


def _now(now_ms: int | None) -> object:
    return b"" if now_ms is None else now_ms
