"""What an app declares, asked of a process that imports it."""

import os
import select
import signal
import subprocess
import time
from contextlib import suppress

import msgspec

from qcore import ConfigError
from qcore.environment import child_environment
from qcore.runtime.host.signals import ending
from qcore_cli.child import COMMAND, OVERRIDES, Answer, Description, Overrides
from qcore_cli.terminal import echo

#: The import of an app that takes so long is told of, and given up.
_SLOW_IMPORT_S, _IMPORT_S = 5.0, 30.0
#: A process that has closed its end of a pipe may need so long to be gone.
_ENDING_S = 5.0


def describe(app: str, url: str | None, namespace: str | None) -> Description:
    """Ask a short-lived process what the app declares; its code never enters this one.

    Raises:
        ConfigError: the app cannot be loaded, or not in time.
    """
    overrides = msgspec.json.encode(Overrides(url, namespace)).decode()
    answer_fd, told_fd = os.pipe()
    try:
        process = subprocess.Popen(
            (*COMMAND, "describe", app, str(told_fd)),
            stdin=subprocess.DEVNULL,
            # each worker prints what the app prints
            stdout=subprocess.DEVNULL,
            env=child_environment({OVERRIDES: overrides}),
            pass_fds=(told_fd,),
            # Ctrl-C is for this process; that one ends with it
            process_group=0,
        )
        os.close(told_fd)
        try:
            line = _answer(app, answer_fd)
            if not line.endswith(b"\n"):
                process.wait(_ENDING_S)
        finally:
            # and what the app has started; refused by macOS where all of it has ended
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    finally:
        os.close(answer_fd)
    if not line.endswith(b"\n"):
        raise ConfigError(f"importing {app} failed: its process {ending(code)}")
    answer = msgspec.json.decode(line, type=Answer)
    if answer.description is None:
        failed = ConfigError(answer.error)
        if answer.trace:
            failed.add_note(answer.trace)
        raise failed
    return answer.description


def _answer(app: str, answer_fd: int) -> bytes:
    """Return the line that `describe` tells, or less of it when its process has ended."""
    began_at, is_slow, line = time.monotonic(), False, b""
    while not line.endswith(b"\n"):
        left_s = began_at + (_IMPORT_S if is_slow else _SLOW_IMPORT_S) - time.monotonic()
        if select.select([answer_fd], [], [], max(0.0, left_s))[0]:
            data = os.read(answer_fd, 65536)
            if not data:
                break
            line += data
        elif is_slow:
            raise ConfigError(
                f"importing {app} took more than {_IMPORT_S:g} s: let its modules wait for nothing "
                "(a server, a lock); what needs time belongs into the lifespan of the app"
            )
        else:
            is_slow = True
            echo(f"qcore: {app} is still being imported after {_SLOW_IMPORT_S:g} s", err=True)
    return line
