"""Listening for the wakeups of queues that lie on different nodes: one connection for each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from qcore.broker.redis.cluster_pipeline import ClusterPipeline
from qcore.broker.redis.pipeline import Pipeline
from qcore.broker.redis.scripts import Moved
from qcore.errors import BrokerError, BrokerUnavailable

#: What a wait that failed rests before it is tried again; the others go on meanwhile.
_REST_S = 1.0
#: What a wait rests when its queue has moved to another node.
_MOVE_S = 0.05


class ClusterWakeups:
    """Blocks until the wakeup of one of several queues can be taken.

    A wait that is pending when another one brought a wakeup goes on, and serves the next call.
    What it takes while nobody listens, it hands back.

    Args:
        new_pipeline: Makes a connection.
        wakeup: Returns the key of a queue's wakeup.
        hand_back: Sets the wakeups of queues again.
    """

    def __init__(
        self,
        new_pipeline: Callable[[], Pipeline | ClusterPipeline],
        *,
        wakeup: Callable[[str], bytes],
        hand_back: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._new_pipeline = new_pipeline
        self._wakeup = wakeup
        self._hand_back = hand_back
        self._pipelines: dict[str, Pipeline | ClusterPipeline] = {}
        self._waits: dict[str, asyncio.Task[bool]] = {}
        #: Loop time until which a queue rests, and why.
        self._resting: dict[str, tuple[float, BrokerError]] = {}
        self._heard: frozenset[str] = frozenset()

    async def wait(self, queues: Sequence[str], block_s: float, *, margin_s: float) -> str | None:
        """Return the queue whose wakeup came, or None after `block_s`.

        Args:
            queues: One or more.
            block_s: At most so long.
            margin_s: A reply may come so long after the end of a block.

        Raises:
            BrokerError: none of the queues can be waited for.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + block_s
        self._heard = frozenset(queues)
        try:
            while (left_s := end - loop.time()) > 0:
                waits = [w for q in queues if (w := self._start(q, left_s, margin_s)) is not None]
                if not waits:
                    raise self._resting[queues[0]][1]
                limit_s = left_s if len(waits) == len(queues) else min(left_s, _REST_S)
                await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
                rung = [queue for queue in queues if self._rang(queue)]
                if rung[1:]:
                    await self._hand_back(rung[1:])
                if rung:
                    return rung[0]
            return None
        finally:
            self._heard = frozenset()

    def _start(self, queue: str, block_s: float, margin_s: float) -> "asyncio.Task[bool] | None":
        """Return the wait for a queue, a new one if there is none; None while it rests."""
        loop = asyncio.get_running_loop()
        if queue not in self._waits:
            until, _ = self._resting.get(queue, (0.0, None))
            if loop.time() < until:
                return None
            self._waits[queue] = loop.create_task(self._listen(queue, block_s, margin_s))
        return self._waits[queue]

    async def _listen(self, queue: str, block_s: float, margin_s: float) -> bool:
        if queue not in self._pipelines:
            self._pipelines[queue] = self._new_pipeline()
        (reply,) = await self._pipelines[queue].send(
            [(b"BZPOPMIN", self._wakeup(queue), f"{block_s:.3f}")],
            timeout_s=block_s + margin_s,
            blocks=True,
        )
        if isinstance(reply, Moved):
            # the next wait goes to the new node; nodes may disagree for a moment
            await asyncio.sleep(_MOVE_S)
            return False
        if isinstance(reply, BrokerError):
            raise reply
        if reply is not None and queue not in self._heard:
            await self._hand_back([queue])
            return False
        return reply is not None

    def _rang(self, queue: str) -> bool:
        """Say whether the wait for a queue has ended with a wakeup; forget it if it has ended."""
        wait = self._waits.get(queue)
        if wait is None or not wait.done():
            return False
        del self._waits[queue]
        error = wait.exception()
        if error is None:
            return wait.result()
        why = error if isinstance(error, BrokerError) else BrokerUnavailable(str(error))
        self._resting[queue] = asyncio.get_running_loop().time() + _REST_S, why
        return False

    async def close(self) -> None:
        """End all waits, and close their connections."""
        waits, self._waits = list(self._waits.values()), {}
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        pipelines, self._pipelines = list(self._pipelines.values()), {}
        for pipeline in pipelines:
            await pipeline.close()
