"""The producer of `qcore bench`: jobs one by one, by many tasks, in bulk, never too many."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence

from qcore.broker.redis.broker import Broker
from qcore_cli.bench.report import Alone, Settings
from qcore_cli.bench.server import clean
from qcore_cli.bench.tasks import work

#: Tasks that enqueue at the same time, and the jobs of each between two looks at the clock.
TASKS = 100
_EACH = 10
#: Jobs of one enqueue_many.
_MANY = 5_000


class Producer:
    """Enqueues into the queues in turn.

    Args:
        broker: To empty the queues.
        queues: Where the jobs go.
        settings: What is measured.
        most: Jobs that may lie in Redis at a time, 100 and more.
    """

    def __init__(
        self, broker: Broker, queues: Sequence[str], settings: Settings, *, most: int
    ) -> None:
        self._broker = broker
        self._queues = queues
        self._seconds = settings.seconds
        self._max = most
        self._call = "x" * settings.payload_bytes, settings.task_ms
        self._lanes = itertools.cycle([work.options(queue=queue) for queue in queues])
        #: Jobs enqueued since the queues were emptied.
        self.enqueued = 0

    async def alone(self) -> Alone:
        """Measure enqueues, each awaited before the next; no worker runs."""
        return Alone.of(await self.spans(1, self._one))

    async def concurrent_per_s(self) -> float:
        """Measure enqueues by many tasks; no worker runs."""
        return await self._per_s(min(TASKS * _EACH, self._max // TASKS * TASKS), self._at_once)

    async def many_per_s(self) -> float:
        """Measure enqueue_many; what it enqueues last stays for the workers."""
        await self._empty()
        return await self._per_s(min(_MANY, self._max), self._many)

    async def refill(self, ready: int) -> bool:
        """Enqueue more if few jobs are ready; return whether."""
        if ready >= self._max // 4:
            return False
        await self._many(min(_MANY, self._max // 2))
        return True

    async def spans(self, jobs: int, call: Callable[[int], Awaitable[object]]) -> list[float]:
        """Call again and again with `jobs`; return how many seconds each call took.

        When that would be more than Redis is to hold, the queues are emptied, which does not count.
        """
        spans: list[float] = []
        spent_s = 0.0
        while spent_s < self._seconds:
            if self.enqueued + jobs > self._max:
                await self._empty()
            began = time.perf_counter()
            await call(jobs)
            spans.append(time.perf_counter() - began)
            spent_s += spans[-1]
        return spans

    async def _per_s(self, jobs: int, call: Callable[[int], Awaitable[object]]) -> float:
        spans = await self.spans(jobs, call)
        return round(jobs * len(spans) / sum(spans), 1)

    async def _one(self, _jobs: int = 1) -> None:
        await next(self._lanes).enqueue(*self._call)
        self.enqueued += 1

    async def _at_once(self, jobs: int) -> None:
        async def enqueue_some() -> None:
            for _ in range(jobs // TASKS):
                await self._one()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(TASKS):
                    group.create_task(enqueue_some())
        except BaseExceptionGroup as errors:  # they say the same
            raise errors.exceptions[0] from None

    async def _many(self, jobs: int) -> None:
        calls = itertools.repeat(self._call, jobs)
        self.enqueued += await next(self._lanes).enqueue_many(calls)

    async def _empty(self) -> None:
        await clean(self._broker, self._queues)
        self.enqueued = 0
