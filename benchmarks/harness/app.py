"""The app that `qcore worker` serves where whole processes are measured."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from qcore import App

#: The environment variable that names the folder in which workers write down what they do.
FOLDER = "QCORE_BENCH_FOLDER"
app = App()
_runs = 0


@app.lifespan
async def count() -> AsyncIterator[None]:
    """Write the number of runs of `noop` at the end of each worker process."""
    yield
    (_folder() / f"runs-{os.getpid()}").write_text(str(_runs))


@app.task(name="noop")
async def noop() -> None:
    global _runs
    _runs += 1


@app.task(name="hold")
async def hold(n: int) -> None:
    """Write down that it begins, and go on until the file `over` is there."""
    folder = _folder()
    journal = os.open(folder / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(journal, f"{n} {os.getpid()} {time.monotonic():.6f}\n".encode())
    os.close(journal)
    while not (folder / "over").exists():  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.05)


def _folder() -> Path:
    return Path(os.environ[FOLDER])
