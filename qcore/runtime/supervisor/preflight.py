"""Whether a supervisor may work on a server: what would delete jobs is refused."""

import anyio

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.server_checks import (
    check_eviction,
    check_persistence,
    read_info,
)
from qcore.errors import BrokerError, BrokerUnavailable
from qcore.model.findings import Level
from qcore.telemetry import log

#: Between two looks at a server that was admitted.
WATCH_S = 60.0


async def watch(broker: Broker, *, every_s: float = WATCH_S) -> None:
    """Say when a server begins to delete keys for lack of memory, and when it no longer does.

    Its policy can be changed at any time, and a failover may lead to a server with another one.

    Redis: INFO memory, once a minute.
    """
    evicts = False
    while True:
        await anyio.sleep(every_s)
        try:
            info = await read_info(broker, b"memory")
        except BrokerError:  # others say that it is away, or that this user may not ask
            continue
        found = check_eviction(info)
        was, evicts = evicts, found.level is not Level.OK
        if evicts and not was:
            log.error("server.evicts", url=broker.shown_url, why=found.said, remedy=found.remedy)
        elif was and not evicts:
            log.warning("server.keeps", url=broker.shown_url)


async def admits(broker: Broker, *, allow_eviction: bool) -> bool:
    """Return whether jobs are safe on this server, or `allow_eviction`; log what is doubtful.

    A server that this user may not ask is admitted: managed servers forbid much.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    url = broker.shown_url
    try:
        info = await read_info(broker)
    except BrokerUnavailable:
        raise
    except BrokerError as e:
        log.warning("server.unchecked", url=url, error=str(e))
        return True
    eviction, persistence = check_eviction(info), check_persistence(info, {})
    evicts = eviction.level is not Level.OK
    if evicts and not allow_eviction:
        remedy = f"{eviction.remedy} --allow-eviction works on it all the same."
        log.error("server.refused", url=url, why=eviction.said, remedy=remedy)
        return False
    for finding, doubtful in ((eviction, evicts), (persistence, persistence.level is Level.FAULT)):
        if doubtful:
            log.warning("server.doubted", url=url, why=finding.said, remedy=finding.remedy)
    return True
