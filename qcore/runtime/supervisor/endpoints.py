"""What a supervisor shows over HTTP: probes on one port, metrics on another or the same."""

import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus

import anyio

from qcore.broker.redis.broker import Broker
from qcore.broker.redis.inspector import Inspector
from qcore.errors import BrokerError, ConfigError
from qcore.runtime.supervisor.pages import Page, serving
from qcore.runtime.supervisor.probes import dead, unready
from qcore.runtime.supervisor.supervisor import Supervisor
from qcore.settings import SupervisorConfig

#: A scraper gets the rest when Redis does not tell the depths within this.
_DEPTHS_S = 2.0

_LOOPBACK = "127.0.0.1"

_Maker = Callable[[], Awaitable[Page]]


@asynccontextmanager
async def open_front(
    config: SupervisorConfig, supervisor: Supervisor, broker: Broker, *, limit_s: float
) -> AsyncGenerator[None, None]:
    """Serve the pages that the ports of `config` ask for.

    Args:
        config: The ports.
        supervisor: Which answers.
        broker: To read the depths.
        limit_s: It is ready while some claim was answered within this.

    Raises:
        ConfigError: a port cannot be had, or metrics need a package that is not there.
    """
    ports: defaultdict[int, dict[str, _Maker]] = defaultdict(dict)
    if config.health_port is not None:
        routes = ports[config.health_port]
        routes["/livez"] = _probe(lambda: dead(supervisor.view()), "alive")
        routes["/readyz"] = _probe(lambda: unready(supervisor.view(), limit_s), "ready")
    if config.metrics_port is not None:
        ports[config.metrics_port]["/metrics"] = _metrics(supervisor, broker)
    async with AsyncExitStack() as stack:
        for port, routes in ports.items():
            # a kubelet asks from outside; what the metrics tell is for those who were let in
            address = config.bind or (None if "/livez" in routes else _LOOPBACK)
            await stack.enter_async_context(serving(port, routes, address=address))
        yield


def _probe(trouble: Callable[[], str], well: str) -> _Maker:
    async def page() -> Page:
        why = trouble()
        if why:
            return Page(f"not {well}: {why}\n".encode(), HTTPStatus.SERVICE_UNAVAILABLE)
        return Page(f"{well}\n".encode())

    return page


def _metrics(supervisor: Supervisor, broker: Broker) -> _Maker:
    try:
        # only here: it is an extra, and takes memory
        from qcore.runtime.supervisor.metrics import CONTENT_TYPE, exposition
    except ModuleNotFoundError as e:
        raise ConfigError(
            f"--metrics-port needs the package {e.name}: install qcore-queue[metrics]"
        ) from e
    inspector = Inspector(broker)

    async def page() -> Page:
        view, queues = supervisor.view(), None
        with anyio.move_on_after(_DEPTHS_S):
            with contextlib.suppress(BrokerError):  # which is one of the metrics
                queues = await inspector.queues(view.queues)
        return Page(exposition(view, supervisor.totals, queues), kind=CONTENT_TYPE)

    return page
