"""No worker is told to go while it has a job, whatever the number of workers does meanwhile."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.runtime.ipc.messages import Beat
from qcore.runtime.ipc.orders import QUIET, RESUME
from qcore.runtime.supervisor.autoscaler import Autoscaler
from qcore.runtime.supervisor.worker_slot import WorkerSlot
from qcore.settings import BrokerConfig, SupervisorConfig, WorkerConfig

MAX = 3
WORKER = WorkerConfig(queues=("default",), heartbeat_s=1.0)


class Child:
    """A worker that claims while nobody has told it not to, and hears of that a bit later."""

    def __init__(self, on_end: Callable[["Child"], None]) -> None:
        self.process = SimpleNamespace(pid=id(self))
        self.is_spare = self.is_dismissed = False
        self.leaves_for = ""
        self.ready, self.booted, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.beat: Beat | None = None
        self.beat_at = self.started_at = asyncio.get_running_loop().time()
        self.jobs, self.is_quiet = 0, False
        self._orders: list[bytes] = []
        self._ordered_at = 0.0
        self._on_end = on_end

    def order(self, order: bytes) -> None:
        self._orders.append(order)
        self._ordered_at = asyncio.get_running_loop().time()

    def dismiss(self) -> None:
        assert (self.jobs, self.is_quiet, self._orders) == (0, True, []), "it has work to do"
        self.is_dismissed = True
        self.ended.set()
        self._on_end(self)

    def obey(self) -> None:
        for order in self._orders:
            self.is_quiet = {QUIET: True, RESUME: False}[order]
        self._orders.clear()

    @property
    def is_to_be_quiet(self) -> bool:
        return self._orders[-1] == QUIET if self._orders else self.is_quiet

    def tell(self) -> None:
        """Tell what is so now, as a beat does; orders that have just come it may not have read."""
        now = asyncio.get_running_loop().time()
        if now - self._ordered_at > WORKER.heartbeat_s:
            self.obey()
        self.ready.set()
        held, quiet = bool(self.jobs), self.is_quiet
        self.beat = Beat(1, True, False, False, self.jobs, 0, 0, 0.0, holding=held, quiet=quiet)
        self.beat_at = now


class Workers:
    """Starts children."""

    def __init__(self) -> None:
        self.living: list[Child] = []

    def start(self, *_: Any, on_end: Callable[[Child], None], **__: Any) -> Child:
        def forget(child: Child) -> None:
            self.living.remove(child)
            on_end(child)

        self.living.append(Child(forget))
        return self.living[-1]


class Site:
    """Slots and their scaler, with `wanted` set from outside."""

    def __init__(self) -> None:
        self.workers: Any = Workers()
        self.slots: list[WorkerSlot] = []
        broker: Any = SimpleNamespace(config=BrokerConfig(url="redis://localhost"))
        self.scaler = Autoscaler(
            SupervisorConfig(processes=1, max_processes=MAX),
            WORKER,
            self.slots,
            broker=broker,
            open_slot=self.open_slot,
            is_quiet=lambda: False,
            stopping=asyncio.Event(),
        )

    def open_slot(self) -> None:
        nothing: Any = None
        slot = WorkerSlot(
            len(self.slots),
            self.workers,
            SupervisorConfig(processes=1),
            WORKER,
            stopping=asyncio.Event(),
            on_beat=nothing,
            judge=nothing,
        )
        slot.current = slot._start()
        self.slots.append(slot)

    async def look(self, wanted: int) -> None:
        for slot in self.slots:
            if slot.may_go:
                await slot.see_off()
        self.slots[:] = [slot for slot in self.slots if slot.current is not None]
        self.scaler._scaling.wanted = wanted
        self.scaler._adjust()
        staying = [slot for slot in self.slots if not slot.is_leaving]
        assert len(staying) == wanted
        for slot in self.slots:
            child: Any = slot.current
            assert child.is_to_be_quiet is child.is_spare is slot.is_leaving


async def two_workers() -> Site:
    site = Site()
    await site.look(1)
    await site.look(2)
    for child in site.workers.living:
        child.tell()
    return site


async def test_worker_with_the_fewest_jobs_goes():
    site = await two_workers()
    site.workers.living[1].jobs = 3
    site.workers.living[1].tell()
    await site.look(1)
    assert [slot.is_leaving for slot in site.slots] == [True, False]


async def test_place_whose_worker_is_being_replaced_is_not_given_up():
    site = await two_workers()
    replacing = asyncio.create_task(site.slots[1].replace("it is old"))
    await asyncio.sleep(0)
    assert site.slots[1].is_changing
    await site.look(1)
    assert [slot.is_leaving for slot in site.slots] == [True, False]
    replacing.cancel()


async def test_worker_that_was_let_go_is_not_called_back():
    site = await two_workers()
    await site.look(1)
    slot = site.slots[1]
    child: Any = slot.current
    child.is_dismissed = True
    assert not slot.recall()
    assert slot.is_leaving


JOBS = st.lists(st.tuples(st.booleans(), st.integers(0, MAX)), max_size=4)
#: Who has read its orders, who tells; jobs that are claimed and end; the time, and what is wanted.
TURNS = st.tuples(
    st.sets(st.integers(0, MAX)),
    st.sets(st.integers(0, MAX)),
    JOBS,
    st.floats(0.1, 2.0),
    st.integers(1, MAX),
)


@settings(max_examples=1000)
@given(st.lists(TURNS, min_size=5, max_size=30))
def test_no_worker_goes_while_it_has_a_job(turns):
    async def play() -> None:
        loop, now = asyncio.get_running_loop(), 100.0
        loop.time = lambda: now  # type: ignore[method-assign]
        site = Site()
        await site.look(1)
        for obeying, telling, jobs, passed_s, wanted in turns:
            now += passed_s
            living = list(enumerate(site.workers.living))
            for i, child in living:
                if i in obeying:
                    child.obey()
            for claims, i in jobs:
                child = site.workers.living[i % len(living)]
                if not claims:
                    child.jobs = 0
                elif not child.is_quiet:
                    child.jobs += 1
            for i, child in living:
                if i in telling:
                    child.tell()
            await site.look(wanted)

    asyncio.run(play())
