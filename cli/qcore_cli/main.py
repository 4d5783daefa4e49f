"""The `qcore` command: its subcommands, and how an error ends."""

import errno
import os
import platform
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from qcore import QcoreError, __version__
from qcore.broker.embedded.server import run_foreground
from qcore_cli.bench.command import bench
from qcore_cli.dead import dead
from qcore_cli.demo.command import demo
from qcore_cli.doctor import doctor
from qcore_cli.fleet.command import restart, status
from qcore_cli.fleet.top import top
from qcore_cli.jobs import jobs
from qcore_cli.logs import LogFormat, configure_logging
from qcore_cli.options import Commands
from qcore_cli.queues import clear, pause, queues, resume
from qcore_cli.terminal import echo
from qcore_cli.unique import unique
from qcore_cli.wait_empty import wait_empty
from qcore_cli.worker import worker

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"qcore {__version__}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """A job queue on Redis."""


app.command()(worker)
app.command()(status)
app.command()(restart)
app.command()(top)
app.command()(doctor)
app.add_typer(queues, name="queues")
app.add_typer(jobs, name="jobs")
app.add_typer(dead, name="dead")
app.add_typer(unique, name="unique")
app.command()(clear)
app.command()(pause)
app.command()(resume)
app.command("wait-empty")(wait_empty)
app.command()(bench)
app.command()(demo)


@app.command()
def redis(
    folder: Annotated[Path, typer.Argument(help="Where it keeps its data.")] = Path(".qcore"),
) -> None:
    """Run the embedded server of a folder until Ctrl-C."""
    configure_logging(LogFormat.CONSOLE)
    raise typer.Exit(run_foreground(folder))


#: A disk or a quota is full, or a device is broken.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def run() -> None:
    """Run the command. A mistake of the user is one line on standard error and exit code 1."""
    _open_streams()
    try:
        app()
    except QcoreError as e:
        # a note is the trace of an import that failed
        echo("\n".join((f"qcore: {e}", *getattr(e, "__notes__", ()))), err=True)
        sys.exit(1)
    except UnicodeEncodeError:
        echo("qcore: an argument is no text that Redis could hold: check its encoding", err=True)
        sys.exit(1)
    except OSError as e:
        if e.errno not in _UNWRITABLE:
            raise
        echo(f"qcore: the output cannot be written: {e.strerror}", err=True)
        # what is left in its buffer would be tried once more, and said in a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _open_streams() -> None:
    """Let standard streams that were closed lead nowhere: as None they are a trap for all.

    What the encoding of a terminal does not have is shown by its escape.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r+"))  # noqa: SIM115 - kept
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
