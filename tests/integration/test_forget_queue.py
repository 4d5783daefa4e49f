"""`qcore queues forget`: a queue that nobody uses goes without a trace, any other stays."""

import pytest

from qcore import App
from qcore.broker.redis.broker import PRODUCER_SILENT_MS
from qcore.broker.redis.fleet import Fleet
from qcore.broker.redis.forget_queue import forget_queue, holders
from qcore.broker.redis.inspector import Inspector
from qcore.model.fleet import SupervisorState, SupervisorView
from qcore.model.job import Acked, Buried
from tests.support.commands import Command
from tests.support.content import keys_of, names_in
from tests.support.moves import QUEUE, ask, claim, leased, put, settle
from tests.support.servers import on_standalone_and_cluster

both = on_standalone_and_cluster


async def retired(broker) -> None:
    """Leave what a queue leaves that was used long ago: outcomes, a pause, silent producers."""
    await broker.register([QUEUE])
    kept, dead = await leased(broker, "kept", "dead")
    await settle(broker, (kept, Acked(b"r", 10**12)), (dead, Buried(b"")))
    inspector = Inspector(broker)
    await inspector.purge(QUEUE, ids=["dead"])
    await inspector.pause(QUEUE)
    await silence(broker)


async def silence(broker) -> None:
    """Let its producers have called long ago."""
    seconds = int((await ask(broker, b"TIME"))[0])
    at_ms = seconds * 1000 - PRODUCER_SILENT_MS - 1000
    producers = [word for n in range(2000) for word in (f"{n:016x}", f"1 {at_ms}")]
    key = broker._keys_of(QUEUE).names["producers"]
    await broker._ask([(b"DEL", key), (b"HSET", key, *producers)])


@both
async def test_retired_queue_is_forgotten_without_a_trace(broker, namespace):
    await retired(broker)
    found = await holders(broker, QUEUE)
    assert (found.reasons, found.outcomes) == ([], 1)
    assert await forget_queue(broker, QUEUE)
    assert await names_in(broker, namespace) == set()


@both
@pytest.mark.parametrize("state", ["ready", "scheduled", "active", "dead", "lost"])
async def test_queue_that_holds_a_job_is_not_forgotten(broker, inspector, state):
    await retired(broker)
    await inspector.resume(QUEUE)
    await put(broker, "a", when="+100000" if state == "scheduled" else "")
    if state in ("active", "dead"):
        (lease,) = (await claim(broker, prefix="00000000000000cc:1:")).leases
        if state == "dead":
            await settle(broker, (lease, Buried(b"")))
    if state == "lost":
        await ask(broker, b"DEL", broker._keys_of(QUEUE).names["ready"])
    await silence(broker)
    before = await keys_of(broker, QUEUE)
    assert not await forget_queue(broker, QUEUE)
    assert await keys_of(broker, QUEUE) == before
    (reason,) = (await holders(broker, QUEUE)).reasons
    assert f"1 {state}" in reason
    assert await inspector.names() == [QUEUE]


async def test_queue_is_not_forgotten_while_it_is_served_or_produced_to(broker, inspector):
    await retired(broker)
    view = SupervisorView(
        host="h", name="n", pid=1, state=SupervisorState.RUNNING, queues=(QUEUE,), age_s=1
    )
    await Fleet(broker).beat("a", view)
    assert (await holders(broker, QUEUE)).reasons == ["it is served by n on h"]
    await Fleet(broker).forget(["a"])
    now = int((await ask(broker, b"TIME"))[0]) * 1000
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["meta"], "last_sweep", now - 2000)
    assert not await forget_queue(broker, QUEUE)
    (reason,) = (await holders(broker, QUEUE)).reasons
    assert reason.startswith("a worker swept it ")
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["meta"], "last_sweep", now - 100_000)
    await ask(broker, b"HSET", broker._keys_of(QUEUE).names["producers"], "heard", f"1 {now}")
    assert not await forget_queue(broker, QUEUE)
    (reason,) = (await holders(broker, QUEUE)).reasons
    assert reason == "1 producers called within the last hour, and may repeat that"
    assert await inspector.names() == [QUEUE]


async def test_command_forgets_or_names_what_holds(app: App, qcore: Command):
    @app.task
    async def nothing() -> None: ...

    await nothing.enqueue()
    held = await qcore("queues", "forget", "default", "--yes")
    assert held.code == 1
    assert "queue default was not forgotten: it holds 1 ready (let workers" in held.err
    await app.inspector.clear("default")
    await ask(app.broker, b"DEL", app.broker._keys_of("default").names["producers"])
    shown = await qcore("queues", "--json")
    assert [queue["name"] for queue in shown.json] == ["default"]
    gone = await qcore("queues", "forget", "default", "--yes")
    assert gone.out == "Forgot default.\n"
    again = await qcore("queues", "forget", "default", "--yes")
    assert "there is no queue 'default'" in again.err
