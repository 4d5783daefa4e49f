"""`qcore worker` with settings that the command has no flag for: WORKER_CONFIG as JSON."""

import asyncio
import sys

import msgspec

from qcore.settings import BrokerConfig, SupervisorConfig, WorkerConfig
from qcore_cli.child import worker_command
from qcore_cli.logs import LogFormat, LogStyle, configure_logging
from qcore_cli.worker import _supervise


class Settings(msgspec.Struct, frozen=True):
    """One argument of this program."""

    app: str
    broker: BrokerConfig
    supervisor: SupervisorConfig
    worker: WorkerConfig


def main() -> None:
    configure_logging(LogFormat.JSON)
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    command = worker_command(settings.app, LogStyle(LogFormat.JSON))
    supervise = _supervise(
        settings.broker, settings.supervisor, settings.worker, command, doubt=lambda: None
    )
    sys.exit(asyncio.run(supervise))


if __name__ == "__main__":
    main()
