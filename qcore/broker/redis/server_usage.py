"""What servers spend: how long a command takes, and how much CPU all of them took."""

from collections.abc import Sequence

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.server_checks import info_fields
from qcore.errors import BrokerError, BrokerUnavailable


async def ping(broker: Broker) -> None:
    """Send the cheapest command there is, and wait for its reply."""
    await broker._ask([(b"PING",)])


async def cpu_s(broker: Broker, queues: Sequence[str]) -> dict[str, float]:
    """Return the CPU seconds so far of the servers that have these queues, by their run id.

    Those of the main thread, which executes the commands, where the server tells them apart.
    Nothing where this user may not ask, or the server does not say.

    Raises:
        BrokerUnavailable: no answer.
    """
    found: dict[str, float] = {}
    for group in broker.groups(queues):
        key = broker._keys_of(group[0]).names["ready"]
        try:
            # behind a command with a key, INFO goes to the node that has it
            _, text = await broker._ask([(b"EXISTS", key), (b"INFO",)])
        except BrokerUnavailable:
            raise
        except BrokerError:
            continue
        info = info_fields(text)
        for suffix in ("_main_thread", ""):
            spent = [info.get(f"used_cpu_{kind}{suffix}", "") for kind in ("user", "sys")]
            if all(spent):
                found[info.get("run_id", "")] = sum(map(float, spent))
                break
    return found
