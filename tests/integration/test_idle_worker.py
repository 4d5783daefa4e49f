"""What a worker with nothing to do asks of Redis."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import redis

from qcore.broker import scripts
from qcore.broker.broker import Broker
from qcore.broker.identity import new_id
from qcore.broker.inspector import Inspector
from qcore.model.job import Job, JobStatus
from tests.support.fleet import fleet_on
from tests.support.servers import Server
from tests.support.waiting import eventually

WATCH_S = 10.0


def watch(port: int) -> Counter[str]:
    """Count the commands that clients send in WATCH_S.

    MONITOR names the origin of each command: what a script calls comes from `lua`, and is left
    out, for a client sent one command only.
    """
    counts: Counter[str] = Counter()
    with redis.Redis(port=port, protocol=2) as client, client.monitor() as monitor:
        end = time.monotonic() + WATCH_S
        while (left_s := end - time.monotonic()) > 0:
            if monitor.connection.can_read(timeout=left_s):
                seen: Any = monitor.next_command()
                if seen["client_type"] != "lua":
                    is_beat = scripts.HEARTBEAT.sha.decode() in seen["command"]
                    counts["heartbeat" if is_beat else seen["command"].split()[0]] += 1
    return counts


async def test_idle_worker_with_jobs_it_cannot_run_sends_two_commands_a_second_at_most(
    tmp_path: Path, own_server: Server
):
    with fleet_on(tmp_path, own_server.url, "idle") as fleet:
        async with fleet.producer() as producer:

            async def unknown_here() -> None: ...

            parked = await producer.app.task(name="gone.task")(unknown_here).enqueue()
            undecodable = producer.app.job(f"default/{new_id()}")
            await producer.app.broker.enqueue([Job(undecodable.id, "default", b"\xc1")])
            command = fleet.start(processes=1, lease=30, queues="urgent,default,low")
            for job, status in (
                (undecodable, JobStatus.DEAD),
                (parked, JobStatus.SCHEDULED),
            ):
                await eventually(lambda j=job, s=status: is_in(producer.app.inspector, j.id, s), 20)
            # its connections are made and its scripts known once it has swept
            swept = (b"HEXISTS", producer.app.broker.keys("default").names["meta"], b"last_sweep")
            await eventually(lambda: says_yes(producer.app.broker, swept), 20)
        counts = await asyncio.to_thread(watch, own_server.port)
        # of the supervisor, one a second
        assert 0 < counts.pop("heartbeat") <= WATCH_S + 1, counts
        assert 0 < counts.total() <= 2 * WATCH_S, counts
        assert command.process.poll() is None


async def says_yes(broker: Broker, question: tuple[object, ...]) -> bool:
    return (await broker.ask([question])) == [1]


async def is_in(inspector: Inspector, id: str, status: JobStatus) -> bool:
    record = await inspector.job("default", id)
    return record is not None and record.status is status
