"""Unique and idempotency keys and full queues, while replies are lost and workers killed."""

import asyncio
import random
from collections import defaultdict
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import pytest

from qcore import App, JobHandle, Queue, QueueFull
from qcore.broker.redis import scripts
from qcore.model.job import Acked
from tests.support.fleet import Command, Fleet, Producer
from tests.support.moves import claim, settle
from tests.support.nemesis import Nemesis
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually

REQUESTS, NAMES, PRODUCERS = 4_000, 100, 100
KILLS = 4


async def test_no_two_live_jobs_of_a_key_and_every_answer_is_true(
    fleet: Fleet, durable_server: Server, dice: random.Random
):
    command = fleet.start(processes=2, concurrency=20)
    await command.ready(2)
    key_of, handles = dict[int, str](), dict[int, JobHandle[None]]()
    left = iter(range(REQUESTS))

    async def produce(producer: Producer) -> None:
        for n in left:
            key_of[n] = f"key-{dice.randrange(NAMES)}"
            seconds = dice.choice((0.0, 0.0, 0.02, 0.2))
            handles[n] = await producer.task("keyed").enqueue(n, key_of[n], seconds)

    async with Proxy(durable_server.port) as proxy, AsyncExitStack() as stack:
        opened = [fleet.producer(proxy.url if i % 2 else None) for i in range(4)]
        producers = [await stack.enter_async_context(one) for one in opened]
        async with asyncio.TaskGroup() as group:
            for i in range(PRODUCERS):
                group.create_task(produce(producers[i % 4]))
            group.create_task(kill_some(fleet, command, dice))
            nemesis = Nemesis(fleet, durable_server, dice)
            lost = group.create_task(lose_some(nemesis, proxy, handles))
            # at whatever point its producers are
            group.create_task(nemesis.kill_connections(0.2, 15))
    assert lost.result() > 5
    await fleet.emptied(60)
    assert len(handles) == REQUESTS
    created = {n: h.id for n, h in handles.items() if h.answer == "created"}
    assert len(set(created.values())) == len(created)
    assert {h.answer for h in handles.values()} == {"created", "joined"}
    assert {h.id for h in handles.values()} == set(created.values())
    runs = fleet.runs()
    assert set(runs) == set(created), "what was joined has run, or what was created has not"
    lives = defaultdict[str, list[tuple[float, float]]](list)
    for n, found in runs.items():
        assert any(run.ended_at for run in found)
        ends = [run.ended_at or run.started_at for run in found]
        lives[key_of[n]].append((min(run.started_at for run in found), max(ends)))
    for spans in lives.values():
        spans.sort()
        for (_, ended), (started, _) in pairwise(spans):
            assert ended <= started, "two jobs of a key were live at once"


async def lose_some(nemesis: Nemesis, proxy: Proxy, handles: dict[int, JobHandle[None]]) -> int:
    """One at a time, and time between for a repeat: each call has five seconds."""
    lost = 0
    while len(handles) < REQUESTS:
        lost += await nemesis.lose_replies(proxy, scripts.ADMISSION, 1, 1)
        await asyncio.sleep(0.15)
    return lost


async def kill_some(fleet: Fleet, command: Command, dice: random.Random) -> None:
    for _ in range(KILLS):
        workers = await eventually(lambda: set(command.workers()) - fleet.killed, 30)
        fleet.kill_worker(dice.choice(sorted(workers)))
        await asyncio.sleep(0.3)


@pytest.mark.parametrize(("task", "result"), [("echo", 7), ("work", None)])
async def test_event_that_is_delivered_three_times_is_handled_once(
    fleet: Fleet, durable_server: Server, task: str, result: Any
):
    """Three producers; two of them hear of their first try nothing."""
    command = fleet.start(processes=1)
    await command.ready(1)
    async with AsyncExitStack() as stack:
        handles: list[JobHandle[Any]] = []
        for is_lost in (True, False, True, False):  # the last one when all is done
            proxy = await stack.enter_async_context(Proxy(durable_server.port))
            producer = await stack.enter_async_context(fleet.producer(proxy.url))
            delivered = producer.task(task).options(idempotency_key="evt_1", idempotency_ttl=60)
            if is_lost:
                proxy.lose_reply(scripts.ADMISSION.sha)
            if len(handles) == 3:
                assert [await h.result(timeout=20) for h in handles] == [result] * 3
            handles.append(await delivered.enqueue(7))
            assert proxy.lost_all
        assert [h.answer for h in handles] == ["created", "joined", "joined", "joined"]
        assert await handles[-1].result(timeout=20) == result
    assert len({h.id for h in handles}) == 1
    assert len(fleet.runs()[7]) == 1


async def test_queue_never_holds_more_than_it_may_and_who_waits_is_served_in_order(
    durable_server: Server,
):
    most, apps_of, tasks_of, each = 100, 5, 10, 20
    queue = Queue("default", max_jobs=most, when_full="wait")
    seen, taken = list[int](), list[str]()
    sent = defaultdict[int, list[str]](list)
    async with AsyncExitStack() as stack:
        made = [App(durable_server.url, queues=[queue], enqueue_timeout=60) for _ in range(apps_of)]
        apps = [await stack.enter_async_context(app) for app in made]
        tasks = [app.task(name="noop")(_noop) for app in apps]

        async def produce(i: int) -> None:
            for n in range(each):
                job = await tasks[i % apps_of].enqueue(n)
                sent[i].append(job.id)

        async def work() -> None:
            while len(taken) < apps_of * tasks_of * each:
                (stats,) = await apps[0].inspector.queues(["default"])
                seen.append(stats.ready + stats.scheduled)
                turn = await claim(apps[0].broker, 30, queues=["default"], now_ms=None)
                taken.extend(lease.id for lease in turn.leases)
                ended = [(lease, Acked()) for lease in turn.leases]
                await settle(apps[0].broker, *ended, now_ms=None)

        async with asyncio.TaskGroup() as group:
            for i in range(apps_of * tasks_of):
                group.create_task(produce(i))
            group.create_task(work())
    assert max(seen) <= most
    assert len(taken) == len(set(taken)) == apps_of * tasks_of * each
    places = {id: place for place, id in enumerate(taken)}
    assert all(places[a] < places[b] for ids in sent.values() for a, b in pairwise(ids))


async def test_full_queue_refuses_what_does_not_fit_as_a_whole(durable_server: Server):
    queue = Queue("default", max_jobs=100)
    async with App(durable_server.url, queues=[queue]) as app:
        task = app.task(name="noop")(_noop)
        told = await asyncio.gather(*(task.enqueue(n) for n in range(150)), return_exceptions=True)
        assert [isinstance(one, QueueFull) for one in told] == [False] * 100 + [True] * 50
        with pytest.raises(QueueFull, match="100 waiting jobs of at most 100: 5 jobs not enq"):
            await task.enqueue_many((n,) for n in range(5))
        (stats,) = await app.inspector.queues(["default"])
        assert (stats.ready, stats.max_jobs) == (100, 100)


async def _noop(n: int) -> None: ...
