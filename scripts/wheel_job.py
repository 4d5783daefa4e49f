"""One job through the installed wheel; scripts/build copies this file elsewhere as app.py."""

import asyncio
import sys
from pathlib import Path

import qcore
import qcore_cli
from qcore import App

FOLDER = Path(__file__).parent
COMMAND = Path(sys.prefix, "bin", "qcore")

app = App(f"embedded://{FOLDER / 'data'}")


@app.task
def double(number: int) -> int:
    """Stand for a user's task: a plain function, which a worker runs in a thread."""
    return 2 * number


async def main() -> None:
    """Enqueue a job, let `qcore worker` run it, and stop that worker."""
    for package in (qcore, qcore_cli):
        folder = Path(package.__path__[0])
        assert folder.is_relative_to(sys.prefix), f"{folder} is not the installed package"
        assert (folder / "py.typed").exists(), f"py.typed is missing from {folder}"
    example = Path(qcore_cli.__file__).parent / "examples" / "school_audit" / "app.py"
    assert example.exists(), f"what `qcore demo` runs is missing: {example}"
    async with app:
        job = await double.enqueue(21)
        worker = await asyncio.create_subprocess_exec(COMMAND, "worker", "app:app", cwd=FOLDER)
        try:
            result = await job.result(timeout=30)
        finally:
            if worker.returncode is None:
                worker.terminate()
            exit_code = await asyncio.wait_for(worker.wait(), 30)
    assert result == 42, f"the job returned {result}, not 42"
    assert exit_code == 0, f"qcore worker ended with exit code {exit_code}, not 0"
    print(f"{job.ref} ran in {sys.prefix}: double(21) -> {result}")
