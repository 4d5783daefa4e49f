"""A real Cluster: jobs of queues that lie on different nodes, and what one node's failure means."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from qcore import App, BrokerUnavailable, JobNotFound, NotConfirmed, Retry
from qcore.broker.contract import ClaimRequest
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.cluster import Cluster
from qcore.broker.redis.cluster_pipeline import ClusterPipeline
from qcore.broker.redis.pipeline import NotAsked
from qcore.broker.redis.urls import Address
from qcore.model.job import Acked, Job
from qcore.runtime.worker.capacity import ClaimBudget
from qcore.runtime.worker.session import Session
from qcore.settings import BrokerConfig, WorkerConfig
from tests.support.servers import Server
from tests.support.topologies import Nodes, names_on_different_nodes, slot_of
from tests.support.waiting import eventually
from tests.support.workers import dead, working

OWNER = "0123456789abcdef"
LEASE_MS = 30_000


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with Nodes(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
def own_nodes(tmp_path: Path) -> Iterator[Nodes]:
    """A Cluster of a test that breaks it; its masters have no replicas."""
    with Nodes(tmp_path / "cluster", replicas=(0, 0, 0)) as nodes:
        yield nodes


@pytest.fixture
async def app(nodes: Nodes) -> AsyncIterator[App]:
    async with app_on(nodes) as app:
        yield app


def app_on(nodes: Nodes) -> App:
    namespace = f"t{uuid.uuid4().hex[:12]}"
    queues = names_on_different_nodes(nodes, namespace)
    return App(nodes.url, queues=queues, namespace=namespace)


async def put(app: App, queue: str, *ids: str) -> None:
    await app.broker.enqueue([Job(id, queue, b"x") for id in ids])


def request(app: App, limit: int, number: int = 1) -> ClaimRequest:
    return ClaimRequest(app.queues, limit, LEASE_MS, f"{OWNER}:{number}:")


async def is_marked(app: App, queue: str) -> bool:
    (count,) = await app.broker._ask([(b"ZCARD", app.broker._keys_of(queue).names["wakeup"])])
    return bool(count)


async def test_jobs_of_queues_on_different_nodes_live_their_whole_life(app: App):
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task(retry=Retry(max_attempts=2, backoff=0.05))
    async def fail(n: int) -> None:
        raise ValueError("no")

    async with working(app) as worker:
        for queue in app.queues:
            assert await double.options(queue=queue).enqueue_many((n,) for n in range(100)) == 100
        jobs = [await double.options(queue=q, delay=0.1).enqueue(21) for q in app.queues]
        assert [await job.result(timeout=10) for job in jobs] == [42] * 3
        failed = [await fail.options(queue=q).enqueue(1) for q in app.queues]
        for job in failed:
            await dead(app, job)
        assert await app.inspector.revive_all(failed[0].queue) == [failed[0].id]
        await dead(app, failed[0])
        await eventually(lambda: worker.beat().done == 300 + 3 + 3 + 1)
    stats = {s.name: s for s in await app.inspector.queues()}
    assert {name: s.dead for name, s in stats.items()} == dict.fromkeys(app.queues, 1)
    assert await app.inspector.purge(failed[0].queue, ids=[failed[0].id]) == 1
    waiting = await double.options(queue=app.queues[1]).enqueue(1)
    assert await app.inspector.clear(app.queues[1]) == 1
    with pytest.raises(JobNotFound, match="its queue was cleared"):
        await waiting.status()


async def test_claim_keeps_the_order_of_the_queues_and_the_limit(app: App):
    first, second, third = app.queues
    await put(app, third, "c1", "c2")
    await put(app, second, "b1", "b2")
    await put(app, first, "a1")
    turn = await app.broker.turn([], request(app, 4))
    assert [lease.id for lease in turn.leases] == ["a1", "b1", "b2", "c1"]
    turn = await app.broker.turn([(lease, Acked()) for lease in turn.leases], request(app, 4, 2))
    assert [lease.id for lease in turn.leases] == ["c2"]
    assert not turn.lost
    assert turn.again_ms is None


async def test_claim_that_is_full_before_the_last_queue_looks_again(app: App):
    await put(app, app.queues[0], "a")
    turn = await app.broker.turn([], request(app, 1))
    assert (len(turn.leases), turn.again_ms) == (1, 0)


async def test_claim_takes_of_each_queue_what_its_limit_allows(app: App):
    for queue in app.queues:
        await put(app, queue, *(f"{queue}-{i}" for i in range(3)))
    asked = ClaimRequest(app.queues, 10, LEASE_MS, f"{OWNER}:1:", (1, 3, 2))
    turn = await app.broker.turn([], asked)
    assert [sum(x.queue == q for x in turn.leases) for q in app.queues] == [1, 3, 2]


async def test_wait_for_jobs_hears_the_wakeup_of_any_queue_and_takes_it(app: App):
    for queue in app.queues:
        waiting = asyncio.create_task(app.broker.wakeups.wait(app.queues, 10))
        await asyncio.sleep(0)
        await put(app, queue, "a")
        assert await waiting == queue
        assert not await is_marked(app, queue)
    assert await app.broker.wakeups.wait(app.queues, 0.1) is None


async def test_wait_for_jobs_hands_back_a_wakeup_that_comes_while_nobody_listens(app: App):
    first, second, third = app.queues
    waiting = asyncio.create_task(app.broker.wakeups.wait(app.queues, 10))
    await put(app, first, "a")
    assert await waiting == first
    # the waits for the other two are still pending: one of them takes this wakeup
    await put(app, third, "c")
    await eventually(lambda: is_marked(app, third))
    assert await app.broker.wakeups.wait([second, third], 10) == third


async def test_wait_for_jobs_follows_a_queue_that_moves(nodes: Nodes, app: App):
    queue, other = app.queues[:2]
    namespace = app.broker.config.namespace
    cluster = app.broker._endpoint._connector
    assert isinstance(cluster, Cluster)
    waiting = asyncio.create_task(app.broker.wakeups.wait([queue], 2))
    source = nodes.master_of(slot_of(namespace, queue))
    target = nodes.master_of(slot_of(namespace, other))

    await eventually(lambda: source.ask("INFO", "clients")["blocked_clients"] == 1)
    await asyncio.sleep(app.broker._endpoint.margin_s + 0.2)  # too late to wait as long again
    await asyncio.to_thread(nodes.migrate, slot_of(namespace, queue), target)
    assert await waiting is None
    assert await app.broker.wakeups.wait([queue], 2) is None
    assert not cluster._away
    waiting = asyncio.create_task(app.broker.wakeups.wait([queue], 10))
    await put(app, queue, "a")
    assert await waiting == queue


async def test_pass_on_sets_every_wakeup_after_the_waits_have_ended(app: App):
    waiting = asyncio.create_task(app.broker.wakeups.wait(app.queues, 10))
    await put(app, app.queues[0], "a")
    await waiting
    await app.broker.wakeups.pass_on(app.queues)
    assert [await is_marked(app, queue) for queue in app.queues] == [True] * 3
    # one that goes on could take a wakeup as its process ends
    assert (many := app.broker.wakeups._many) is not None
    assert not many._waits


async def test_confirmed_enqueue_says_whether_the_replica_has_it(app: App):
    job = Job("a", app.queues[0], b"x")
    assert await app.broker.enqueue([job], confirm=1) == []
    with pytest.raises(NotConfirmed, match="b enqueued, but 1 of 2 replicas had it"):
        await app.broker.enqueue([Job("b", app.queues[0], b"x")], confirm=2)
    assert await app.inspector.job(app.queues[0], "b") is not None


async def test_confirmed_enqueues_to_queues_of_one_node_do_not_fail_each_other(own_nodes: Nodes):
    broker = Broker(BrokerConfig(url=own_nodes.url, enqueue_timeout_s=4))
    queues = [f"q{n}" for n in range(6)]  # of three nodes
    ends = await asyncio.gather(
        *(broker.enqueue([Job("a", queue, b"x")], confirm=1) for queue in queues),
        return_exceptions=True,
    )
    assert [type(end) for end in ends] == [NotConfirmed] * 6
    await broker.close()


async def test_call_that_waits_for_its_connection_in_vain_says_nothing_of_the_node(app: App):
    cluster = app.broker._endpoint._connector
    assert isinstance(cluster, Cluster)
    line = ClusterPipeline(cluster, 5)
    wakeup = app.broker._keys_of(app.queues[0]).names["wakeup"]
    blocked = asyncio.ensure_future(line.send([(b"BZPOPMIN", wakeup, 2)]))
    await eventually(lambda: line._pipelines)
    (reply,) = await line.send([(b"ZCARD", wakeup)], timeout_s=0.1)
    (late,) = await line.send([(b"ZCARD", wakeup)], timeout_s=-0.1)
    assert isinstance(reply, NotAsked)
    assert isinstance(late, NotAsked)
    assert not cluster._away
    assert await blocked == [None]
    await line.close()


async def test_queue_that_has_moved_is_followed_in_the_same_call(nodes: Nodes, app: App):
    queue, other = app.queues[:2]
    namespace = app.broker.config.namespace
    await put(app, queue, "a")
    await put(app, other, "b")
    nodes.migrate(slot_of(namespace, queue), nodes.master_of(slot_of(namespace, other)))
    turn = await app.broker.turn([], request(app, 5))
    assert [lease.id for lease in turn.leases] == ["a", "b"]


async def test_confirmation_comes_from_the_node_that_the_queue_has_moved_to(tmp_path: Path):
    with Nodes(tmp_path / "cluster", replicas=(1, 0, 0)) as nodes:
        async with app_on(nodes) as app:
            home, bare = nodes.servers[:2]
            namespace = app.broker.config.namespace
            slots = {q: slot_of(namespace, q) for q in app.queues}
            queue = next(q for q, slot in slots.items() if nodes.master_of(slot) is home)
            assert await app.broker.enqueue([Job("a", queue, b"x")], confirm=1) == []
            nodes.migrate(slots[queue], bare)
            with pytest.raises(NotConfirmed, match="b enqueued, but 0 of 1 replicas had it"):
                await app.broker.enqueue([Job("b", queue, b"x")], confirm=1)


# -- a node that is away -----------------------------------------------------------------------


def node_of(nodes: Nodes, app: App, queue: str):
    return nodes.master_of(slot_of(app.broker.config.namespace, queue))


async def test_master_that_is_cut_off_and_names_itself_is_not_believed(
    nodes: Nodes, app: App, tmp_path: Path
):
    """Its clients reach it, other nodes do not: it refuses, and they know its successor."""
    cluster = app.broker._endpoint._connector
    assert isinstance(cluster, Cluster)
    queue = app.queues[0]
    await put(app, queue, "a")
    right = dict(cluster._slots)
    with Server(tmp_path / "cut-off", {"cluster-enabled": "yes"}) as cut_off:
        # it lacks one slot, so that it serves none, as one that reaches no other
        cut_off.ask("CLUSTER", "ADDSLOTS", *range(16383))
        cluster._slots[slot_of(app.broker.config.namespace, queue)] = Address(
            "127.0.0.1", cut_off.port
        )
        await put(app, queue, "b")
    assert cluster._slots == right


async def test_turn_brings_what_the_living_nodes_have(own_nodes: Nodes):
    async with app_on(own_nodes) as app:
        first, second, third = app.queues
        for queue in app.queues:
            await put(app, queue, f"{queue}-1", f"{queue}-2")
        turn = await app.broker.turn([], request(app, 10))
        ended = [(x, Acked()) for x in turn.leases if x.id.endswith("-1")]
        await put(app, third, "new")
        node_of(own_nodes, app, first).kill()
        turn = await app.broker.turn(ended, request(app, 10, 2))
        assert [lease.id for lease in turn.leases] == ["new"]
        assert list(turn.unsettled) == list(turn.unclaimed) == [first]
        assert {len(await app.broker.extend([x], LEASE_MS)) for x in turn.leases} == {0}
        with pytest.raises(BrokerUnavailable):
            await app.inspector.queues(app.queues)
        assert [s.active for s in await app.inspector.queues([second, third])] == [1, 2]
        with pytest.raises(BrokerUnavailable):
            await app.broker.turn([], ClaimRequest([first], 1, LEASE_MS, f"{OWNER}:3:"))


async def test_exchange_keeps_the_outcomes_of_a_node_that_is_away(own_nodes: Nodes):
    async with app_on(own_nodes) as app:
        looked = asyncio.Event()
        config = WorkerConfig(queues=app.queues)
        exchange = Session(app.broker, config, OWNER, wake=looked.set)
        room = ClaimBudget(dict.fromkeys(app.queues, 10), 10)
        for queue in app.queues:
            await put(app, queue, queue)
        first = app.queues[0]
        node = node_of(own_nodes, app, first)
        for lease in (await exchange.take(room)).leases:
            exchange.add(lease, Acked())
        node.kill()
        await exchange.take(room)
        assert exchange.settled == 2
        assert [lease.queue for lease in exchange.leases()] == [first]
        for _ in range(50):  # however often it is asked, it rests in between
            if exchange.is_due:
                await exchange.take(room)
        assert not exchange.is_due
        await asyncio.wait_for(looked.wait(), 10)
        # that may have been the end of an earlier rest, on a slow machine
        await eventually(lambda: exchange.is_due, 10)
        await asyncio.to_thread(node.start)

        async def is_told() -> bool:
            await exchange.take(room)
            return exchange.settled == 3

        await eventually(is_told, 20)


async def test_enqueue_to_a_living_node_does_not_wait_for_a_dead_one(own_nodes: Nodes):
    async with app_on(own_nodes) as app:
        for queue in app.queues:
            await put(app, queue, "a")
        node_of(own_nodes, app, app.queues[0]).kill()
        refused = asyncio.create_task(put(app, app.queues[0], "b"))
        cluster = app.broker._endpoint._connector
        assert isinstance(cluster, Cluster)
        await eventually(lambda: cluster._away)  # the first try has failed
        await put(app, app.queues[1], "b")
        assert not refused.done()
        with pytest.raises(BrokerUnavailable) as e:
            await refused
        assert "not enqueued" in str(e.value) or e.value.sent
