"""The soak itself, for seconds: it runs, repeats its choices, and says what it saw."""

import asyncio
import json
import random
import sys
from typing import Any

from tests.support.fleet import ROOT

SECONDS = 15


async def soak(*words: str) -> tuple[int, dict[str, Any], str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.soak", *words),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, told = await process.communicate()
    assert process.returncode is not None
    assert out, told.decode()
    return process.returncode, json.loads(out), told.decode()


async def test_soak_of_seconds_finds_nothing_lost(dice: random.Random):
    seed = str(dice.randrange(10**9))
    # a way that is slow while its connections are killed, for 9 s at most, must cost no lease
    code, said, told = await soak("--seconds", str(SECONDS), "--lease", "12", "--seed", seed)
    assert code == 0, told
    assert said["seed"] == seed
    assert said["enqueued"] >= 50
    assert said["lost"] == said["unexpected"] == said["unexplained"] == 0
    assert said["duplicates"] <= said["runs_orphaned_by_faults"]
    assert sum(said["faults"].values()) >= 3
    assert f"seed {seed}" in told
    assert "min: enqueued" in told
