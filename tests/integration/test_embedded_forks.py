"""Forked processes as users of an embedded server."""

from pathlib import Path

from qcore.broker.embedded.folder import read_marker
from qcore.broker.embedded.process import Answer, probe
from tests.support.programs import ended, run, start


def is_up(folder: Path) -> bool:
    marker = read_marker(folder)
    return marker is not None and probe(marker.socket, 1) is Answer.READY


def test_fork_is_a_user_of_its_own_of_the_embedded_server(tmp_path: Path):
    lines = run(
        """
def child():
    asyncio.run(note.enqueue(2))  # joins, and leaves at the end of its loop

async def main():
    async with app:
        await note.enqueue(1)
        before = await connection()
        gone_well(forked(child))
        assert await connection() == before
        print((await app.inspector.queues())[0].ready)

asyncio.run(main())
""",
        f"embedded://{tmp_path / 'data'}",
        "qcore",
    )
    assert lines == ["2"]
    assert not is_up(tmp_path / "data")


def test_fork_keeps_the_embedded_server_up_when_its_parent_leaves(tmp_path: Path):
    process = start(
        """
def child():
    async def stay():
        async with app:
            await note.enqueue(2)
            print("in", flush=True)
            sys.stdin.readline()
            print((await app.inspector.queues())[0].ready)
    asyncio.run(stay())

async def main():
    async with app:
        await note.enqueue(1)
        pid = forked(child)
        while (await app.inspector.queues())[0].ready < 2:
            await asyncio.sleep(0.01)
    print("left", flush=True)
    gone_well(pid)

asyncio.run(main())
""",
        f"embedded://{tmp_path / 'data'}",
        "qcore",
        stdin=True,
    )
    assert process.stdout is not None
    assert sorted(process.stdout.readline().strip() for _ in range(2)) == ["in", "left"]
    assert is_up(tmp_path / "data")
    assert ended(process, "\n") == ["2"]
    assert not is_up(tmp_path / "data")
