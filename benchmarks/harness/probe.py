"""A process of qcore alone, told step by step what to do, and what each step took."""

import itertools
import json
import subprocess
import sys
from typing import Any, NamedTuple, Self

from benchmarks.harness.records import ROOT
from benchmarks.harness.server import Server
from benchmarks.harness.worker import environment

#: What is measured; records say so.
IN_ONE = "worker and producer in one process"

_numbers = itertools.count()


class Figures(NamedTuple):
    """What a step took."""

    jobs: int
    seconds: float
    #: Of the process that is measured: producer, worker and client.
    cpu_s: float
    redis_cpu_s: float
    #: Each awaited call, where a step makes them one by one.
    took_s: list[float]

    @property
    def per_s(self) -> float:
        return self.jobs / self.seconds

    def facts(self) -> dict[str, Any]:
        return {
            "jobs": self.jobs,
            "process_us": round(self.cpu_s / self.jobs * 1e6, 2),
            "redis_us": round(self.redis_cpu_s / self.jobs * 1e6, 2),
            "process": IN_ONE,
        }


class Probe:
    """One process of `probe_main`, with a namespace of its own.

    Args:
        server: Where its jobs are.
        python: The interpreter; it needs what qcore needs.
        settings: Those of `probe_main.Probe`, and `loop`: "uvloop" or "asyncio".
    """

    def __init__(self, server: Server, *, python: str = sys.executable, **settings: Any) -> None:
        self._server = server
        settings |= {"url": server.url, "namespace": f"probe-{next(_numbers)}"}
        # where log lines are the point, they are written and dropped
        is_logging = settings.get("feature") == "debug_log"
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.harness.probe_main", json.dumps(settings)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if is_logging else None,
            text=True,
        )

    def step(self, name: str, jobs: int, **arguments: Any) -> Figures:
        """Let it take one step of `probe_main.Probe`.

        Raises:
            RuntimeError: the process has failed, perhaps because a job was lost or ran twice.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        before = self._server.cpu_s()
        process.stdin.write(json.dumps({"step": name, "jobs": jobs, **arguments}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"step {name} of {jobs} jobs has failed; its process said why")
        took = {"took_s": [], **json.loads(line)}
        return Figures(redis_cpu_s=self._server.cpu_s() - before, **took)

    def warm_up(self, jobs: int = 1_000) -> None:
        """Connect, teach Redis the scripts, and let the interpreter see all of the hot path."""
        self.step("enqueue_many", jobs)
        self.step("drain", jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        with self._process as process:
            if kind is not None:
                process.kill()
        if kind is None and process.returncode:
            raise RuntimeError(f"the measured process ended with {process.returncode}")
