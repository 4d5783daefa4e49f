"""I7: each id is in exactly one place; after everything ended and expired no key is left."""

import random

import pytest

from qcore.broker.redis.broker import PRODUCER_SILENT_MS, TRACE_MS, Broker
from qcore.broker.redis.inspector import Inspector
from qcore.model.job import Acked, Buried, Lease, Released, Retried
from tests.support.content import keys_of, names_in
from tests.support.moves import (
    LEASE_MS,
    NOW,
    OTHER_OWNER,
    OWNER,
    QUEUE,
    SECOND,
    claim,
    content,
    failed_state,
    put,
    settle,
)
from tests.support.reclaiming import SWEEP_MS, reclaim, reclaim_owner
from tests.support.servers import on_standalone_and_cluster

pytestmark = on_standalone_and_cluster


class House:
    """A queue under random moves, and which ids must still be somewhere."""

    def __init__(self, broker: Broker, seed: int) -> None:
        self.broker = broker
        self.draw = random.Random(seed)
        self.now = NOW
        self.seq = 0
        self.alive: set[str] = set()
        self.leases: list[Lease] = []

    async def enqueue(self) -> None:
        ids = [f"{len(self.alive)}-{self.now}-{i}" for i in range(self.draw.randrange(1, 8))]
        await put(
            self.broker,
            *ids,
            when=self.draw.choice(["", "", "+500", "+7000"]),
            now_ms=self.now,
        )
        self.alive |= set(ids)

    async def claim(self) -> None:
        self.seq += 1
        owner = self.draw.choice([OWNER, OTHER_OWNER])
        turn = await claim(
            self.broker,
            self.draw.randrange(1, 9),
            prefix=f"{owner}:{self.seq}:",
            now_ms=self.now,
            quarantined=self.seq % 3 == 0,
        )
        self.leases += turn.leases

    async def settle(self) -> None:
        """Also by zombies: a lease stays in the list after it was reclaimed."""
        self.draw.shuffle(self.leases)
        ending, self.leases = self.leases[:6], self.leases[6:]
        record = failed_state("no")
        ended = [
            (
                lease,
                self.draw.choice(
                    [
                        Acked(),
                        Acked(b"result", 60 * SECOND),
                        Retried(self.draw.randrange(5000), record),
                        Buried(record),
                        Released(),
                    ]
                ),
            )
            for lease in ending
        ]
        lost = await settle(self.broker, *ended, now_ms=self.now)
        self.alive -= {
            lease.id
            for lease, outcome in ended
            if isinstance(outcome, Acked) and not outcome.keep_ms and lease.token not in lost
        }

    async def extend(self) -> None:
        await self.broker.extend(self.leases[:5], LEASE_MS, now_ms=self.now)

    async def sweep(self) -> None:
        await reclaim(self.broker, self.now)

    async def crash(self) -> None:
        owner = self.draw.choice([OWNER, OTHER_OWNER])
        await reclaim_owner(self.broker, self.now, owner=owner, charge=self.draw.random() < 0.5)

    async def revive(self) -> None:
        inspector = Inspector(self.broker)
        dead = (await content(self.broker)).get("dead", {})
        await inspector.revive(QUEUE, list(dead)[:3])

    async def promote(self) -> None:
        await self.broker.promote([QUEUE], limit=3, now_ms=self.now)

    async def check(self) -> None:
        found = await content(self.broker)
        places = [
            [*found.get("ready", []), *found.get("quarantine", [])],
            list(found.get("scheduled", {})),
            [token.split(":", 2)[2] for token in found.get("active", {})],
            list(found.get("dead", {})),
            list(found.get("done", {})),
        ]
        ids = [id for place in places for id in place]
        assert len(ids) == len(set(ids)), "an id is in two places"
        assert set(ids) == self.alive, "an id is lost, or came from nowhere"
        with_payload = self.alive - set(places[4])
        assert set(found.get("jobs", {})) == with_payload
        assert set(found.get("running", {})) == set(places[2])
        assert set(found.get("running", {}).values()) == set(found.get("active", {}))
        assert set(found.get("state", {})) | set(found.get("crashes", {})) <= with_payload
        assert set(found.get("expiry", {})) == set(places[4])


@pytest.mark.parametrize("seed", range(4))
async def test_every_id_is_in_exactly_one_place_and_in_the_end_nowhere(broker, namespace, seed):
    house = House(broker, seed)
    moves = [
        *[house.enqueue, house.claim] * 3,
        *[house.settle, house.promote] * 2,
        house.extend,
        house.sweep,
        house.crash,
        house.revive,
    ]
    for _ in range(120):
        await house.draw.choice(moves)()
        house.now += house.draw.choice([0, 1, 300, 2 * SECOND, SWEEP_MS])
        await house.check()

    # the end of everything: all run out, the dead are purged, what was kept expires
    for _ in range(500):
        house.now += SWEEP_MS
        await house.sweep()
        await house.claim()
        waits = {"ready", "quarantine", "scheduled", "active"}
        if not house.leases and not waits & set(await content(broker)):
            break
        ended = [(lease, Acked()) for lease in house.leases]
        house.leases = []
        await settle(broker, *ended, now_ms=house.now)
    await Inspector(broker).purge(QUEUE, ids=list((await content(broker)).get("dead", {})))
    for wait_ms in (60 * SECOND + PRODUCER_SILENT_MS, TRACE_MS):
        house.now += wait_ms
        await broker.prune(QUEUE, now_ms=house.now)
    left = await keys_of(broker, QUEUE)
    assert left.pop("wakeup", {"1": 0}) == {"1": 0}
    numbers = {"last_sweep", "guard_until", "fence", "epoch"}
    assert numbers <= set(left.pop("meta")) <= numbers | {"purged"}
    assert left == {}
    assert await names_in(broker, namespace) <= {
        f"{{{namespace}:{QUEUE}}}:wakeup",
        f"{{{namespace}:{QUEUE}}}:meta",
    }
