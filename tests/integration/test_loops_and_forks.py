"""One app in several event loops, and on both sides of a fork."""

import asyncio
import threading

import pytest

from qcore import App, ConfigError
from qcore.broker.redis.broker import Broker
from tests.support.content import keys_of
from tests.support.programs import run
from tests.support.servers import Server
from tests.support.waiting import eventually


async def _nothing() -> None: ...


async def enqueued(broker: Broker) -> tuple[int, int]:
    """Return how many jobs are ready, and how many producers have numbered their calls."""
    found = await keys_of(broker, "default")
    return len(found["ready"]), len(found["producers"])


def clients(server: Server) -> int:
    return sum("name=qcore" in line for line in server.ask("CLIENT", "LIST").splitlines())


# -- loops -----------------------------------------------------------------------------------------


async def test_each_thread_has_a_loop_and_connections_of_its_own(
    broker: Broker, redis_url: str, namespace: str
):
    app = App(redis_url, namespace=namespace)
    task = app.task(_nothing)

    async def enqueue_some() -> None:
        await asyncio.gather(*(task.enqueue() for _ in range(20)))

    async with app:
        await enqueue_some()
        threads = [threading.Thread(target=asyncio.run, args=(enqueue_some(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        await enqueue_some()

    assert await enqueued(broker) == (120, 5)


async def test_connections_of_a_loop_are_closed_when_it_ends(own_server: Server):
    """Nobody closes the app in the second loop: it was opened in the first."""
    app = App(own_server.url)
    task = app.task(_nothing)
    async with app:
        await task.enqueue()
        before = clients(own_server)
        await asyncio.to_thread(asyncio.run, task.enqueue())  # pyright: ignore[reportArgumentType]
        await eventually(lambda: clients(own_server) == before)
        assert before == 1
    await eventually(lambda: clients(own_server) == 0)


def test_app_is_opened_again_in_the_next_loop(redis_url: str, namespace: str):
    assert run(
        """
async def main(n):
    async with app:
        job = await note.enqueue(n)
        print(await job.status())

asyncio.run(main(1))
asyncio.run(main(2))
""",
        redis_url,
        namespace,
    ) == ["ready", "ready"]


def test_app_that_was_left_open_serves_the_next_loop(redis_url: str, namespace: str):
    assert (
        run(
            """
asyncio.run(app.open())
for n in range(3):
    job = asyncio.run(note.enqueue(n))
    print(asyncio.run(job.status()))
loop = asyncio.new_event_loop()  # one that ends without a word
loop.run_until_complete(app.open())
loop.close()
asyncio.run(note.enqueue(4))
""",
            redis_url,
            namespace,
        )
        == ["ready"] * 3
    )


async def test_app_that_is_not_open_says_so(redis_url: str, namespace: str):
    app = App(redis_url, namespace=namespace)
    task = app.task(_nothing)
    with pytest.raises(ConfigError, match="the app is not open"):
        await task.enqueue()
    async with app:
        async with app:
            await task.enqueue()
        await task.enqueue()  # the outer one goes on
    with pytest.raises(ConfigError, match="the app is not open"):
        await task.enqueue()
    with pytest.raises(ConfigError, match="the app is not open"):
        await asyncio.to_thread(asyncio.run, task.enqueue())  # pyright: ignore[reportArgumentType]


async def test_open_that_fails_does_not_close_the_app_of_another(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
):
    app = App(redis_url, namespace=namespace)
    task = app.task(_nothing)

    async def fail(_: Broker) -> None:
        raise ConfigError("no")

    async with app:
        with monkeypatch.context() as m:
            m.setattr(Broker, "open", fail)
            with pytest.raises(ConfigError, match="no"):
                await app.open()
        await task.enqueue()


async def test_app_that_a_loop_left_open_is_closed_by_the_next_that_opens_and_closes_it(
    redis_url: str, namespace: str
):
    app = App(redis_url, namespace=namespace)
    task = app.task(_nothing)
    await asyncio.to_thread(asyncio.run, app.open())  # pyright: ignore[reportArgumentType]
    await task.enqueue()
    async with app:
        await task.enqueue()
    with pytest.raises(ConfigError, match="the app is not open"):
        await task.enqueue()


def test_broker_without_a_loop_says_so(redis_url: str):
    with pytest.raises(ConfigError, match="no event loop runs here"):
        _ = App(redis_url).broker


# -- forks -----------------------------------------------------------------------------------------

FROM_A_RUNNING_LOOP = """
async def some(first):
    await asyncio.gather(*(note.enqueue(first + n) for n in range(10)))

async def main():
    async with app:
        await some(0)
        before = await connection()
        gone_well(*(forked(lambda: asyncio.run(some(100))) for _ in range(3)))
        await some(200)
        assert await connection() == before
"""


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
async def test_fork_from_a_running_loop(broker: Broker, redis_url: str, namespace: str, loops: str):
    run(FROM_A_RUNNING_LOOP + f"import {loops}\n{loops}.run(main())", redis_url, namespace)
    assert await enqueued(broker) == (50, 4)


async def test_fork_beside_a_running_loop_that_ends_as_a_program_does(
    broker: Broker, redis_url: str, namespace: str
):
    """The child tears down all that it inherited, without a word, and its parent goes on."""
    run(
        """
loop = asyncio.new_event_loop()
thread = threading.Thread(target=loop.run_forever)
thread.start()
there = lambda work: asyncio.run_coroutine_threadsafe(work, loop).result()

there(app.open())
there(note.enqueue(1))
before = there(connection())
if pid := os.fork():
    gone_well(pid)
    there(note.enqueue(2))
    assert there(connection()) == before
    there(app.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
else:
    asyncio.run(note.enqueue(3))
""",
        redis_url,
        namespace,
    )
    assert await enqueued(broker) == (3, 2)


async def test_fork_that_goes_on_with_the_loop_of_its_parent(own_server: Server):
    """Its calls would carry its parent's numbers, and pass for repeats: accepted, and lost."""
    run(
        """
loop = asyncio.new_event_loop()
here = loop.run_until_complete
here(app.open())
here(note.enqueue(1))
before = here(connection())

def child():
    here(note.enqueue(2))
    assert here(connection()) != before
    here(app.close())

gone_well(forked(child))
here(note.enqueue(3))
assert here(connection()) == before
here(app.close())
loop.close()
""",
        own_server.url,
        "qcore",
    )
    assert own_server.ask("LLEN", "{qcore:default}:ready") == 3
    assert own_server.ask("HLEN", "{qcore:default}:producers") == 2


async def test_fork_of_a_server_that_was_loaded_first(
    broker: Broker, redis_url: str, namespace: str
):
    """As gunicorn does with its preload option: opened in the parent, used in the children."""
    run(
        """
asyncio.run(app.open())
asyncio.run(note.enqueue(0))

def serve():
    for n in range(2):
        asyncio.run(note.enqueue(n))

gone_well(*[forked(serve) for _ in range(3)])
asyncio.run(note.enqueue(9))
""",
        redis_url,
        namespace,
    )
    assert await enqueued(broker) == (8, 8)


async def test_fork_by_multiprocessing(broker: Broker, redis_url: str, namespace: str):
    run(
        """
def serve(n):
    asyncio.run(note.enqueue(n))

async def main():
    async with app:
        await note.enqueue(0)
        children = [fork.Process(target=serve, args=(n,)) for n in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        await note.enqueue(0)

fork = multiprocessing.get_context("fork")
asyncio.run(main())
""",
        redis_url,
        namespace,
    )
    assert await enqueued(broker) == (5, 4)


async def test_fork_while_a_connection_is_lost_leaves_it_to_the_parent(own_server: Server):
    """The child's connections come and go; those of the parent stay."""
    run(
        """
async def in_child():
    async with app:
        await note.enqueue(2)

async def main():
    async with app:
        await note.enqueue(1)
        gone_well(forked(lambda: asyncio.run(in_child())))
        waiting = asyncio.create_task(app.broker.wakeups.wait(["other"], 20))
        await asyncio.sleep(0)
        gone_well(forked(lambda: asyncio.run(in_child())))
        wakeup = app.broker._keys_of("other").names["wakeup"]
        (blocked,) = await app.broker._ask([(b"ZADD", wakeup, 0, 1)])
        assert await waiting == "other"

asyncio.run(main())
""",
        own_server.url,
        "qcore",
    )


def test_fork_awaits_by_a_connection_of_its_own(own_server: Server):
    """Two processes wait, each for its job; the one that is forked ends both."""
    assert run(
        """
from qcore.broker.contract import ClaimRequest
from qcore.model.job import Acked

async def begin():
    job = await note.enqueue(1)
    waiters = app.broker._keys_of("default").names["waiters"]
    result = asyncio.create_task(job.result(timeout=30))
    while await app.broker._ask([(b"HEXISTS", waiters, job.id)]) != [1]:
        await asyncio.sleep(0.01)
    return result

async def child():
    result = await begin()
    claim = ClaimRequest(["default"], 9, 9000, "00000000000000aa:1:")
    leases = (await app.broker.turn([], claim)).leases
    await app.broker.turn([(lease, Acked()) for lease in leases], None)
    print(len(leases), await result, "in the child")

async def main():
    async with app:
        result = await begin()
        gone_well(forked(lambda: asyncio.run(child())))
        print(await result)

asyncio.run(main())
""",
        own_server.url,
        "qcore",
    ) == ["2 None in the child", "None"]


# -- the embedded server ---------------------------------------------------------------------------
