"""An idle worker's wait with a claim behind it: a job that comes is leased a round trip sooner."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qcore.broker.contract import ClaimRequest, Turn
from qcore.broker.redis.cluster import ClusterPipeline, answers
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.pipeline import Pipeline
from qcore.broker.redis.script_codec import CLAIM_QUEUES, add_claim, claim_call
from qcore.errors import BrokerError, BrokerUnavailable


@dataclass(slots=True)
class Woken:
    """How a wait with a claim behind it has ended."""

    #: A wakeup came.
    called: bool = False
    turn: Turn = field(default_factory=Turn)
    #: Why nothing can be waited for; the claim is made all the same.
    error: BrokerError | None = None


class ClaimingWait:
    """Waits for the wakeup of a queue and claims, in one write and one read.

    Redis runs the claim when the wait is over, whatever has ended it. A wait whose connection ends
    before is forgotten, its claim with it.

    Args:
        pipeline: Of the waits.
        upkeep: By which they are ended.
        keys_of: Returns the keys of a queue.
        margin_s: A reply may come so long after the end of a wait.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        upkeep: Pipeline | ClusterPipeline,
        keys_of: Callable[[str], QueueKeys],
        margin_s: float,
    ) -> None:
        self._pipeline = pipeline
        self._upkeep = upkeep
        self._keys_of = keys_of
        self._margin_s = margin_s
        #: What the server calls a connection, and which of the pipeline's that is.
        self._client: tuple[object, int] = None, -1
        #: The server lets this user end waits, as far as is known.
        self._can_end = True

    def serves(self, queues: Sequence[str]) -> bool:
        """Say whether it can wait for so many queues, at this server."""
        return self._can_end and len(queues) <= CLAIM_QUEUES

    async def wait(self, claim: ClaimRequest, block_s: float) -> Woken:
        """Block until there may be work, at most `block_s`; then claim.

        Raises:
            BrokerUnavailable: with `sent` the claim may be made, and as late as the wait would have
                ended: a server that has not seen the connection end goes on waiting.
            BrokerError: the server does not let a wait be ended; `serves` knows that from now on.
        """
        await self._learn_name()
        wakeups = [self._keys_of(queue).names["wakeup"] for queue in claim.queues]
        # 0 is for ever
        wait = (b"BZPOPMIN", *wakeups, f"{max(block_s, 0.001):.3f}")
        called, claimed = await self._pipeline.send(
            [wait, claim_call(self._keys_of, claim, b"")],
            timeout_s=block_s + self._margin_s,
            blocks=True,
        )
        woken = Woken()
        add_claim(woken.turn, claim, claimed)
        if isinstance(called, BrokerError):
            woken.error = called
        else:
            woken.called = called is not None
        return woken

    async def _learn_name(self) -> None:
        """Ask, once for each connection, what the server calls it, and if waits can be ended."""
        if self._client[1] == self._pipeline.opened and self._pipeline.is_ready():
            return
        try:
            name, _ = await answers(self._pipeline, [(b"CLIENT", b"ID"), _unblock(0)])
        except BrokerError as e:
            self._can_end = isinstance(e, BrokerUnavailable)
            e.sent = False  # no claim was
            raise
        self._client = name, self._pipeline.opened

    async def end(self) -> bool:
        """Let the wait end now, as if its time were over.

        Returns:
            Whether it did; else it is over, or has not begun at the server.

        Raises:
            BrokerError: the server does not answer.
        """
        name, opened = self._client
        # 0 is nobody
        (ended,) = await answers(
            self._upkeep, [_unblock(name if opened == self._pipeline.opened else 0)]
        )
        return bool(ended)


def _unblock(client: object) -> tuple[object, ...]:
    return (b"CLIENT", b"UNBLOCK", client)
