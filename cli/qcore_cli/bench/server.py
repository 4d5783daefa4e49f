"""What `qcore bench` asks of a server before it writes, and what it removes at the end."""

from collections.abc import Mapping, Sequence

from qcore import ConfigError, QcoreError
from qcore.broker.redis.broker import Broker
from qcore.broker.redis.namespace import in_use, remove
from qcore.broker.redis.server_checks import check_eviction, read_info
from qcore.errors import BrokerError, BrokerUnavailable
from qcore.model.findings import Level

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
    used = await in_use(broker, queues)
    if used:
        raise ConfigError(
            f"namespace {broker.config.namespace!r} is in use ({', '.join(sorted(used))}), and "
            "qcore bench works only in one that was never used: leave out --namespace for a new one"
        )
    await remove(broker, queues)


async def clean(broker: Broker, queues: Sequence[str]) -> None:
    """Remove everything that stands in these queues, their names, and those of supervisors.

    Raises:
        QcoreError: that failed; says how to do it by hand.
    """
    try:
        await remove(broker, queues)
    except BrokerError as e:
        namespace = broker.config.namespace
        raise QcoreError(
            f"the keys of namespace {namespace} are left in Redis ({e}); remove them later: "
            f"redis-cli --scan --pattern '{{{namespace}[:}}]*' | xargs redis-cli UNLINK "
            f"{namespace}:queues"
        ) from e
