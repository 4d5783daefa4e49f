"""What `qcore bench` concludes: from readings to the bottleneck, and what to set."""

from typing import Any

import pytest

from qcore_cli.bench.verdict import Bottleneck, Load, Verdict, judge

#: One process at 50,000 no-op jobs a second, in turn with Redis; neither is full.
CALM: dict[str, Any] = {
    "processes": 1,
    "concurrency": 100,
    "payload_bytes": 100,
    "task_ms": 0,
    "cores": 4,
    "per_s": 50_000.0,
    "ping_ms": 0.05,
    "write_ms": 0.2,
    "python": 0.55,
    "redis": 0.4,
    "machine": 0.3,
    "throttled": None,
    "starved": 0.0,
}
#: 100 slots with jobs of 50 ms: 2,000 jobs a second at best.
WAITING = CALM | {"task_ms": 50, "per_s": 1_950.0, "python": 0.1, "redis": 0.05, "machine": 0.1}


def judged(readings: dict[str, Any] = CALM, **others: Any) -> Verdict:
    return judge(Load(**readings | others))


def settings(verdict: Verdict) -> list[str]:
    return [advice.setting for advice in verdict.advice if advice.setting]


def test_verdict_is_none_when_nothing_is_saturated():
    verdict = judged()

    assert verdict.bottleneck is Bottleneck.NONE
    assert "computed for 55% of the time and waited for 45%" in verdict.because
    assert settings(verdict) == ["--processes 3"]  # Redis has room for 2.1 times as much


def test_verdict_keeps_the_settings_where_no_other_promises_more():
    verdict = judged(processes=4, redis=0.8)

    assert verdict.bottleneck is Bottleneck.NONE
    assert [advice.why for advice in verdict.advice] == [
        "Keep these settings: no other one promises much more."
    ]


@pytest.mark.parametrize(
    ("readings", "bottleneck"),
    [
        ({"redis": 0.93}, Bottleneck.REDIS),
        ({"redis": 0.93, "python": 0.95}, Bottleneck.REDIS),
        ({"python": 0.93}, Bottleneck.PYTHON),
        ({"machine": 0.98}, Bottleneck.CORES),
        ({"throttled": 0.7}, Bottleneck.CORES),
        ({"starved": 0.5}, Bottleneck.PRODUCER),
        ({"ping_ms": 2.0, "per_s": 30_000.0}, Bottleneck.NETWORK),
        ({"write_ms": 2.0, "per_s": 30_000.0}, Bottleneck.WRITES),
        ({"write_ms": 0.2, "per_s": 7_000.0, "concurrency": 1}, Bottleneck.NONE),
    ],
)
def test_verdict_names_the_side_that_is_saturated(readings: dict[str, Any], bottleneck: Bottleneck):
    assert judged(**readings).bottleneck is bottleneck


def test_verdict_names_slots_that_waiting_jobs_fill():
    verdict = judged(WAITING)

    assert verdict.bottleneck is Bottleneck.SLOTS
    assert "took 98% of the time of all slots" in verdict.because
    assert "100 slots can do 2,000 jobs a second" in verdict.because
    assert settings(verdict) == ["--concurrency 500"]  # the CPU bears 8.5 times as many


@pytest.mark.parametrize(
    ("readings", "bottleneck"),
    [
        ({"machine": 0.98}, Bottleneck.SLOTS),
        ({"machine": 0.98, "per_s": 1_500.0}, Bottleneck.CORES),
        ({"python": 0.9}, Bottleneck.PYTHON),
        ({"per_s": 1_300.0, "ping_ms": 10.0}, Bottleneck.SLOTS),
        ({"per_s": 800.0}, Bottleneck.NONE),
    ],
)
def test_slots_are_named_unless_something_else_keeps_jobs_from_them(
    readings: dict[str, Any], bottleneck: Bottleneck
):
    assert judged(WAITING, **readings).bottleneck is bottleneck


def test_verdict_names_round_trips_when_they_take_longer_than_the_jobs_wait():
    assert judged(WAITING, ping_ms=80.0, per_s=700.0).bottleneck is Bottleneck.NETWORK


def test_slots_are_not_to_be_raised_beyond_what_the_cpu_bears():
    assert settings(judged(WAITING, python=0.6)) == ["--processes 4"]
    assert settings(judged(WAITING, python=0.6, cores=1)) == []
    assert settings(judged(WAITING, python=0.3, machine=0.9)) == []
    # ours is 0.15 of two cores: 2.4 times as much leaves the others theirs
    shared = WAITING | {"cores": 2, "python": 0.2, "redis": 0.1, "machine": 0.64}
    assert settings(judged(shared)) == ["--concurrency 200"]


def test_more_processes_are_advised_as_far_as_cores_and_redis_reach():
    assert settings(judged(python=0.93)) == ["--processes 3"]
    assert settings(judged(python=0.93, redis=0.1)) == ["--processes 4"]
    assert settings(judged(python=0.93, cores=1)) == []
    assert "has a process" in judged(python=0.93, cores=1).advice[0].why


def test_fewer_processes_are_advised_when_redis_is_the_limit():
    verdict = judged(processes=8, python=0.15, redis=0.97)

    assert settings(verdict) == ["--processes 2"]
    assert settings(judged(processes=2, python=0.5, redis=0.97)) == []


def test_fewer_processes_are_advised_when_they_outnumber_the_cores():
    assert settings(judged(processes=8, python=0.4, machine=0.99)) == ["--processes 4"]
    assert settings(judged(processes=4, python=0.4, machine=0.99)) == []


def test_more_jobs_a_call_are_advised_where_calls_are_small():
    small = CALM | {"concurrency": 1, "per_s": 6_000.0}
    for readings in ({}, {"python": 0.9}, {"redis": 0.9}):
        assert settings(judged(small, **readings))[0] == "--concurrency 100"


def test_more_jobs_a_call_are_advised_where_calls_take_long():
    assert settings(judged(ping_ms=2.0, per_s=30_000.0)) == ["--concurrency 200"]
    assert settings(judged(ping_ms=3.0, per_s=28_000.0)) == ["--concurrency 500"]
    assert settings(judged(ping_ms=9.0, per_s=40_000.0, concurrency=500)) == ["--processes 3"]


def test_large_payloads_are_named_where_redis_is_the_limit():
    (advice,) = judged(redis=0.95, payload_bytes=50_000).advice

    assert "Store large arguments elsewhere" in advice.why


def test_verdict_says_what_is_unknown():
    verdict = judged(redis=None)
    assert verdict.bottleneck is Bottleneck.NONE
    assert "unknown: Redis CPU" in verdict.because

    verdict = judged(redis=None, python=None, machine=None)
    assert "unknown: worker CPU, Redis CPU" in verdict.because
    assert judged(WAITING, redis=None, python=None).bottleneck is Bottleneck.SLOTS
    assert judged(python=0.95, redis=None).bottleneck is Bottleneck.PYTHON
    assert judged(redis=0.95, python=None).bottleneck is Bottleneck.REDIS
