"""Producers that block: scripts, views in threads, tasks that are no coroutines."""

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qcore import App, ConfigError, JobFailed, JobStatus, Retry
from qcore.broker.redis.broker import Broker
from qcore.model.views import JobRecord
from tests.support import process_tasks
from tests.support.content import keys_of
from tests.support.process_tasks import Page
from tests.support.programs import ended, run, start
from tests.support.servers import Server
from tests.support.waiting import eventually
from tests.support.workers import working


async def ready(broker: Broker) -> int:
    return len((await keys_of(broker, "default"))["ready"])


# -- scripts ---------------------------------------------------------------------------------------


async def test_script_enqueues_without_opening_the_app(
    broker: Broker, redis_url: str, namespace: str
):
    assert run(
        """
print(note.enqueue_sync(1).status_sync())
print(note.options(delay=60).enqueue_sync(n=2).status_sync())
try:
    note.enqueue_sync("no number")
except ArgumentError as error:
    print(error)
""",
        redis_url,
        namespace,
    ) == ["ready", "scheduled", "task note: Expected `int`, got `str` - at `$.n`"]
    assert await ready(broker) == 1


def test_script_joins_and_leaves_the_embedded_server(tmp_path: Path):
    """The last user stops it, and what was accepted is there for the next one."""
    url = f"embedded://{tmp_path / 'data'}"
    text = "note.enqueue_sync(1)\nprint(note.enqueue_sync(2).status_sync())"
    assert run(text, url, "qcore") == ["ready"]
    assert not list((tmp_path / "data").glob("*.pid"))
    text = "print(asyncio.run(count()))\n"
    count = """
async def count():
    async with app:
        return (await app.inspector.queues())[0].ready
"""
    assert run(count + text, url, "qcore") == ["2"]


async def test_fork_of_a_script_uses_connections_of_its_own(own_server: Server):
    run(
        """
note.enqueue_sync(0)

def child():
    with_threads = [threading.Thread(target=note.enqueue_sync, args=(n,)) for n in range(5)]
    for thread in with_threads: thread.start()
    for thread in with_threads: thread.join()

gone_well(*[forked(child) for _ in range(3)])
note.enqueue_sync(9)
if pid := os.fork():  # and one that ends as a program does
    gone_well(pid)
note.enqueue_sync(10)
""",
        own_server.url,
        "qcore",
    )
    assert own_server.ask("LLEN", "{qcore:default}:ready") == 19
    # one for each process, and for each thread that found the others' in use
    assert 5 <= own_server.ask("HLEN", "{qcore:default}:producers") <= 17


async def test_interrupt_ends_the_wait(own_server: Server):
    process = start(
        """
job = note.enqueue_sync(1)
try:
    job.result_sync()
except KeyboardInterrupt:
    print("interrupted", job.status_sync())
""",
        own_server.url,
        "qcore",
    )
    await eventually(lambda: own_server.ask("HLEN", "{qcore:default}:waiters") == 1)
    process.send_signal(signal.SIGINT)
    assert ended(process) == ["interrupted ready"]


def test_program_ends_while_a_thread_waits(redis_url: str, namespace: str):
    run(
        """
job = note.enqueue_sync(1)
threading.Thread(target=job.result_sync, daemon=True).start()
threading.Thread(target=lambda: note.enqueue_sync(2)).start()
""",
        redis_url,
        namespace,
    )


def test_program_ends_while_redis_hangs(own_server: Server):
    text = "note.enqueue_sync(1)\nprint('done', flush=True)\nsys.stdin.readline()"
    process = start(text, own_server.url, "q", stdin=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    own_server.signal(signal.SIGSTOP)
    try:
        assert ended(process, "\n") == []
    finally:
        own_server.signal(signal.SIGCONT)


def test_environment_without_a_url_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("QCORE_URL", raising=False)
    app = App()

    @app.task
    def one() -> None: ...

    with pytest.raises(ConfigError, match="no Redis URL"):
        one.enqueue_sync()


# -- loops and threads -----------------------------------------------------------------------------


async def test_blocking_call_in_a_running_loop_is_refused(app: App):
    @app.task
    async def one() -> None: ...

    with pytest.raises(ConfigError, match=r"use `await enqueue\(\.\.\.\)`"):
        one.enqueue_sync()
    job = await one.enqueue()
    with pytest.raises(ConfigError, match=r"use `await result\(\.\.\.\)`"):
        job.result_sync()
    with pytest.raises(ConfigError, match=r"use `await status\(\)`"):
        job.status_sync()


@pytest.mark.parametrize("broken", ["start", "loop"])
def test_thread_that_cannot_start_or_ends_is_replaced(redis_url: str, namespace: str, broken: str):
    """An error for the call that meets it, not a wait for ever for all that follow."""
    assert run(
        f"""
from qcore import blocking

def full(self):
    raise RuntimeError("can't start new thread")

def end():
    raise SystemExit

if {broken!r} == "start":
    start, threading.Thread.start = threading.Thread.start, full
    try:
        note.enqueue_sync(1)
    except RuntimeError as e:
        print(e)
    threading.Thread.start = start
else:
    note.enqueue_sync(1)
    (thread,) = [t for t in threading.enumerate() if t.name == "qcore-sync"]
    blocking._thread.get().loop.call_soon_threadsafe(end)
    thread.join()
    print("can't start new thread")
print(note.enqueue_sync(2).status_sync())
""",
        redis_url,
        namespace,
    ) == ["can't start new thread", "ready"]


async def test_blocking_use_does_not_open_the_app_for_loops(redis_url: str, namespace: str):
    app = App(redis_url, namespace=namespace)

    @app.task
    async def one() -> None: ...

    await asyncio.to_thread(one.enqueue_sync)
    with pytest.raises(ConfigError, match="the app is not open"):
        await one.enqueue()


async def test_views_in_a_thread_pool_wait_for_their_results(app: App):
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task(retry=Retry(max_attempts=1))
    async def fail() -> None:
        raise ValueError("out of paper")

    def view(n: int) -> int:
        return double.enqueue_sync(n).result_sync(timeout=30)

    def failing() -> None:
        fail.enqueue_sync().result_sync(timeout=30)

    async with working(app):
        with ThreadPoolExecutor(8) as pool:
            loop = asyncio.get_running_loop()
            answers = [loop.run_in_executor(pool, view, n) for n in range(50)]
            assert await asyncio.gather(*answers) == [2 * n for n in range(50)]
            with pytest.raises(JobFailed, match="out of paper"):
                await loop.run_in_executor(pool, failing)


async def test_wait_that_blocks_ends_at_its_timeout(app: App):
    @app.task
    async def one() -> int:
        return 1

    job = await one.enqueue()
    with pytest.raises(TimeoutError, match=job.ref):
        await asyncio.to_thread(job.result_sync, 0.1)


async def test_task_in_a_thread_enqueues_another(app: App):
    @app.task
    async def second(n: int) -> int:
        return n + 1

    @app.task
    def first() -> str:
        return second.enqueue_sync(1).ref

    async with working(app):
        ref = await (await first.enqueue()).result(timeout=10)
        assert await app.job(ref).result(timeout=10) == 2


async def test_task_in_a_process_enqueues_where_its_worker_works(redis_url: str, namespace: str):
    """The URL came from nowhere but a call in this process, as that of a flag does."""
    app = process_tasks.app
    app.configure(url=redis_url, namespace=namespace)
    async with app, working(app):
        ref = await (await process_tasks.enqueue_another.enqueue()).result(timeout=20)
        job = process_tasks.number_of.handle(*ref.split("/"))
        assert await job.result(timeout=20) == Page(2, ["from a process", "the end"])
        assert await job.status() is JobStatus.COMPLETED


def test_override_holds_for_the_thread_of_sync_calls_and_ends_for_it_too(
    redis_url: str, namespace: str
):
    app = App(redis_url, namespace=namespace)

    @app.task
    async def task() -> None: ...

    def found() -> list[bool]:
        spaces = [namespace, f"{namespace}-other"]
        return [job is not None for job in (_job_in(redis_url, s, ref) for s in spaces)]

    ref = task.enqueue_sync().ref
    assert found() == [True, False]
    with app.override(namespace=f"{namespace}-other"):
        ref = task.enqueue_sync().ref
        assert found() == [False, True]
    ref = task.enqueue_sync().ref
    assert found() == [True, False]


def _job_in(url: str, namespace: str, ref: str) -> JobRecord | None:
    async def look() -> JobRecord | None:
        async with App(url, namespace=namespace) as app:
            queue, _, id = ref.partition("/")
            return await app.inspector.job(queue, id)

    return asyncio.run(look())
