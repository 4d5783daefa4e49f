"""`--call-timeout` holds for all that a worker runs."""

from pathlib import Path

import pytest

from qcore import App
from tests.support.fleet import Fleet
from tests.support.waiting import eventually

TASKS = """
from pathlib import Path

@app.task(name="on_the_loop")
async def on_the_loop(path: str) -> None:
    Path(path).write_text(f"{app.broker.config.call_timeout_s:g}")

@app.task(name="in_the_pool", run_in="process")
def in_the_pool(path: str) -> None:
    Path(path).write_text(f"{app.config.call_timeout_s:g}")
"""


@pytest.mark.parametrize("name", ["on_the_loop", "in_the_pool"])
async def test_call_timeout_reaches_workers_and_their_pools(
    fleet: Fleet, tmp_path: Path, name: str
):
    fleet.write_tasks("shop", TASKS)
    fleet.start(processes=1, app="shop:app", call_timeout=7)
    seen = tmp_path / "seen"
    async with App(fleet.url, namespace=fleet.namespace) as app:

        @app.task(name=name)
        async def task(path: str) -> None: ...

        await task.enqueue(str(seen))
        await eventually(seen.exists, 30)
    assert await eventually(seen.read_text, 5) == "7"
