"""Which tasks wait for another one."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest

from qcore.runtime.worker.awaiters import awaiting

Child = Callable[[], Coroutine[Any, Any, None]]


async def other() -> None:
    await asyncio.sleep(3600)


async def awaits(child: Child) -> None:
    await asyncio.create_task(child())


async def gathers(child: Child) -> None:
    await asyncio.gather(child(), other())


async def waits(child: Child) -> None:
    await asyncio.wait([asyncio.create_task(child()), asyncio.create_task(other())])


async def shields(child: Child) -> None:
    await asyncio.wait_for(asyncio.shield(child()), 3600)


async def has_a_group(child: Child) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(child())


async def works_beside_a_group(child: Child) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        await asyncio.sleep(3600)


async def has_a_group_of_anyio(child: Child) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(child)


async def works_beside_a_group_of_anyio(child: Child) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(child)
        await asyncio.sleep(3600)


async def has_a_grandchild(child: Child) -> None:
    await asyncio.gather(has_a_group(child), other())


async def seen(*parents: Callable[[Child], Awaitable[None]]) -> set[int]:
    """Run the parents, who share the child that the first of them starts; return who waits."""
    box: list[asyncio.Task[Any]] = []
    began = asyncio.Event()

    async def child() -> None:
        box.append(asyncio.current_task())  # pyright: ignore[reportArgumentType]
        began.set()
        await asyncio.sleep(3600)

    tasks = [asyncio.ensure_future(parents[0](child))]
    await began.wait()
    tasks += [asyncio.ensure_future(parent(child)) for parent in parents[1:]]
    await asyncio.sleep(0)
    # from another thread, as the watchdog asks
    found = await asyncio.to_thread(lambda: list(awaiting(box[0])))
    indexes = {tasks.index(task) for task in found if task in tasks}
    for task in (*tasks, *box):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return indexes


@pytest.mark.parametrize(
    "parent",
    [
        awaits,
        gathers,
        waits,
        shields,
        has_a_group,
        works_beside_a_group,
        has_a_group_of_anyio,
        works_beside_a_group_of_anyio,
        has_a_grandchild,
    ],
)
async def test_parent_that_waits_for_its_child_is_found(parent: Callable[[Child], Awaitable[None]]):
    async def stranger(child: Child) -> None:
        await has_a_group(other)

    assert await seen(parent, stranger) == {0}


async def test_parent_that_does_not_wait_for_its_child_is_not_found():
    async def forgets(child: Child) -> None:
        asyncio.create_task(child()).add_done_callback({1}.discard)
        await asyncio.sleep(3600)

    assert await seen(forgets) == set()


async def test_all_who_share_a_child_are_found():
    shared: list[asyncio.Task[None]] = []

    async def begins(child: Child) -> None:
        shared.append(asyncio.create_task(child()))
        await shared[0]

    async def joins(child: Child) -> None:
        await asyncio.gather(shared[0], other())

    assert await seen(begins, joins) == {0, 1}
