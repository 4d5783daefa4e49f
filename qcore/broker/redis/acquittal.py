"""Takes a crash back from quarantined jobs that ran beside a job now known as the culprit."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from qcore.broker.redis import scripts
from qcore.broker.redis.broker import Broker
from qcore.errors import BrokerError
from qcore.model.codec import decode_state
from qcore.model.job import Death
from qcore.model.reading import text_of


async def acquit(
    broker: Broker, queues: Sequence[str], deaths: Iterable[Death]
) -> list[tuple[str, str]]:
    """Take back the third loss of those that had it beside a culprit: they may run together again.

    They stay in quarantine, for several may have been at fault; and one whose quarantine process
    ended twice is not concerned, so that each is acquitted once.

    Args:
        broker: Where they are.
        queues: Where to look for them.
        deaths: Those of the culprit.

    Returns:
        Queue and id of each that was acquitted; of queues that cannot be asked, none.

    Redis: one read per queue, at most 60 ids each; acquit.lua per queue where some were found.
    """
    places = {(death.host, death.pid, death.worker) for death in deaths if death.quarantined}
    ids = list({id for death in deaths if death.quarantined for id in death.beside})
    if not ids:
        return []
    beside: dict[str, list[str]] = {}
    for group in broker.groups(queues):
        with suppress(BrokerError):  # nobody is to wait for an acquittal
            reads = [(b"HMGET", broker._keys_of(q).names["state"], *ids) for q in group]
            for queue, states in zip(group, await broker._ask(reads), strict=True):
                pairs = zip(ids, states, strict=True)
                if found := [id for id, state in pairs if _was_in(state, places)]:
                    beside[queue] = found
    acquitted: list[tuple[str, str]] = []
    for queue, found in beside.items():
        with suppress(BrokerError):
            (reply,) = await broker._ask([scripts.ACQUIT.call(broker._keys_of(queue), b"", *found)])
            acquitted += [(queue, text_of(id)) for id in reply]
    return acquitted


def _was_in(state: bytes | None, places: set[tuple[str, int, str]]) -> bool:
    """Say whether the only end of a quarantine process in a record is one of these."""
    ends = [death for death in decode_state(state).deaths if death.quarantined]
    return len(ends) == 1 and (ends[0].host, ends[0].pid, ends[0].worker) in places
