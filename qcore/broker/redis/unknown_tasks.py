"""Jobs whose tasks no worker has: they are parked for a day, and dead after that."""

from collections import Counter
from collections.abc import AsyncIterator, Collection

from qcore.broker.redis.broker import Broker
from qcore.errors import CodecError
from qcore.model.codec import decode_envelope, decode_state
from qcore.model.findings import Finding, fault, warning

#: Entries of one page: of payloads a hundred may be 13 MB.
_PAGE = 100
#: So many tasks of a queue are named.
_NAMED = 5
_REMEDY = (
    "Start a worker whose app has it: App(include=[...]) names the modules with tasks that a "
    "worker imports. After a day such a job is dead; then revive it."
)


def check_declared(tasks: Collection[str]) -> list[Finding]:
    """Whether an app has any task at all."""
    if tasks:
        return []
    return [
        warning(
            "tasks",
            "the app has no task: every job that its workers claim is parked",
            "Import the modules with its tasks where the app is made, or name them in "
            "App(include=[...]).",
        )
    ]


async def check_tasks(broker: Broker, queue: str, known: Collection[str]) -> list[Finding]:
    """Return one finding for each task that jobs of the queue name and nobody has.

    Args:
        broker: Where the queue is.
        queue: Its name.
        known: The tasks of the app; with none those count that a worker has parked.

    Redis: pages of at most 100 payloads, or of 100 records and the payloads of parked jobs.
    """
    names = broker._keys_of(queue).names
    pages = _pages(broker, names["jobs" if known else "state"])
    counts: Counter[str] = Counter()
    async for page in pages:
        if not known:
            parked = [id for id, raw in page if decode_state(raw).is_parked]
            (payloads,) = (
                await broker._ask([(b"HMGET", names["jobs"], *parked)]) if parked else [()]
            )
            page = list(zip(parked, payloads, strict=True))
        tasks = {id: _task_of(payload) for id, payload in page}
        asked = [id for id, task in tasks.items() if task and task not in known]
        died = await broker._ask([(b"ZSCORE", names["dead"], id) for id in asked]) if asked else []
        counts.update(tasks[id] for id, at in zip(asked, died, strict=True) if at is None)
    who = "the app has not" if known else "no worker had when it came"
    return [
        fault(f"tasks of {queue}", f"{count} of its jobs name {task}, which {who}", _REMEDY)
        for task, count in counts.most_common(_NAMED)
    ]


async def _pages(broker: Broker, key: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """Yield pages of a hash; one that grows faster than it is read is left in the middle."""
    (length,) = await broker._ask([(b"HLEN", key)])
    cursor: object = 0
    for _ in range(100 + 20 * length // _PAGE):
        ((cursor, page),) = await broker._ask([(b"HSCAN", key, cursor, b"COUNT", _PAGE)])
        yield list(zip(page[::2], page[1::2], strict=True))
        if cursor == b"0":
            return


def _task_of(payload: bytes | None) -> str:
    """Return the task that a payload names; nothing for what nobody can read."""
    try:
        return decode_envelope((payload or b"")[8:]).task
    except CodecError:
        return ""
