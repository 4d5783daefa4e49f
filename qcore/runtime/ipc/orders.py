"""What a supervisor tells a worker process: its settings once, then orders over a pipe."""

import msgspec

from qcore.settings import BrokerConfig, WorkerConfig

#: Orders, one byte each, written by the supervisor. The end of the pipe is an order to drain: the
#: supervisor is gone.
DRAIN, STOP_NOW, QUIET, RESUME, DUMP = b"d", b"n", b"q", b"r", b"u"
#: The environment variable in which a child finds the descriptor of its ChildConfig.
CHILD_CONFIG = "QCORE_CHILD"
#: Exit code of a child that could not be configured: another try would be of no use.
EXIT_CONFIG = 78


class ChildConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor tells its child, as JSON."""

    broker: BrokerConfig
    worker: WorkerConfig
    owner: str
    orders_fd: int
    beats_fd: int
    #: That of the worker, in logs; empty from a supervisor of an older version.
    name: str = ""
