"""Whether a supervisor may work on a server: what would delete jobs is refused."""

from qcore.broker.broker import Broker
from qcore.broker.examination import Level, check_eviction, check_persistence, read_info
from qcore.errors import BrokerError, BrokerUnavailable
from qcore.telemetry import log


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
