"""Each job in one place: what the audit finds after a hand was in Redis, and how it is mended."""

import shlex

import pytest

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.job_audit import Horizon, audit, repair
from qcore.model.findings import Finding, Level
from qcore.model.job import Acked, Buried, Retried
from tests.support.moves import (
    NOW,
    OTHER_OWNER,
    OWNER,
    QUEUE,
    ask,
    content,
    failed_state,
    leased,
    put,
    settle,
    token,
)
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


async def hand(broker: Broker, command: str, key: str, *words: object) -> None:
    """Do what no script does."""
    await ask(broker, command.encode(), broker._keys_of(QUEUE).names[key], *words)


async def faults(broker: Broker) -> list[Finding]:
    found = await audit(broker, QUEUE)
    assert all(f.remedy for f in found if f.level is not Level.OK)
    return [finding for finding in found if finding.level is not Level.OK]


async def mend(broker: Broker, found: list[Finding]) -> None:
    """Run the commands as an operator would, by copying them."""
    for finding in found:
        for command in finding.commands:
            program, *words = shlex.split(command)
            assert program == "redis-cli", command
            await ask(broker, *words)


async def one_of_each(broker: Broker) -> None:
    """Leave a ready, a scheduled, an active and a dead job, and one that ended."""
    (dead, ended, _active) = await leased(broker, "dead", "ended", "active")
    await put(broker, "ready")
    await put(broker, "later", when="+60000")
    await settle(broker, (ended, Acked(outcome=b"x", keep_ms=1000)), (dead, Acked()))
    await put(broker, "dead")
    await hand(broker, "LREM", "ready", 1, "dead")
    await hand(broker, "ZADD", "dead", 1, "dead")


async def test_jobs_in_every_state_are_in_order(broker):
    await one_of_each(broker)
    assert await faults(broker) == []
    (finding,) = await audit(broker, QUEUE)
    assert finding.said == "4, each in one place with its payload"


async def test_empty_queue_is_in_order(broker):
    assert await faults(broker) == []


#: The job, what a hand does, what is said of it, and where it is left.
DISORDER = [
    ("ready", [("RPUSH", "ready", "ready")], "is in ready and ready", ["ready"]),
    ("dead", [("RPUSH", "ready", "dead")], "is in dead and ready", ["dead"]),
    ("active", [("RPUSH", "ready", "active")], "is in active and ready", ["active"]),
    ("active", [("ZADD", "scheduled", 1, "active")], "in active and scheduled", ["active"]),
    ("ready", [("ZADD", "scheduled", 1, "ready")], "is in scheduled and ready", ["scheduled"]),
    ("later", [("ZADD", "dead", 1, "later")], "is in dead and scheduled", ["dead"]),
    ("active", [("ZADD", "dead", 1, "active")], "is in active and dead", ["active"]),
    (
        *("active", [("ZADD", "active", 1, token("active", OTHER_OWNER))]),
        *("is in active and active", ["active"]),
    ),
    ("ready", [("LREM", "ready", 0, "ready")], "job ready is lost", ["ready"]),
    (
        *("active", [("ZREM", "active", token("active")), ("HDEL", "running", "active")]),
        *("job active is lost", ["ready"]),
    ),
    ("ready", [("HSET", "done", "ready", "x")], "is in ready and has an outcome", ["ready"]),
    ("ended", [("RPUSH", "ready", "ended")], "has ended and is still in ready", []),
    ("ready", [("HSET", "running", "ready", token("ready"))], "without a lease", ["ready"]),
    ("active", [("HDEL", "running", "active")], "has a lease and is not in", ["active"]),
    ("rubbish", [("ZADD", "active", 1, "rubbish")], "is no token", []),
]


@pytest.mark.parametrize(("job", "moves", "said", "left"), DISORDER)
async def test_disorder_is_named_and_its_commands_mend_it(broker, job, moves, said, left):
    await one_of_each(broker)
    for command, key, *words in moves:
        await hand(broker, command, key, *words)
    (finding,) = await faults(broker)
    assert said in finding.said
    await mend(broker, [finding])
    assert await faults(broker) == []
    assert await places_of(broker, job) == left


async def places_of(broker: Broker, id: str) -> list[str]:
    found = await content(broker)
    return [
        place
        for place in ("ready", "scheduled", "dead", "active")
        for member in found.get(place, ())
        if member.rpartition(":")[2] == id
    ]


async def test_two_leases_of_one_job_leave_the_one_that_is_known(broker):
    await leased(broker, "a")
    await hand(broker, "ZADD", "active", 1, token("a", OTHER_OWNER))
    await mend(broker, await faults(broker))
    assert list((await content(broker))["active"]) == [token("a")]


@pytest.mark.parametrize("place", ["scheduled", "dead"])
async def test_commands_that_come_late_lose_no_job(broker, place):
    """The run has ended in the very structure from which its job was to be removed."""
    (lease,) = await leased(broker, "a")
    await hand(broker, "ZADD", place, NOW, "a")
    found = await faults(broker)
    end = Retried(1000, failed_state("no")) if place == "scheduled" else Buried(failed_state("no"))
    await settle(broker, (lease, end))
    await mend(broker, found)
    assert await places_of(broker, "a") == [place]
    assert await faults(broker) == []


@pytest.mark.parametrize(
    ("job", "remedy", "command"),
    [
        ("ready", "a worker buries this one", f"qcore dead purge {QUEUE}/ready --yes"),
        ("later", "a worker buries this one", f"qcore dead purge {QUEUE}/later --yes"),
        ("dead", "forget this one", f"qcore dead purge {QUEUE}/dead --yes"),
        ("active", "If the run that is on fails", None),
    ],
)
async def test_job_without_payload_is_named(broker, job, remedy, command):
    await one_of_each(broker)
    await hand(broker, "HDEL", "jobs", job)
    (finding,) = await faults(broker)
    assert f"job {job} in " in finding.said
    assert "has no payload" in finding.said
    assert remedy in finding.remedy
    assert finding.commands == (() if command is None else (command,))


async def test_many_of_a_kind_are_counted(broker):
    ids = [f"lost-{n}" for n in range(1203)]
    for i in range(0, len(ids), 500):
        await put(broker, *ids[i : i + 500])
    await ask(broker, b"DEL", broker._keys_of(QUEUE).names["ready"])
    found = await faults(broker)
    assert len(found) == 6
    assert found[-1].said == "and 1198 more like job lost-0 is lost"


async def test_repair_mends_all_of_each_kind_and_counts_them(broker):
    ids = [f"lost-{n}" for n in range(703)]
    for i in range(0, len(ids), 500):
        await put(broker, *ids[i : i + 500])
    await ask(broker, b"DEL", broker._keys_of(QUEUE).names["ready"])
    await put(broker, "twice")
    await hand(broker, "RPUSH", "ready", "twice", b"\xff\xfe")
    await hand(broker, "HSET", "jobs", b"\xff\xfe", b"payload")
    await hand(broker, "RPUSH", "ready", b"\xff\xfe")  # no shell would take its name
    await hand(broker, "ZADD", "active", 1, "rubbish")
    counts = {"lost": 703, "two places": 2, "no token": 1}
    assert await repair(broker, QUEUE, Horizon(), dry=True) == counts
    assert len(await faults(broker)) == 6 + 2 + 1
    assert await repair(broker, QUEUE, Horizon()) == counts
    assert await faults(broker) == []
    assert len((await content(broker))["ready"]) == 705
    assert await repair(broker, QUEUE, Horizon()) == {}


async def test_lease_that_nobody_can_have_is_ended_by_repair(broker):
    """Forged, with a deadline that nobody lives to see: its job goes back with the next sweep."""
    forged = token("forged", OTHER_OWNER)
    await leased(broker, "held", "forged")
    await hand(broker, "ZADD", "active", NOW * 2, token("held", OWNER), NOW * 2, forged)
    await hand(broker, "ZREM", "active", token("forged"))
    await hand(broker, "HSET", "running", "forged", forged)
    horizon = Horizon(NOW + 1000, {OWNER})
    (finding,) = await audit(broker, QUEUE, horizon)
    assert f"{forged!r} ends too late" in finding.said
    assert await repair(broker, QUEUE, horizon) == {"far lease": 1}
    lives = {"lease_ms": 30_000, "stale_ms": 10**10, "guard_ms": 0, "crash_limit": 9}
    swept = await broker.reclaim([QUEUE], **lives, now_ms=NOW)
    assert [x.id for x in swept.taken[QUEUE]] == ["forged"]
    assert list((await content(broker))["active"]) == [token("held")]


async def test_long_queue_is_read_in_pages(broker):
    ids = [f"job-{n}" for n in range(1203)]
    for i in range(0, len(ids), 500):
        await put(broker, *ids[i : i + 500])
    await hand(broker, "RPUSH", "ready", "job-0", "job-0")
    (finding,) = await faults(broker)
    assert "job-0 is in ready and ready and ready" in finding.said
    await mend(broker, [finding])
    assert sorted((await content(broker))["ready"]) == sorted(ids)
