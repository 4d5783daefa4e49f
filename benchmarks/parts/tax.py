"""What a feature of qcore costs the drain: each on alone, beside a job without any."""

from contextlib import ExitStack

from benchmarks.harness.bench import Bench
from benchmarks.harness.probe import Probe

JOBS = 50_000
#: It writes a note before each run, a round trip of its own: as many as the others take in time.
JOBS_ONCE = 10_000
PLAIN = "no feature"
#: Case -> the feature as `probe_main` knows it.
CASES = {
    PLAIN: "plain",
    "result kept": "results",
    "retry policy": "retries",
    "timeout": "timeout",
    "context injected": "context",
    "expires": "expires",
    "exclusive": "exclusive",
    "debug log": "debug_log",
    "at most once": "at_most_once",
    "unique key": "unique",
    "idempotency key": "idempotency",
}


def run(bench: Bench) -> None:
    with bench.server() as server, ExitStack() as stack:
        probes = {
            case: stack.enter_context(Probe(server, feature=feature))
            for case, feature in CASES.items()
        }
        for probe in probes.values():
            probe.warm_up()
        for _ in bench.rounds():
            for case, probe in probes.items():
                jobs = bench.jobs(JOBS_ONCE if case == "at most once" else JOBS)
                # a key of idempotency names one request: there is no bulk of these
                way = "enqueue_together" if case == "idempotency key" else "enqueue_many"
                probe.step(way, jobs)
                drained = probe.step("drain", jobs)
                base = {} if case == PLAIN else {"base": PLAIN}
                bench.emit(case, "qcore", drained.per_s, "jobs/s", **base, **drained.facts())
