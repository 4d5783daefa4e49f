"""Runs the background services of a process: one that raises is begun again, the others go on."""

from collections.abc import Awaitable, Callable

import anyio

from qcore.broker.backoff import Backoff
from qcore.errors import ConfigError
from qcore.telemetry import log

#: Delays before a service is begun again; one that went well for so long failed by chance.
_MIN_S, _MAX_S, _STABLE_S = 0.1, 5.0, 30.0


async def kept(name: str, service: Callable[[], Awaitable[None]]) -> None:
    """Run a service to its end. When it raises that is logged, and it is begun again, with backoff.

    Args:
        name: As the log says it.
        service: It can be begun again wherever it raises.

    Raises:
        ConfigError: another try would be of no use.
    """
    backoff = Backoff(_MIN_S, _MAX_S)
    while True:
        begun_at = anyio.current_time()
        try:
            await service()
        except ConfigError:
            raise
        except Exception:
            log.exception("service.failed", service=name)
        else:
            return
        if anyio.current_time() - begun_at >= _STABLE_S:
            backoff.reset()
        await anyio.sleep(_MIN_S + backoff.next_s())
