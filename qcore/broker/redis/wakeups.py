"""How idle workers hear that a queue may have jobs: by one member of a key, which they pop."""

from collections.abc import Callable, Sequence

from qcore.broker.redis.claiming_wait import ClaimingWait
from qcore.broker.redis.cluster_pipeline import ClusterPipeline, answers
from qcore.broker.redis.cluster_wakeups import ClusterWakeups
from qcore.broker.redis.endpoint import Endpoint
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.pipeline import Pipeline
from qcore.errors import BrokerError


class Wakeups:
    """Waits for wakeups, and sets them.

    Only a wakeup is ever popped, never a job: a reply that is lost costs nothing but time.

    Args:
        endpoint: Where they are; waiting has a connection of its own, in a Cluster one per queue.
        upkeep: By which they are set.
        keys_of: Returns the keys of a queue.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        upkeep: Pipeline | ClusterPipeline,
        keys_of: Callable[[str], QueueKeys],
    ) -> None:
        self._upkeep = upkeep
        self._keys_of = keys_of
        self._margin_s = endpoint.margin_s
        self._one = endpoint.pipeline()
        #: Where each queue has a node of its own.
        self._many: ClusterWakeups | None = None
        #: Waits with a claim behind them; None where no one wait is for all queues.
        self.claiming: ClaimingWait | None = None
        if isinstance(self._one, Pipeline):
            self.claiming = ClaimingWait(self._one, upkeep, keys_of, self._margin_s)
        else:
            self._many = ClusterWakeups(endpoint.pipeline, wakeup=self._key, hand_back=self.set)

    def _key(self, queue: str) -> bytes:
        return self._keys_of(queue).names["wakeup"]

    async def wait(self, queues: Sequence[str], block_s: float) -> str | None:
        """Block until the wakeup of a queue can be taken; return its name, None after `block_s`."""
        if self._many is not None:
            return await self._many.wait(queues, block_s, margin_s=self._margin_s)
        wakeups = {self._key(queue): queue for queue in queues}
        (reply,) = await self._one.send(
            [(b"BZPOPMIN", *wakeups, f"{block_s:.3f}")],
            timeout_s=block_s + self._margin_s,
            blocks=True,
        )
        if isinstance(reply, BrokerError):
            raise reply
        return None if reply is None else wakeups[reply[0]]

    async def set(self, queues: Sequence[str]) -> None:
        """Set the wakeups of queues."""
        await answers(self._upkeep, [(b"ZADD", self._key(queue), 0, b"1") for queue in queues])

    async def pass_on(self, queues: Sequence[str]) -> None:
        """Set the wakeups after a wait that was cut off: it may have taken one, unheard.

        The connection of that wait is closed a moment before this; the round trip in front lets
        the server see it, else the dead wait could take these wakeups too.
        """
        if self._many is not None:
            await self._many.close()
        await self._upkeep.send([(b"ZCARD", self._key(queue)) for queue in queues])
        await self.set(queues)

    async def close(self) -> None:
        """Close the connection after the wait in flight."""
        await self._one.close()

    async def drop(self) -> None:
        """End all waits at once, and close their connections."""
        if self._many is not None:
            await self._many.close()
        self._one.drop()
