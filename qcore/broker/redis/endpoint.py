"""Where Redis is, by one URL, and the pipelines that lead there."""

from redis.asyncio.connection import AbstractConnection

from qcore.broker.backoff import Backoff
from qcore.broker.redis.cluster import Cluster
from qcore.broker.redis.cluster_pipeline import ClusterPipeline
from qcore.broker.redis.connectors import Embedded, Sentinels, Server
from qcore.broker.redis.pipeline import Pipeline
from qcore.broker.redis.urls import shown_url, unknown_scheme
from qcore.settings import BrokerConfig

_CONNECTORS = {
    "redis": Server,
    "rediss": Server,
    "unix": Server,
    "embedded": Embedded,
    "redis+sentinel": Sentinels,
    "rediss+sentinel": Sentinels,
    "redis+cluster": Cluster,
    "rediss+cluster": Cluster,
}
#: Where another server takes over when one fails, that is a matter of seconds and known within
#: one: waiting longer between two tries would only add to the time in which nothing flows. There
#: are replicas to share the storm of reconnects, and jitter spreads it.
_FAILOVER_MAX_S = 1.0


class Endpoint:
    """Where Redis is, by URL: one server, an embedded one, a service of Sentinels, a Cluster.

    Raises:
        ConfigError: the URL is none.
    """

    def __init__(self, config: BrokerConfig) -> None:
        scheme, separator, _ = config.url.partition("://")
        kind = _CONNECTORS.get(scheme.lower())
        if kind is None or not separator:
            raise unknown_scheme(config.url)
        self._timeout_s = config.call_timeout_s
        self._connector = kind(config.url, timeout_s=config.call_timeout_s)
        self.shown = shown_url(config.url)
        #: Each queue lies on a node of its own, which may fail alone.
        self.is_cluster = isinstance(self._connector, Cluster)
        #: How late the reply to a blocking call may be. A server that hangs may have a successor
        #: by then, so that a listener must not hang for long.
        self.margin_s = min(
            config.call_timeout_s, _FAILOVER_MAX_S if self._connector.fails_over else 300
        )

    def pipeline(self) -> Pipeline | ClusterPipeline:
        """Return a new pipeline; it connects when it is first used."""
        if isinstance(self._connector, Cluster):
            return ClusterPipeline(self._connector, self._timeout_s)
        return Pipeline(self._connector, self._timeout_s)

    def backoff(self, min_s: float, max_s: float) -> Backoff:
        """Return the delays between tries to reach Redis again."""
        if self._connector.fails_over:
            max_s = min(max_s, max(min_s, _FAILOVER_MAX_S))
        return Backoff(min_s, max_s)

    async def open(self) -> None:
        """Join the embedded server, if one is named; it is started if it does not run.

        Raises:
            ConfigError: there is no server program, or the folder cannot be used.
            BrokerUnavailable: the server did not come up in time.
        """
        await self._connector.open()

    async def connect(self) -> AbstractConnection:
        """Return a new open connection; to any node of a Cluster.

        Raises:
            RedisError, OSError, BrokerError: no connection could be made.
        """
        return await self._connector.connect()

    async def close(self) -> None:
        """Leave the embedded server, if one was joined; the last user out stops it."""
        await self._connector.close()
