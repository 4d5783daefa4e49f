"""Metrics in the format of Prometheus agree with what ran."""

import asyncio
import signal
import sys
from functools import partial
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qcore.errors import ConfigError
from qcore.runtime.supervisor.endpoints import open_front
from qcore.settings import SupervisorConfig
from tests.support import fleet_tasks
from tests.support.fleet import Fleet
from tests.support.http import ask, get
from tests.support.servers import Server
from tests.support.waiting import eventually

TASKS = fleet_tasks.__name__
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def fleet_url(own_server: Server) -> str:
    return own_server.url


class Scrape:
    """One exposition, parsed by the library of those who read it."""

    def __init__(self, text: str) -> None:
        self.samples: Samples = {}
        for family in text_string_to_metric_families(text):
            assert family.documentation
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                assert key not in self.samples, f"twice: {key}"
                self.samples[key] = sample.value

    def value(self, name: str, **labels: str) -> float:
        return self.samples[name, tuple(sorted(labels.items()))]

    def runs(self, outcome: str, task: str = "work", queue: str = "default") -> float:
        labels = {"queue": queue, "task": f"{TASKS}.{task}", "outcome": outcome}
        key = "qcore_job_runs_total", tuple(sorted(labels.items()))
        return self.samples.get(key, 0)

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


async def scrape(port: int) -> Scrape:
    status, text = await get(port, "/metrics")
    assert status == 200
    return Scrape(text)


async def until(port: int, **expected: Any) -> Scrape:
    """Scrape until every outcome of `work` has the expected count."""

    async def is_so() -> Scrape | None:
        found = await scrape(port)
        return found if all(found.runs(o) == count for o, count in expected.items()) else None

    found = await eventually(is_so, 20)
    assert found is not None
    return found


async def test_runs_are_counted_by_task_and_outcome(fleet: Fleet, port: int):
    command = fleet.start_with(processes=2, heartbeat_s=0.2, metrics_port=port)
    await command.ready(2)
    async with fleet.producer() as producer:
        for _ in range(40):
            await producer.send("work")
        for _ in range(3):
            await producer.send("fail_once", "once")
        for _ in range(2):
            await producer.send("bad", "give up")
        await fleet.emptied(20)
    found = await until(port, completed=40)

    async def all_told() -> bool:
        nonlocal found
        found = await scrape(port)
        return found.runs("dead", "bad") == 2 and found.runs("completed", "fail_once") == 3

    await eventually(all_told)
    assert found.runs("retried", "fail_once") == 3
    assert found.runs("completed", "bad") == 0
    labels = {"queue": "default", "task": f"{TASKS}.work"}
    assert found.value("qcore_job_run_seconds_count", **labels) == 40
    assert found.value("qcore_job_run_seconds_bucket", **labels, le="+Inf") == 40
    assert found.value("qcore_job_run_seconds_bucket", **labels, le="1800.0") == 40
    assert 0 < found.value("qcore_job_run_seconds_sum", **labels) < 40 * 20
    assert found.value("qcore_queue_jobs", queue="default", state="dead") == 2


async def test_run_times_are_those_of_the_runs(fleet: Fleet, port: int):
    command = fleet.start_with(processes=1, heartbeat_s=0.2, metrics_port=port)
    await command.ready(1)
    async with fleet.producer() as producer:
        await producer.send("work", 1.5)
        found = await until(port, completed=1)
    labels = {"queue": "default", "task": f"{TASKS}.work"}
    assert found.value("qcore_job_run_seconds_bucket", **labels, le="1.0") == 0
    assert found.value("qcore_job_run_seconds_sum", **labels) >= 1.5


async def test_counters_go_on_when_workers_are_replaced_or_killed(fleet: Fleet, port: int):
    command = fleet.start_with(processes=1, heartbeat_s=0.2, metrics_port=port, max_jobs=10)
    await command.ready(1)
    async with fleet.producer() as producer:
        for _ in range(20):
            await producer.send("work")
        await eventually(lambda: command.events("worker.replaced"), 30)
        before = await until(port, completed=20)
        assert before.value("qcore_worker_ends_total", how="killed") == 0
        fleet.kill_worker((await command.ready(1))[0])
        await eventually(lambda: len(command.workers()) == 1 and command.exit_codes()[-1] is None)
        for _ in range(5):
            await producer.send("work")
        after = await until(port, completed=25)
    for (name, labels), value in before.samples.items():
        if name.endswith(("_total", "_count", "_bucket", "_sum")):
            assert after.samples[name, labels] >= value, (name, labels)
    assert after.value("qcore_worker_ends_total", how="crashed") == 1
    assert after.value("qcore_workers_started_total") == len(command.spawned())


async def test_many_tasks_are_told_over_one_pipe(fleet: Fleet, port: int):
    many = 150
    fleet.write_tasks(
        "shop",
        f"""
async def nothing() -> None: pass
for n in range({many}):
    app.task(name="a_task_with_quite_a_long_name_%03d" % n)(nothing)
""",
    )
    command = fleet.start_with(
        processes=1, queues=("default",), metrics_port=port, app="shop:app", heartbeat_s=0.2
    )
    await command.ready(1)
    async with fleet.producer() as producer:

        async def nothing() -> None: ...

        for n in range(many):
            task = producer.app.task(name=f"a_task_with_quite_a_long_name_{n:03}")(nothing)
            await task.enqueue()

        async def all_told() -> bool:
            found = (await scrape(port)).samples
            names = {
                dict(labels)["task"]: value
                for (name, labels), value in found.items()
                if name == "qcore_job_run_seconds_count"
            }
            return len(names) == many and set(names.values()) == {1.0}

        await eventually(all_told, 20)


async def test_depths_and_wait_are_those_of_redis(fleet: Fleet, port: int):
    async with fleet.producer() as producer:
        for _ in range(7):
            await producer.send("work", 60.0)
        await producer.send(producer.task("work").options(delay=1000), 60.0)
        command = fleet.start_with(
            processes=1, concurrency=2, heartbeat_s=0.2, metrics_port=port, shutdown_timeout_s=1.0
        )
        await command.ready(1)
        await eventually(lambda: len(fleet.runs()) == 2, 20)
        found = await scrape(port)
    assert found.value("qcore_redis_up") == 1
    assert found.value("redis_queue_depth", queue="default") == 5
    assert found.value("redis_queue_depth", queue="low") == 0
    counts = {"ready": 5, "quarantined": 0, "scheduled": 1, "active": 2, "dead": 0}
    for state, count in counts.items():
        assert found.value("qcore_queue_jobs", queue="default", state=state) == count
    assert 0 < found.value("qcore_queue_wait_seconds", queue="default") < 100
    assert found.value("qcore_queue_wait_seconds", queue="low") == 0


async def test_limits_are_told_of_queues_that_have_one(fleet: Fleet, port: int):
    fleet.write_module(
        "shop",
        "from qcore import App, Queue\napp = App(queues=[Queue('default', max_jobs=500), 'low'])\n",
    )
    command = fleet.start(processes=1, metrics_port=port, app="shop:app")
    await command.ready(1)
    found = await scrape(port)
    assert found.value("qcore_queue_max_jobs", queue="default") == 500
    assert ("qcore_queue_max_jobs", (("queue", "low"),)) not in found.samples


async def test_workers_are_shown_and_redis_that_is_away_hides_only_the_depths(
    fleet: Fleet, own_server: Server, port: int
):
    command = fleet.start_with(
        processes=2, heartbeat_s=0.2, metrics_port=port, health_port=port, bind="127.0.0.1"
    )
    await command.ready(2)
    assert (await get(port, "/livez"))[0] == 200
    said = await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert b"\r\nContent-Type: text/plain; version=" in said
    own_server.kill()
    found = await scrape(port)
    assert found.value("qcore_redis_up") == 0
    assert not {"redis_queue_depth", "qcore_queue_jobs"} & found.names()
    assert found.value("qcore_workers", state="running") == 2
    assert found.value("qcore_workers", state="starting") == 0
    assert 10e6 < found.value("qcore_memory_max_bytes") < found.value("qcore_memory_bytes")
    assert found.value("qcore_loop_lag_seconds") >= 0


async def test_redis_that_hangs_holds_up_no_scrape(fleet: Fleet, own_server: Server, port: int):
    command = fleet.start_with(processes=1, heartbeat_s=0.2, metrics_port=port)
    await command.ready(1)
    assert (await scrape(port)).value("qcore_redis_up") == 1
    own_server.signal(signal.SIGSTOP)
    both = await asyncio.gather(scrape(port), scrape(port))
    assert {found.value("qcore_redis_up") for found in both} == {0}
    assert {found.value("qcore_workers", state="running") for found in both} == {1}
    own_server.signal(signal.SIGCONT)
    await eventually(partial(is_up, port), 20)


async def is_up(port: int) -> bool:
    return (await scrape(port)).value("qcore_redis_up") == 1


async def test_lag_between_two_scrapes_is_not_lost(fleet: Fleet, port: int):
    command = fleet.start_with(processes=1, heartbeat_s=0.2, metrics_port=port)
    await command.ready(1)
    async with fleet.producer() as producer:
        number = await producer.send("block", 0.7)
        await eventually(lambda: number in fleet.done(), 20)

        async def is_told() -> bool:
            return (await scrape(port)).value("qcore_loop_lag_seconds") >= 0.3

        await eventually(is_told, 20)  # not by the first beat, which may be faster than the look
        await producer.send("work")
        # beats that know nothing of the lag any more have come since
        found = await until(port, completed=1)
    assert found.value("qcore_loop_lag_seconds") >= 0.3


async def test_package_that_is_missing_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, port: int):
    monkeypatch.delitem(sys.modules, "qcore.runtime.supervisor.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    supervision = SupervisorConfig(processes=1, metrics_port=port)
    nobody: Any = None
    with pytest.raises(ConfigError, match=r"prometheus_client: install qcore-queue\[metrics\]"):
        async with open_front(supervision, nobody, nobody, limit_s=1):
            pass
