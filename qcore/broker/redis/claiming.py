"""Splits one claim over many queues or nodes into calls that share its limits."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

from qcore.broker.contract import ClaimRequest, Turn
from qcore.broker.redis.call_limits import leasing_s
from qcore.broker.redis.cluster_pipeline import ClusterPipeline
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.pipeline import Pipeline
from qcore.broker.redis.script_codec import add_claim, claim_call
from qcore.errors import BrokerUnavailable


async def claim_rest(
    pipeline: Pipeline | ClusterPipeline,
    keys_of: Callable[[str], QueueKeys],
    parts: Iterable[ClaimRequest],
    turn: Turn,
    now: object,
    *,
    began: float,
) -> None:
    """Claim the parts behind the first, one after another while there is room.

    Room is jobs, bytes, and time: nobody renews what the turn has claimed until it is over, so that
    all must be over in the time of one call that gives leases. While it has claimed nothing there
    is no hurry. A part is begun in the first half of that time only, and has at least the other
    half: one that is cut off loses what all have claimed, until it is found again.

    Args:
        pipeline: Where the first part went.
        keys_of: Returns the keys of a queue.
        parts: See `parts_of`.
        turn: What the first part brought; the others are added.
        now: The time of the first part.
        began: Loop time when the first part was sent.
    """
    loop = asyncio.get_running_loop()
    for part in parts:
        max_s = leasing_s(pipeline.timeout_s, part.lease_ms)
        if not turn.leases:
            began = loop.time()
        jobs = 0 if part.quarantined and turn.leases else part.limit - len(turn.leases)
        room = part.max_bytes - turn.payload_bytes()
        left_s = began + max_s - loop.time()
        if jobs <= 0 or room <= 0 or left_s < max_s / 2:
            turn.again_ms = 0  # nobody knows, so look when there is room
            break
        request = replace(part, limit=jobs, max_bytes=room)
        try:
            (reply,) = await pipeline.send([claim_call(keys_of, request, now)], timeout_s=left_s)
        except BrokerUnavailable as e:
            e.sent = True  # what went before may have taken effect
            raise
        add_claim(turn, request, reply)
