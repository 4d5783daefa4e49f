"""An idle worker's wait with a claim behind it: a job that comes is leased a round trip sooner."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qcore.broker.contract import ClaimRequest, Turn
from qcore.broker.redis.cluster_pipeline import ClusterPipeline, answers
from qcore.broker.redis.keys import QueueKeys
from qcore.broker.redis.pipeline import Pipeline
from qcore.broker.redis.script_codec import CLAIM_QUEUES, add_claim, claim_call
from qcore.errors import BrokerError

#: A wakeup of one worker that it does not take is gone after this.
_OWN_MS = 60_000


@dataclass(slots=True)
class Woken:
    """How a wait with a claim behind it has ended."""

    #: A wakeup of a queue came.
    called: bool = False
    turn: Turn = field(default_factory=Turn)
    #: Why nothing can be waited for; the claim is made all the same.
    error: BrokerError | None = None


class ClaimingWait:
    """Waits for the wakeup of a queue and claims, in one write and one read.

    Redis runs the claim when the wait is over, whatever has ended it. A wait whose connection ends
    before is forgotten, its claim with it. To end one early there is a wakeup that nobody else
    waits for. CLIENT UNBLOCK is no way: Redis 7.0 crashes where it meets a client whose next
    command stands behind a pause of all writes.

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

    def serves(self, queues: Sequence[str]) -> bool:
        """Say whether it can wait for so many queues."""
        return len(queues) <= CLAIM_QUEUES

    async def wait(self, claim: ClaimRequest, block_s: float) -> Woken:
        """Block until there may be work, at most `block_s`; then claim.

        Raises:
            BrokerUnavailable: with `sent` the claim may be made, and as late as the wait would have
                ended: a server that has not seen the connection end goes on waiting.
        """
        own = self._own(claim.queues, claim.prefix.partition(":")[0])
        wakeups = [self._keys_of(queue).names["wakeup"] for queue in claim.queues]
        # 0 is for ever, and for Redis 6.2 a millisecond is 0
        wait = (b"BZPOPMIN", *wakeups, own, f"{max(block_s, 0.01):.3f}")
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
            woken.called = called is not None and called[0] != own
        return woken

    async def end(self, queues: Sequence[str], owner: str) -> None:
        """Let the wait of this worker for these queues end now, or as soon as it begins.

        Raises:
            BrokerError: the server does not answer, or takes no writes.
        """
        own = self._own(queues, owner)
        await answers(self._upkeep, [(b"ZADD", own, 0, b"1"), (b"PEXPIRE", own, _OWN_MS)])

    def _own(self, queues: Sequence[str], owner: str) -> bytes:
        return self._keys_of(min(queues)).own_wakeup(owner)  # whatever their order
