"""No job of a worker that lives is taken from it, for any settings, however Redis comes and goes.

Workers renew and sweep as they do, in a time that is made up, on a model of Redis that fails.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import anyio
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.broker.backoff import Backoff
from qcore.broker.contract import Pruned, Swept
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.keys import QueueKeys, queue_keys
from qcore.errors import BrokerUnavailable
from qcore.model.job import Lease, Reclaimed
from qcore.runtime.worker.leases import LeaseKeeper
from qcore.runtime.worker.maintenance import Maintenance
from qcore.settings import BrokerConfig, WorkerConfig, check_stall
from tests.support.model import Model
from tests.support.moves import NOW
from tests.support.virtual_time import run_in_no_time

QUEUE = "default"
WORKERS = 2


@dataclass(frozen=True)
class Absence:
    begin_s: float
    end_s: float
    #: It does not answer, and does later what it was asked; else it refuses.
    hangs: bool


class Redis:
    """One queue of a Redis that is away at times."""

    def __init__(self, absences: Sequence[Absence], latency_s: float) -> None:
        self.model = Model()
        self._absences = absences
        self._latency_s = latency_s

    def give(self, token: str, lease_s: float) -> Lease:
        id = token.rpartition(":")[2]
        self.model.running[id] = token
        self.model.active[token] = self.now_ms() + round(lease_s * 1000)
        return Lease(token.encode(), QUEUE, id, b"", None, 0, NOW, NOW)

    def now_ms(self) -> int:
        return NOW + round(asyncio.get_running_loop().time() * 1000)

    async def arrive(self, limit_s: float = 5.0) -> None:
        """Return when a call is executed whose answer arrives; raise if none does."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._latency_s)
        for absence in self._absences:
            if absence.begin_s <= loop.time() < absence.end_s:
                if absence.hangs and absence.end_s - loop.time() < limit_s:
                    await asyncio.sleep(absence.end_s - loop.time() + self._latency_s)
                    return
                await asyncio.sleep(limit_s if absence.hangs else 0)
                raise BrokerUnavailable("away", sent=absence.hangs)


class Link:
    """What the keeper of leases and the sweeper of one worker ask of the broker."""

    config = BrokerConfig(url="redis://any")

    def __init__(self, redis: Redis, taken: list[tuple[float, str]]) -> None:
        self._redis = redis
        self._taken = taken

    def backoff(self, min_s: float, max_s: float) -> Backoff:
        return Backoff(min_s, max_s)

    def groups(self, queues: Sequence[str]) -> list[Sequence[str]]:
        return [queues]

    async def extend(
        self, leases: Sequence[Lease], lease_ms: int, *, timeout_s: float
    ) -> set[bytes]:
        await self._redis.arrive(timeout_s)
        tokens = [lease.token.decode() for lease in leases]
        lost = self._redis.model.extend(self._redis.now_ms() + lease_ms, tokens)
        return {token.encode() for token in lost}

    async def cancel_requested(self, leases: Sequence[Lease]) -> set[bytes]:
        await self._redis.arrive()
        return set()

    async def reclaim(self, queues: Sequence[str], *, heard_ms: int, **rules: int) -> Swept:
        await self._redis.arrive()
        now = self._redis.now_ms()
        taken = self._redis.model.reclaim(now, **rules, limit=200, heard_ms=heard_ms)
        self._taken += [((now - NOW) / 1000, token) for token, _ in taken]
        return Swept(now, {QUEUE: [Reclaimed(token.encode(), to) for token, to in taken]})

    def _keys_of(self, queue: str) -> QueueKeys:
        return queue_keys("qcore", queue)

    async def _ask(self, commands: Sequence[object]) -> list[object]:
        raise BrokerUnavailable("not part of this model")

    async def register(self, queues: Sequence[str]) -> None: ...

    async def some_queues(self, limit: int) -> list[str]:
        return []

    async def prune(self, queue: str, *, cursor: int) -> Pruned:
        return Pruned(0, 0, more=False)


async def sweep_often(redis: Redis, taken: list[tuple[float, str]], config: WorkerConfig) -> None:
    """Sweep as hundreds of workers do together, which hold nothing themselves."""
    many = msgspec.structs.replace(config, sweep_s=config.lease_s / 100)

    async def renew() -> Collection[str]:
        return ()

    await Maintenance(
        cast(Broker, Link(redis, taken)),
        many,
        claimable=lambda: {QUEUE},
        quarantined=lambda count: None,
        renew=renew,
    ).run()


async def taken_from_the_living(
    config: WorkerConfig, absences: Sequence[Absence], latency_s: float, lasts_s: float
) -> list[tuple[float, str]]:
    """Let workers hold a job each; return what was taken from any, and when."""
    redis, taken = Redis(absences, latency_s), list[tuple[float, str]]()
    async with anyio.create_task_group() as group:
        for number in range(WORKERS):
            broker = cast(Broker, Link(redis, taken))
            lease = redis.give(f"{number}:1:{number}", config.lease_s)
            keeper = LeaseKeeper(
                broker,
                config,
                held=lambda lease=lease: [lease],
                renewed=lambda leases, sent_at: None,
                lost=lambda token: None,
                unwanted=lambda token: None,
            )
            maintenance = Maintenance(
                broker,
                config,
                claimable=lambda: {QUEUE},
                quarantined=lambda count: None,
                renew=keeper.renew,
            )
            for service in (keeper.run, keeper.heed, maintenance.run):
                group.start_soon(service)
        group.start_soon(sweep_often, redis, taken, config)
        await asyncio.sleep(lasts_s)
        group.cancel_scope.cancel()
    return taken


LEASES = st.one_of(
    st.floats(0.3, 30), st.floats(0.3, 300), st.sampled_from((0.3, 15.0, 22.5, 30.0))
)
SHARES = st.floats(0, 1)


@st.composite
def clocks(draw: st.DrawFn) -> WorkerConfig:
    """Return what the command makes of a lease, or any other settings that are allowed."""
    lease_s = draw(LEASES)
    if draw(st.booleans()):
        return WorkerConfig.for_lease(lease_s, queues=(QUEUE,))
    return WorkerConfig(
        queues=(QUEUE,),
        lease_s=lease_s,
        extend_s=lease_s / draw(st.floats(3, 30)),
        sweep_s=lease_s / draw(st.floats(4, 30)),
        heartbeat_s=max(0.05, min(60, lease_s / 10)),
        reconnect_max_s=draw(st.floats(0.1, 300)),
    )


@st.composite
def outages(draw: st.DrawFn, lease_s: float) -> list[Absence]:
    """Return one outage, of any length."""
    begin_s = lease_s * draw(st.floats(1, 2.5))
    # those that nobody takes for an outage are the dangerous ones
    away_s = lease_s * draw(st.floats(0.4, 0.8) | st.floats(0.01, 3))
    return [Absence(begin_s, begin_s + away_s, draw(st.booleans()))]


@st.composite
def flapping(draw: st.DrawFn, lease_s: float) -> list[Absence]:
    """Return many outages, each as long as a quarter of a lease, with short times between."""
    absences, at_s = list[Absence](), lease_s * draw(st.floats(1, 1.5))
    well, away = draw(st.floats(1 / 15, 1 / 4)), draw(st.floats(0.01, 1 / 4))
    while at_s < 5 * lease_s:
        absences.append(Absence(at_s, at_s + lease_s * away, hangs=False))
        at_s += lease_s * (away + well)
    return absences


@given(st.data(), clocks(), st.floats(0, 0.01))
@settings(max_examples=30)
def test_an_outage_of_any_length_takes_no_job_from_the_living(data, config, latency):
    data.draw(st.random_module())
    absences = data.draw(outages(config.lease_s))
    lasts_s = absences[0].end_s + 2 * config.lease_s
    work = taken_from_the_living(config, absences, latency * config.lease_s, lasts_s)
    assert run_in_no_time(work) == []


@given(st.data(), clocks())
@settings(max_examples=30)
def test_a_flapping_redis_takes_no_job_from_the_living(data, config):
    data.draw(st.random_module())
    absences = data.draw(flapping(config.lease_s))
    work = taken_from_the_living(config, absences, 0.002 * config.lease_s, 6 * config.lease_s)
    assert run_in_no_time(work) == []


@given(st.floats(0.3, 24 * 3600))
def test_clocks_of_the_command_fit_each_other_for_any_lease(lease_s):
    clocks = WorkerConfig.for_lease(lease_s, queues=(QUEUE,))
    left_s = clocks.lease_s - clocks.extend_s
    check_stall(clocks.stall_s, clocks)
    assert 2 * clocks.sweep_s <= clocks.stale_s + 1e-9
    assert clocks.stale_s < left_s


@given(clocks())
def test_allowed_clocks_fit_each_other(config):
    assert config.stale_s < config.lease_s - config.extend_s
    assert min(2 * config.extend_s, config.lease_s) <= config.guard_s <= config.lease_s
