"""The only reader of the environment: of variables, of the name of this host."""

import os
import re
import socket
import sys
from collections.abc import Mapping
from typing import TextIO

import msgspec

from qcore.durations import Seconds, seconds
from qcore.errors import ConfigError
from qcore.settings import BrokerConfig

#: What a service manager leaves in the environment of the process that it starts.
_SERVICE_MANAGER = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def broker_config(
    url: str | None, namespace: str | None, env: Mapping[str, str] | None = None
) -> BrokerConfig:
    """Return the broker settings: what is given, else `QCORE_URL` and `QCORE_NAMESPACE`.

    With no URL at all: on a terminal the embedded server in `./.qcore`, elsewhere an error. A
    production host must never fill a private server that nobody drains.

    Raises:
        ConfigError: no URL away from a terminal, or a name out of range.
    """
    env = os.environ if env is None else env
    url = url or env.get("QCORE_URL")
    if not url:
        if not sys.stderr.isatty():
            raise ConfigError(
                "no Redis URL: set QCORE_URL (redis://host:6379/0, or embedded://PATH for a "
                "private server on this machine)"
            )
        url = "embedded://.qcore"
    timeout = env.get("QCORE_CALL_TIMEOUT")
    return BrokerConfig(
        url=url,
        namespace=namespace or env.get("QCORE_NAMESPACE") or "qcore",
        call_timeout_s=float(seconds("QCORE_CALL_TIMEOUT", _number(timeout))) if timeout else 5.0,
    )


def _number(text: str) -> Seconds:
    """Return plain digits as seconds, other text as it is: durations with a unit are text."""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else text


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with `extra` on top, for a child process.

    The service manager is left out: only its own child may speak to it.
    """
    own = {name: value for name, value in os.environ.items() if name not in _SERVICE_MANAGER}
    return {**own, **extra}


def environment() -> dict[str, str]:
    """Return the variables of this process's environment."""
    return dict(os.environ)


def restore_environment(variables: Mapping[str, str]) -> None:
    """Let this process have these variables and no others, as after a job that has changed some."""
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


class ServiceManager(msgspec.Struct, frozen=True):
    """How systemd, or what speaks as it does, wants to hear of this process."""

    #: The path of its datagram socket; one that begins with "@" is abstract.
    socket: str
    #: It must hear at least so often that this process lives; None: it need not.
    watchdog_s: float | None = None


def service_manager(env: Mapping[str, str] | None = None) -> ServiceManager | None:
    """Return the service manager that started this process, if there is one to be told."""
    env = os.environ if env is None else env
    socket_name = env.get("NOTIFY_SOCKET", "")
    if socket_name[:1] not in ("/", "@"):
        return None
    limit, pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    concerned = limit.isdigit() and int(limit) > 0 and pid in ("", str(os.getpid()))
    return ServiceManager(socket_name, int(limit) / 1e6 if concerned else None)


def wants_color(stream: TextIO) -> bool:
    """Say whether to color what goes to `stream`: a terminal, unless NO_COLOR is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def server_program() -> str | None:
    """Return the server program that `embedded://` must start, where QCORE_SERVER names one."""
    return os.environ.get("QCORE_SERVER") or None


def host_name() -> str:
    """Return this machine's name as it is shown in error records."""
    return socket.gethostname()


def child_variable(name: str) -> str:
    """Return what the parent of this process left in its environment.

    Raises:
        ConfigError: nothing; this process was not started by its parent.
    """
    value = os.environ.pop(name, None)
    if value is None:
        raise ConfigError(f"{name} is not set: this command is for the supervisor to start")
    return value
