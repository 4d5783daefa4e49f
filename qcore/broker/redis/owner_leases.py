"""Finds, renews and takes back all leases of one process, by the owner in their tokens."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from qcore.broker.redis import scripts
from qcore.broker.redis.call_limits import leasing_s
from qcore.broker.redis.cluster_pipeline import ClusterPipeline
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.pipeline import Pipeline
from qcore.broker.redis.script_codec import read_leases, read_reclaimed
from qcore.broker.redis.scripts import Call
from qcore.errors import BrokerError, BrokerUnavailable
from qcore.model.job import Lease, Reclaimed
from qcore.model.token import id_of

#: Queues in one write. Each script looks at no more than 1,000 leases.
_QUEUES = 100


async def recover(
    pipeline: Pipeline | ClusterPipeline,
    keys: Sequence[QueueKeys],
    now: object,
    lease_ms: int,
    prefix: str,
    *,
    payloads: bool,
) -> list[Lease]:
    """Return the leases with a prefix, renewed; see `Broker.recover`."""
    words = lease_ms, prefix, int(payloads)
    replies, failures = await _scan(
        pipeline,
        keys,
        lambda of, cursor: scripts.RECOVER.call(of, now, *words, cursor),
        timeout_s=leasing_s(pipeline.timeout_s, lease_ms),
    )
    for failure in failures.values():
        # what holds something of another type does not keep back the others
        if isinstance(failure, BrokerUnavailable) or len(failures) == len(keys):
            raise failure
    leases: dict[bytes, Lease] = {}  # a scan may show a token twice
    for queue, (at, fence, tokens, *columns) in replies:
        ids = [id_of(token) for token in tokens]
        found = read_leases(queue, int(at), fence, tokens, ids, *columns)
        leases |= {lease.token: lease for lease in found}
    return list(leases.values())


async def reclaim_owner(
    pipeline: Pipeline | ClusterPipeline,
    keys: Sequence[QueueKeys],
    now: object,
    *how: object,
    culprits: Collection[bytes],
) -> dict[str, list[Reclaimed]]:
    """Take what an owner holds; see `Broker.reclaim_owner`."""
    replies, failures = await _scan(
        pipeline,
        keys,
        lambda of, cursor: scripts.RECLAIM_OWNER.call(of, now, *how, cursor, *culprits),
    )
    if len(failures) == len(keys):
        raise next(iter(failures.values()))
    taken: dict[str, list[Reclaimed]] = {of.queue: [] for of in keys if of.queue not in failures}
    for queue, reply in replies:
        taken.get(queue, []).extend(read_reclaimed(reply))
    return taken


async def _scan(
    pipeline: Pipeline | ClusterPipeline,
    keys: Sequence[QueueKeys],
    ask: Callable[[QueueKeys, object], Call],
    *,
    timeout_s: float | None = None,
) -> tuple[list[tuple[str, list[Any]]], dict[str, BrokerError]]:
    """Call a script for each queue until its scan is through.

    Returns:
        The replies without their cursors, each with its queue; and by queue what failed.
    """
    replies: list[tuple[str, list[Any]]] = []
    failures: dict[str, BrokerError] = {}
    rest: list[tuple[QueueKeys, object]] = [(of, 0) for of in keys]
    while rest:
        part, rest = rest[:_QUEUES], rest[_QUEUES:]
        calls = [ask(of, cursor) for of, cursor in part]
        for (of, _), reply in zip(
            part, await pipeline.send(calls, timeout_s=timeout_s), strict=True
        ):
            if isinstance(reply, BrokerError):
                failures[of.queue] = reply
                continue
            cursor, *found = reply
            replies.append((of.queue, found))
            if cursor != b"0":
                rest.append((of, cursor))
    return replies, failures
