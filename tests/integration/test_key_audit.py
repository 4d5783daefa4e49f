"""Unique keys of one live job each: what the audit finds after a hand was in Redis."""

import shlex

import pytest

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.job_audit import Horizon, audit, repair
from qcore.model.findings import Level
from qcore.model.job import Acked, Buried
from tests.support.content import keys_of
from tests.support.moves import NOW, QUEUE, ask, claim, settle
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


async def hold(broker: Broker, id: str, key: str, until: str = "done") -> None:
    """Enqueue a job that holds a key."""
    words = (NOW, f"of {id}", "1 0 1", id, f" 0 {until} keep - 0 {key}", "body")
    (reply,) = await broker._ask([scripts.ADMISSION.call(broker._keys_of(QUEUE), *words)])
    assert reply == []


async def hand(broker: Broker, command: str, key: str, *words: object) -> None:
    await ask(broker, command.encode(), broker._keys_of(QUEUE).names[key], *words)


async def faults(broker: Broker) -> list[str]:
    found = await audit(broker, QUEUE)
    return [finding.said for finding in found if finding.level is not Level.OK]


async def test_keys_of_jobs_in_every_state_are_in_order(broker):
    for id, key in (("a", "u4 task=1"), ("b", "u4 task=2"), ("c", "u4 task=3")):
        await hold(broker, id, key)
    await hold(broker, "d", "i4 task=4", "60000")
    dead, gone, *_ = (await claim(broker, 2)).leases
    await settle(broker, (dead, Buried(b"")), (gone, Acked()))
    assert await faults(broker) == []
    await hand(broker, "DEL", "ready")
    await hand(broker, "HDEL", "jobs", "c")
    assert await faults(broker) != []


async def test_key_of_a_job_that_is_gone_is_found_and_freed(broker):
    await hold(broker, "a", "u4 task=1")
    await hand(broker, "DEL", "ready")
    await hand(broker, "DEL", "jobs")
    assert await faults(broker) == [
        "unique key '1' of task task is held by job a, which has ended",
        "job a has ended and is noted to hold unique key '1' of task task",
    ]
    mended = await repair(broker, QUEUE, Horizon())
    assert mended == {"key of nobody": 1, "key of a job that is gone": 1}
    left = await keys_of(broker, QUEUE)
    assert {"unique", "unique_of"} & left.keys() == set()


async def test_key_that_a_live_job_has_taken_meanwhile_is_left_alone(broker):
    await hold(broker, "a", "u4 task=1")
    await hand(broker, "DEL", "ready")
    await hand(broker, "DEL", "jobs")
    found = [f for f in await audit(broker, QUEUE) if "is held by job a" in f.said]
    await hold(broker, "b", "u4 task=1")
    assert found[0].commands[0].isprintable(), "nobody can copy it"
    _, *words = shlex.split(found[0].commands[0])
    await ask(broker, *words)
    assert (await keys_of(broker, QUEUE))["unique"]["u4 task=1"].endswith(" b")


async def test_keys_of_a_job_that_has_come_back_meanwhile_are_left_alone(broker):
    """An id of a user's own is used again; or somebody has revived it."""
    await hold(broker, "a", "u4 task=1")
    await hand(broker, "DEL", "ready")
    await hand(broker, "DEL", "jobs")
    found = [f for f in await audit(broker, QUEUE) if f.level is not Level.OK]
    await hand(broker, "HSET", "jobs", "a", b"12345678body")
    await hand(broker, "RPUSH", "ready", "a")
    before = await keys_of(broker, QUEUE)
    for finding in found:
        _, *words = shlex.split(finding.commands[0])
        await ask(broker, *words)
    assert await keys_of(broker, QUEUE) == before


async def test_two_live_jobs_of_a_key_are_named(broker):
    await hold(broker, "a", "u4 task=1")
    await hand(broker, "HDEL", "unique", "u4 task=1")
    await hold(broker, "b", "u4 task=1")
    (said,) = await faults(broker)
    assert said == f"unique key '1' of task task has 2 live jobs: {QUEUE}/a, {QUEUE}/b"
    (finding,) = (f for f in await audit(broker, QUEUE) if f.level is not Level.OK)
    assert finding.commands == (f"qcore jobs cancel {QUEUE}/b",)


@pytest.mark.parametrize("text", ["", "x", "1 2 3", b"\xff\x00", "9" * 30 + " 1 1 - 0 a"])
async def test_entry_that_cannot_be_read_is_named_and_holds_nothing(broker, text):
    await hand(broker, "HSET", "unique", "u4 task=1", text)
    (said,) = await faults(broker)
    assert said.startswith("what unique key '1' of task task holds cannot be read")
    await hold(broker, "a", "u4 task=1")
    assert await faults(broker) == []
