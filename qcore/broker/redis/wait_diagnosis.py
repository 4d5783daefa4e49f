"""Where a job stands, in words for somebody who has waited for it in vain."""

from qcore.broker.redis.inspector import Inspector
from qcore.broker.redis.server_checks import span
from qcore.model.job import JobStatus
from qcore.model.reading import natural
from qcore.model.views import JobRecord, QueueStats

#: Workers sweep the queues that they serve every few seconds.
_SERVED_S = 60


async def standing(inspector: Inspector, queue: str, id: str) -> str:
    """Say where a job is, and whether any worker serves its queue.

    Raises:
        BrokerError: Redis could not be asked.

    Redis: three reads in two round trips.
    """
    record = await inspector.job(queue, id)
    (stats,) = await inspector.queues([queue])
    broker = inspector._broker
    meta = broker._keys_of(queue).names["meta"]
    swept, (now, _) = await broker._ask([(b"HGET", meta, b"last_sweep"), (b"TIME",)])
    if record is None:
        return "there is no trace of it"
    swept_ms = natural(swept)
    idle_s = None if swept_ms is None else int(now) - swept_ms / 1000
    return f"{_place(record, stats, int(now))}; {_service(stats, idle_s)}"


def _place(record: JobRecord, stats: QueueStats, now: int) -> str:
    failed = f", after a run that ended in {record.errors[-1].kind}" if record.errors else ""
    match record.status:
        case JobStatus.SCHEDULED if record.at_ms is not None:
            return f"it is due in {span(max(0, record.at_ms / 1000 - now))}{failed}"
        case JobStatus.READY:
            return f"it is ready, one of {stats.ready} in its queue{failed}"
        case JobStatus.ACTIVE:
            return f"it is running{failed}"
        case status:
            return f"it is {status}{failed}"


def _service(stats: QueueStats, idle_s: float | None) -> str:
    if idle_s is None:
        return f"no worker has ever served queue {stats.name}"
    if idle_s > _SERVED_S:
        return f"no worker has served queue {stats.name} for {span(idle_s)}"
    if stats.paused is not None:
        return f"queue {stats.name} is paused"
    return f"workers serve queue {stats.name}"
