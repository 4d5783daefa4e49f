"""The `qcore` command, as a user runs it: every subcommand, every mistake."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from qcore import App, JobHandle, JobNotFound, JobStatus, Queue, Retry
from qcore.broker.identity import new_id
from qcore.model.codec import encode
from qcore.model.job import Death, Job, JobState
from tests.support.commands import Command, one_line
from tests.support.workers import dead, working


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[App]:
    async with App(redis_url, namespace=namespace, queues=("default", "other")) as app:
        yield app


async def bury(app: App, count: int = 1) -> list[JobHandle[None]]:
    """Return jobs that died of one failed attempt each."""

    @app.task(name="die", retry=Retry(max_attempts=1))
    async def die(n: int) -> None:
        raise ValueError(f"out of paper {n}")

    jobs = [await die.enqueue(n) for n in range(count)]
    async with working(app):
        for job in jobs:
            await dead(app, job)
    return jobs


# -- what it shows ---------------------------------------------------------------------------------


async def test_queues_shows_depths(app: App, qcore: Command):
    (died,) = await bury(app)

    @app.task
    async def nothing() -> None: ...

    for _ in range(3):
        await nothing.enqueue()
    await nothing.options(delay=60).enqueue()
    await nothing.options(queue="other").enqueue()
    default, other = (await qcore("queues", "--json")).json
    assert default.pop("oldest_ready_s") >= 0
    assert default == {
        "name": "default",
        "ready": 3,
        "quarantined": 0,
        "scheduled": 1,
        "active": 0,
        "dead": 1,
        "paused": None,
        "closed_ms": None,
        "max_jobs": None,
    }
    assert (other["name"], other["ready"]) == ("other", 1)
    said = await qcore("queues", "other")
    assert said.out.splitlines()[0].split() == [
        *(
            "QUEUE",
            "READY",
            "QUARANTINED",
            "SCHEDULED",
            "ACTIVE",
            "DEAD",
            "OLDEST",
            "READY",
            "STATE",
        )
    ]
    assert said.out.splitlines()[1].split()[:6] == ["other", "1", "0", "0", "0", "0"]
    assert len(said.out.splitlines()) == 2
    assert died.queue == "default"


async def test_queues_shows_limits_where_there_are_some(
    app: App, redis_url: str, namespace: str, qcore: Command
):
    queues = ["default", Queue("other", max_jobs=1_000)]
    async with App(redis_url, namespace=namespace, queues=queues) as limited:
        await limited.broker.register(limited.queues)
    head, *lines = (await qcore("queues")).out.splitlines()
    assert head.split()[5:8] == ["DEAD", "LIMIT", "OLDEST"]
    assert {line.split()[0]: line.split()[6] for line in lines} == {"default": "-", "other": "1000"}
    told = (await qcore("queues", "--json")).json
    assert [queue["max_jobs"] for queue in told] == [None, 1000]
    assert "LIMIT" not in (await qcore("queues", "default")).out


async def test_queues_of_an_unused_namespace_are_none(qcore: Command):
    assert (await qcore("queues", "--json")).json == []
    assert "No queue has been used yet" in (await qcore("queues")).out


async def test_jobs_show_tells_everything_about_a_job(app: App, qcore: Command):
    @app.task(name="add")
    async def add(a: int, b: list[str]) -> dict[str, int]:
        return {"sum": a}

    job = await add.enqueue(1, ["x"])
    shown = (await qcore("jobs", "show", job.ref, "--json")).json
    assert (shown["id"], shown["queue"], shown["task"]) == (job.id, "default", "add")
    assert (shown["status"], shown["attempts"], shown["errors"]) == ("ready", 0, [])
    assert shown["arguments"] == {"a": 1, "b": ["x"]}
    text = (await qcore("jobs", "show", job.ref)).out
    for word in (job.ref, "ready", "add", "{'a': 1, 'b': ['x']}"):
        assert word in text
    async with working(app):
        await job.result(timeout=10)
    shown = (await qcore("jobs", "show", job.ref, "--json")).json
    assert (shown["status"], shown["result"]) == ("completed", {"sum": 1})


async def test_jobs_show_shows_bytes_that_are_no_envelope(app: App, qcore: Command):
    job = app.job(f"default/{new_id()}")
    await app.broker.enqueue([Job(job.id, job.queue, b"\xc1\x00")])
    assert (await qcore("jobs", "show", job.ref, "--json")).json["arguments"] == "c100"


async def test_dead_list_and_show_tell_why(app: App, qcore: Command):
    first, second = await bury(app, 2)
    listed = (await qcore("dead", "list", "default", "--json")).json
    assert {row["id"] for row in listed} == {first.id, second.id}
    assert {row["reason"] for row in listed} == {f"ValueError: out of paper {n}" for n in (0, 1)}
    assert len((await qcore("dead", "list", "default", "--limit", "1", "--json")).json) == 1
    assert (await qcore("dead", "list", "default", "--skip", "2", "--json")).json == []
    assert first.ref in (await qcore("dead", "list", "default")).out
    shown = (await qcore("dead", "show", first.ref, "--json")).json
    assert shown["attempts"] == 1
    assert shown["errors"][0]["kind"] == "ValueError"
    text = (await qcore("dead", "show", first.ref)).out
    for word in (first.ref, "dead", "attempt 1", "ValueError: out of paper 0", "in die"):
        assert word in text
    assert text.endswith(
        f"qcore dead revive {first.ref}\nForget it:    qcore dead purge {first.ref}\n"
    )


# -- what it changes -------------------------------------------------------------------------------


async def test_dead_revive_puts_named_jobs_back(app: App, qcore: Command):
    first, second = await bury(app, 2)
    told = (await qcore("dead", "revive", first.ref, "--json")).json
    assert told == {"revived": [first.ref], "not_dead": [], "held": {}}
    assert await first.status() is JobStatus.READY
    assert await second.status() is JobStatus.DEAD
    assert "Revived 1." in (await qcore("dead", "revive", second.ref)).out


async def test_dead_revive_all_of_a_queue(app: App, qcore: Command):
    jobs = await bury(app, 3)
    told = (await qcore("dead", "revive", "--all-of", "default", "--yes", "--json")).json
    assert sorted(told["revived"]) == sorted(job.ref for job in jobs)
    assert {await job.status() for job in jobs} == {JobStatus.READY}


async def test_dead_revive_names_those_that_are_not_dead(app: App, qcore: Command):
    (job,) = await bury(app)
    said = await qcore("dead", "revive", job.ref, "default/nobody", "--json")
    told = {"revived": [job.ref], "not_dead": ["default/nobody"], "held": {}}
    assert json.loads(said.out) == told
    assert said.code == 1
    assert one_line(said) == (
        f"qcore: not dead in {app.inspector.where}, or without payload: default/nobody"
    )


async def test_dead_purge_forgets(app: App, qcore: Command):
    first, *rest = await bury(app, 3)
    told = await qcore("dead", "purge", first.ref, "--yes", "--json")
    assert told.json == {"purged": 1}
    young = await qcore(
        "dead", "purge", "--all-of", "default", "--older-than", "60", "--yes", "--json"
    )
    assert young.json == {"purged": 0}
    assert "Purged 2." in (await qcore("dead", "purge", "--all-of", "default", "--yes")).out
    for job in (first, *rest):
        with pytest.raises(JobNotFound, match="dead jobs of its queue were purged at"):
            await app.inspector.job(job.queue, job.id)


async def test_clear_cancels_what_waits(app: App, qcore: Command):
    @app.task
    async def nothing() -> None: ...

    jobs = [await nothing.enqueue(), await nothing.options(delay=60).enqueue()]
    assert (await qcore("clear", "default", "--yes", "--json")).json == {"cleared": 2}
    for job in jobs:  # which nobody awaits
        with pytest.raises(JobNotFound, match="its queue was cleared at"):
            await job.status()
    nothing_there = f"Cleared 0: there is none in default of {app.inspector.where}.\n"
    assert (await qcore("clear", "default", "--yes")).out == nothing_there


async def test_redis_runs_the_embedded_server_until_it_is_told_to_stop(
    environment: dict[str, str], tmp_path: Path
):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qcore_cli", "redis", "data"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert b"started" in await asyncio.wait_for(process.stdout.readline(), 20)
    url = (await process.stdout.readline()).split()[1].decode()
    assert url == f"embedded://{tmp_path / 'data'}"
    async with App(url) as app:
        assert await app.inspector.names() == []
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    assert out.endswith(b"stopped\n")
    assert b"Traceback" not in err


async def test_worker_runs_the_app_of_the_current_folder(
    environment: dict[str, str], tmp_path: Path, app: App
):
    (tmp_path / "tasks.py").write_text(
        "import qcore\n"
        "print('a module may print')\n"
        "app = qcore.App(queues=['default', 'other'])\n"
        "@app.task(name='add')\n"
        "async def add(a: int, b: int) -> int: return a + b\n"
        "@app.task(name='mul', run_in='process')\n"
        "def mul(a: int, b: int) -> int: return a * b\n"
    )

    @app.task(name="add")
    async def add(a: int, b: int) -> int: ...

    @app.task(name="mul")
    async def mul(a: int, b: int) -> int: ...

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qcore_cli", "worker", "tasks:app", "--processes", "1"),
        *("--queues", "default", "--name", "mine"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
    )
    elsewhere = await add.options(queue="other").enqueue(1, 1)
    assert await (await add.enqueue(2, 3)).result(timeout=20) == 5
    assert await (await mul.enqueue(2, 3)).result(timeout=20) == 6
    assert await elsewhere.status() is JobStatus.READY
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    log = err.decode()
    assert "Traceback" not in log
    for event in ("supervisor.started", "worker.ready", "supervisor.draining", "worker.exited"):
        assert event in log
    assert "mine.1" in log


async def test_crashes_of_a_job_have_names_in_the_json_document(app: App, qcore: Command):
    @app.task
    async def nothing() -> None: ...

    job = await nothing.enqueue()
    death = Death("SIGSEGV", "worker.1", "web1", 7, 5_000_000, 2, ("other",))
    key, state = app.broker._keys_of("default").names["state"], encode(JobState(deaths=(death,)))
    await app.broker._ask([(b"HSET", key, job.id, state)])
    (shown,) = (await qcore("jobs", "show", job.ref, "--json")).json["deaths"]
    assert shown == msgspec.structs.asdict(death) | {"beside": ["other"]}
