"""What `qcore bench` asks of a server before it writes, and what it removes at the end."""

from collections.abc import Mapping, Sequence

from qcore import ConfigError, QcoreError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.broker.redis.keys import QueueKeys, namespace_keys, queues_key
from qcore.broker.redis.server_checks import Level, check_eviction, info_fields, read_info
from qcore.errors import BrokerError, BrokerUnavailable

#: What the bench may put into Redis at a time, and what a job takes beside its payload, which
#: Redis rounds up by as much as a quarter.
_MAX_BYTES, _JOB_BYTES = 64 * 2**20, 304
_MIN_JOBS = 100


async def admit(broker: Broker) -> Mapping[str, str]:
    """Return what the server tells of itself; nothing where it tells this user nothing.

    Raises:
        ConfigError: it deletes jobs when it is full, so no worker would start.
        BrokerUnavailable: no answer.
    """
    try:
        info = await read_info(broker)
    except BrokerUnavailable:
        raise
    except BrokerError:
        return {}
    eviction = check_eviction(info)
    if eviction.level is not Level.OK:
        raise ConfigError(f"{eviction.said}; a worker refuses it too. {eviction.remedy}")
    return info


def max_jobs(payload_bytes: int, info: Mapping[str, str]) -> int:
    """Return how many jobs may lie in Redis at a time: half of what is left there stays free.

    Raises:
        ConfigError: too few.
    """
    max_bytes, limit = _MAX_BYTES, int(info.get("maxmemory", 0))
    if limit:
        max_bytes = min(max_bytes, (limit - int(info.get("used_memory", 0))) // 2)
    jobs = max_bytes // (payload_bytes * 5 // 4 + _JOB_BYTES)
    if jobs < _MIN_JOBS:
        raise ConfigError(
            f"Redis has {max(0, max_bytes * 2) / 2**20:.1f} MiB left below its maxmemory, too "
            f"little to measure with {payload_bytes} bytes a job: drain it, or give less --payload"
        )
    return jobs


async def check_unused(broker: Broker, queues: Sequence[str]) -> None:
    """Make sure that the namespace holds nothing, and that this user may clean it up.

    Raises:
        ConfigError: it was used before.
        BrokerError: no answer, or a right is missing.
    """
    namespace, used = broker.config.namespace, set(await Inspector(broker).names())
    for keys in _keys(broker, queues):
        (count,) = await broker.ask([(b"EXISTS", *keys.names.values())])
        used |= {keys.queue or "its supervisors"} if count else set()
    if used:
        raise ConfigError(
            f"namespace {namespace!r} is in use ({', '.join(sorted(used))}), and qcore bench works "
            "only in one that was never used: leave out --namespace for a new one"
        )
    await _remove(broker, queues)


async def clean(broker: Broker, queues: Sequence[str]) -> None:
    """Remove everything that stands in these queues, their names, and those of supervisors.

    Raises:
        QcoreError: that failed; says how to do it by hand.
    """
    try:
        await _remove(broker, queues)
    except BrokerError as e:
        namespace = broker.config.namespace
        raise QcoreError(
            f"the keys of namespace {namespace} are left in Redis ({e}); remove them later: "
            f"redis-cli --scan --pattern '{{{namespace}[:}}]*' | xargs redis-cli UNLINK "
            f"{namespace}:queues"
        ) from e


async def _remove(broker: Broker, queues: Sequence[str]) -> None:
    unlinks = [(b"UNLINK", *keys.names.values()) for keys in _keys(broker, queues)]
    await broker.ask([*unlinks, (b"SREM", queues_key(broker.config.namespace), *queues)])


def _keys(broker: Broker, queues: Sequence[str]) -> list[QueueKeys]:
    """Return the keys of the queues, and those of the namespace."""
    return [*map(broker.keys, queues), namespace_keys(broker.config.namespace)]


async def drop_ready(broker: Broker, queues: Sequence[str]) -> None:
    """Forget all ready jobs while workers run: none can be claimed any more."""
    await broker.ask([(b"UNLINK", broker.keys(queue).names["ready"]) for queue in queues])


async def cpu_s(broker: Broker, queues: Sequence[str]) -> dict[str, float]:
    """Return the CPU seconds so far of the servers that have these queues, by their run id.

    Those of the main thread, which executes the commands, where the server tells them apart.
    Nothing where this user may not ask, or the server does not say.

    Raises:
        BrokerUnavailable: no answer.
    """
    found: dict[str, float] = {}
    for group in broker.groups(queues):
        key = broker.keys(group[0]).names["ready"]
        try:
            # behind a command with a key, INFO goes to the node that has it
            _, text = await broker.ask([(b"EXISTS", key), (b"INFO",)])
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
