"""Liveness and readiness: the answer to a probe, and the reason when it is no."""

from qcore.model.fleet import SupervisorState, SupervisorView, WorkerState
from qcore.settings import WorkerConfig


def patience_s(worker: WorkerConfig) -> float:
    """Return how long ago the last claim may have been answered: some intervals of both kinds.

    A worker that has room claims at least once per block interval, and says so with its next beat.
    """
    return 3 * worker.block_s + 2 * worker.heartbeat_s


def unready(view: SupervisorView, limit_s: float) -> str:
    """Return why no job can be expected to run now; empty when one can.

    Args:
        view: The supervisor.
        limit_s: Some claim must have been answered within this.
    """
    if view.state is SupervisorState.DRAINING:
        return "it is draining"
    if view.state is SupervisorState.QUIET:
        return "it is quiet: SIGCONT lets it claim again"
    working = [worker for worker in view.workers if worker.state is WorkerState.RUNNING]
    if not working:
        return "no worker is ready"
    ages = [worker.claim_age_s for worker in working if worker.claim_age_s is not None]
    if not ages:
        return "the broker has not answered a claim yet"
    if min(ages) > limit_s:
        return f"the broker has not answered a claim for {min(ages):.0f} s"
    return ""


def dead(view: SupervisorView) -> str:
    """Return why only a new start of the supervisor can help; empty when it need not.

    A Redis that is away is no reason: a new start would not bring it back.
    """
    if view.state is SupervisorState.DRAINING or not view.boot_failures:
        return ""
    return f"no worker gets ready: {view.boot_failures} ended before that, in a row"
