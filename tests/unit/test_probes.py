"""When a supervisor is called ready, by what its workers last told."""

import pytest

from qcore.model.fleet import SupervisorState, SupervisorView, WorkerState, WorkerView
from qcore.runtime.supervisor.probes import dead, unready

LIMIT_S = 10.0


def view(*ages_s: float | None, failures: int = 0, draining: bool = False) -> SupervisorView:
    """Return a supervisor whose workers were answered a claim so long ago."""
    return SupervisorView(
        host="web1",
        name="worker",
        pid=1,
        state=SupervisorState.DRAINING if draining else SupervisorState.RUNNING,
        queues=("default",),
        age_s=60.0,
        boot_failures=failures,
        workers=tuple(
            WorkerView(name=f"w.{n}", pid=n, state=WorkerState.RUNNING, claim_age_s=age_s)
            for n, age_s in enumerate(ages_s)
        ),
    )


@pytest.mark.parametrize(
    ("ages_s", "why"),
    [
        ((1.0, 99.0), ""),
        ((None, 1.0), ""),
        ((99.0, 50.0), "the broker has not answered a claim for 50 s"),
        ((None, 50.0), "the broker has not answered a claim for 50 s"),
        ((None, None), "the broker has not answered a claim yet"),
    ],
)
def test_one_worker_that_claims_is_enough(ages_s: tuple[float | None, ...], why: str):
    assert unready(view(*ages_s), LIMIT_S) == why


def test_supervisor_that_leaves_is_not_called_dead():
    assert dead(view(failures=3))
    assert not dead(view(failures=3, draining=True))
