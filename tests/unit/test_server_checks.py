"""What each reading of a server means: INFO in, a finding with its remedy out."""

from typing import Any

import pytest

from qcore.broker.redis import server_checks
from qcore.broker.redis.keys import QUEUE_KEYS
from qcore.broker.redis.queue_checks import QueueReading, check_queue, check_room
from qcore.broker.redis.scripts import AUDIT
from qcore.broker.redis.server_checks import ServerReading
from qcore.model.findings import Finding, Level
from qcore.settings import WorkerConfig

NOW = 1_800_000_000_000
WORKER = WorkerConfig(queues=("orders",))
SOUND = {
    "redis_version": "7.0.15",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "used_memory": "1000000",
    "maxmemory": "0",
    "connected_clients": "3",
    "maxclients": "10000",
    "connected_slaves": "0",
}
TOLD = {"save": "", "appendfsync": "always", "timeout": "0"}


def reading(
    info: dict[str, str] | None = None,
    settings: dict[str, str] | None = None,
    *,
    skew_s: float = 0.0,
    round_trip_s: float = 0.001,
) -> ServerReading:
    return ServerReading(
        url="redis://host",
        info=SOUND | (info or {}),
        settings=TOLD | (settings or {}),
        skew_s=skew_s,
        round_trip_s=round_trip_s,
    )


def findings_of(found: list[Finding]) -> list[tuple[str, str]]:
    """Return check and level of what is not well; each must come with a remedy."""
    assert all(f.remedy.endswith(".") for f in found if f.level is not Level.OK)
    assert not any(f.remedy or f.commands for f in found if f.level is Level.OK)
    return [(f.check, f.level.value) for f in found if f.level is not Level.OK]


def test_sound_server_has_no_finding():
    found = server_checks.check_server(reading())
    assert findings_of(found) == []
    assert len({finding.check for finding in found}) == len(found) == 11


@pytest.mark.parametrize(
    ("info", "check", "level", "said"),
    [
        ({"redis_version": "6.0.16"}, "version", "fault", "redis 6.0.16"),
        ({"role": "slave", "master_host": "10.1.1.1"}, "role", "fault", "role is slave"),
        ({"redis_mode": "sentinel"}, "role", "fault", "Sentinel"),
        ({"maxmemory_policy": "allkeys-lru"}, "eviction", "fault", "allkeys-lru"),
        # no key of qcore has a time to live, but the policy alone decides
        ({"maxmemory_policy": "volatile-ttl"}, "eviction", "fault", "volatile-ttl"),
        ({"aof_enabled": "0"}, "persistence", "fault", "no append-only file"),
        ({"aof_last_write_status": "err"}, "disk", "fault", "write to the append-only file failed"),
        ({"rdb_last_bgsave_status": "err"}, "disk", "fault", "snapshot failed"),
        ({"maxmemory": "1050000"}, "memory", "warning", "(95%)"),
        ({"connected_clients": "9500"}, "clients", "warning", "9500 of 10000"),
        (
            {"connected_slaves": "1", "slave0": "ip=10.0.0.2,port=6379,state=wait_bgsave,lag=0"},
            *("replicas", "warning", "10.0.0.2:6379 is in state wait_bgsave"),
        ),
        (
            {"connected_slaves": "1", "slave0": "ip=10.0.0.2,port=6379,state=online,lag=11"},
            *("replicas", "warning", "10.0.0.2:6379 was last heard of 11 s ago"),
        ),
    ],
)
def test_server_that_is_not_sound_is_told_with_a_remedy(info, check, level, said):
    found = server_checks.check_server(reading(info))
    assert findings_of(found) == [(check, level)]
    assert any(said in finding.said for finding in found)


def test_valkey_is_new_enough_whatever_redis_it_says_it_is():
    info = {"redis_version": "6.0.0", "valkey_version": "9.1.2"}
    assert findings_of(server_checks.check_server(reading(info))) == []


def test_version_whose_minor_part_has_two_digits_is_newer():
    assert findings_of(server_checks.check_server(reading({"redis_version": "6.10.1"}))) == []


@pytest.mark.parametrize(
    ("info", "settings", "level", "said"),
    [
        ({"aof_enabled": "1"}, {"appendfsync": "everysec"}, "ok", "may lose 2 s"),
        ({"aof_enabled": "1"}, {"appendfsync": "no"}, "warning", "never syncs"),
        ({"aof_enabled": "1"}, {}, "ok", "cannot be read"),
        ({"aof_enabled": "0"}, {"save": ""}, "fault", "no snapshots"),
        ({"aof_enabled": "0"}, {"save": "3600 1"}, "warning", "snapshots only"),
        # where CONFIG is refused, a snapshot that was taken shows that there are some
        ({"aof_enabled": "0"}, {}, "fault", "no snapshot since Redis started"),
        ({"aof_enabled": "0", "rdb_last_bgsave_time_sec": "-1"}, {}, "fault", "no snapshot since"),
        ({"aof_enabled": "0", "rdb_last_bgsave_time_sec": "0"}, {}, "warning", "snapshots only"),
        ({"aof_enabled": "0", "rdb_saves": "2"}, {}, "warning", "snapshots only"),
    ],
)
def test_persistence_says_what_a_restart_loses(info, settings, level, said):
    finding = server_checks.check_persistence(info, settings)
    assert (finding.level, finding.check) == (level, "persistence")
    assert said in finding.said


@pytest.mark.parametrize(
    ("skew_s", "round_trip_s", "level"),
    [
        (0.9, 0.0, "ok"),
        (1.1, 0.0, "fault"),
        (-1.1, 0.0, "fault"),
        (1.4, 1.0, "ok"),  # half of a slow answer may be all there is to it
        (1.6, 1.0, "fault"),
    ],
)
def test_clocks_that_differ_by_more_than_a_second_are_a_fault(skew_s, round_trip_s, level):
    finding = server_checks.check_skew(reading(skew_s=skew_s, round_trip_s=round_trip_s))
    assert finding.level == level
    if level == "fault":
        assert ("ahead of" if skew_s > 0 else "behind") in finding.said


@pytest.mark.parametrize(
    ("timeout", "level"), [("0", "ok"), ("5", "warning"), ("10", "warning"), ("60", "ok")]
)
def test_server_that_closes_idle_connections_early_is_told(timeout, level):
    assert server_checks.check_idle({"timeout": timeout}).level == level


def test_server_that_refuses_info_and_config_is_checked_as_far_as_it_goes():
    refusing = ServerReading(url="u", info={}, settings={}, skew_s=5.0, round_trip_s=0.0)
    assert findings_of(server_checks.check_server(refusing)) == [
        ("server", "warning"),
        ("clock", "fault"),
    ]


def test_task_that_may_run_longer_than_a_deploy_waits_is_named_with_both_times():
    timeouts = {"slow": 300.0, "quick": 5.0, "endless": None}
    (finding,) = server_checks.check_clocks(WORKER, 5.0, timeouts)
    assert finding.check == "task slow"
    assert (
        "its timeout is 300 s, but of the shutdown timeout of 30 s jobs have 24 s" in finding.said
    )
    assert "--shutdown-timeout 306 or more" in finding.remedy


def test_task_must_fit_into_what_a_stop_leaves_to_jobs():
    assert findings_of(server_checks.check_clocks(WORKER, 5.0, {"fits": 24.0})) == []
    assert findings_of(server_checks.check_clocks(WORKER, 5.0, {"long": 25.0})) == [
        ("task long", "warning")
    ]


def test_lease_that_one_late_renewal_may_lose_is_told():
    short = WorkerConfig(queues=("orders",), lease_s=6.0, extend_s=2.0, sweep_s=1.5)
    assert findings_of(server_checks.check_clocks(short, 5.0, {})) == [("lease", "warning")]
    assert findings_of(server_checks.check_clocks(WORKER, 5.0, {})) == []


# -- queues ----------------------------------------------------------------------------------------


def queue(**readings: Any) -> QueueReading:
    values: dict[str, Any] = {
        "ready": 0,
        "scheduled": 0,
        "active": 0,
        "dead": 0,
        "enqueued_ms": None,
        "due_ms": None,
        "lease_ends_ms": None,
        "last_sweep_ms": NOW - 1000,
        "guard_until_ms": None,
    }
    return QueueReading(name="orders", now_ms=NOW, **values | readings)


LATE, SOON = NOW - 36_000, NOW - 34_000


@pytest.mark.parametrize(
    "readings",
    [
        {},
        {"last_sweep_ms": None},
        {"last_sweep_ms": LATE},  # nobody serves it, and nobody need
        {"ready": 1_000_000, "enqueued_ms": NOW - 3_600_000},  # long, and served
        {"ready": 1, "enqueued_ms": SOON, "last_sweep_ms": None},
        {"due_ms": SOON, "lease_ends_ms": SOON, "last_sweep_ms": None},
        {"due_ms": NOW + 1000},
        {"lease_ends_ms": LATE, "guard_until_ms": NOW + 20_000},
        {"dead": 7},
        # they run one after the other, and wait for up to a minute after a crash
        {"ready": 9, "quarantined": 9, "enqueued_ms": NOW - 3_600_000},
        {"ready": 9, "quarantined": 9, "quarantined_ms": NOW - 94_000},
    ],
)
def test_queue_that_is_served_or_empty_is_well(readings):
    assert findings_of(check_queue(queue(**readings), WORKER)) == []


@pytest.mark.parametrize(
    ("readings", "said", "remedy"),
    [
        ({"ready": 3, "enqueued_ms": LATE, "last_sweep_ms": None}, "3 ready", "Start a worker"),
        ({"ready": 3, "enqueued_ms": LATE, "last_sweep_ms": LATE}, "swept 36.0 s ago", "Start a"),
        (
            {"ready": 9, "quarantined": 2, "quarantined_ms": NOW - 96_000},
            "2 ready that",
            "Only qcore",
        ),
        ({"due_ms": LATE, "last_sweep_ms": LATE}, "has been due for 36.0 s", "Start a worker"),
        ({"due_ms": LATE}, "has been due for 36.0 s", "logs of its workers"),
        ({"lease_ends_ms": LATE, "last_sweep_ms": LATE}, "a lease ended 36.0 s ago", "--queues or"),
        ({"lease_ends_ms": LATE, "guard_until_ms": NOW - 1}, "a lease ended", "logs of its"),
        ({"last_sweep_ms": NOW + 5000}, "last sweep lies 5.0 s in the future", "NTP"),
        # a guard is never set for longer than a lease
        ({"guard_until_ms": NOW + 31_000}, "outage guard lies 1.0 s in the future", "NTP"),
    ],
)
def test_queue_that_nobody_serves_or_whose_clock_went_back_is_a_fault(readings, said, remedy):
    (finding,) = check_queue(queue(**readings), WORKER)
    assert (finding.level, finding.check) == (Level.FAULT, "queue orders")
    assert said in finding.said
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("readings", "said"),
    [
        ({"paused": True, "ready": 3, "enqueued_ms": LATE, "last_sweep_ms": None}, "paused; 3"),
        (
            {"paused": True, "ready": 9, "quarantined": 2, "quarantined_ms": NOW - 96_000},
            "paused; 9",
        ),
        ({"closed": True}, "closed; 0"),
        ({"closed": True, "paused": True}, "paused and closed; 0"),
    ],
)
def test_queue_that_is_held_up_is_named_lest_it_be_forgotten(readings, said):
    (finding,) = check_queue(queue(**readings), WORKER)
    assert (finding.level, finding.check) == (Level.WARNING, "queue orders")
    assert finding.said.startswith(said)
    assert "qcore resume orders" in finding.remedy


def test_paused_queue_with_a_lease_that_nobody_takes_back_is_at_fault():
    (finding,) = check_queue(queue(paused=True, lease_ends_ms=LATE), WORKER)
    assert finding.level is Level.FAULT


@pytest.mark.parametrize(
    ("readings", "is_told"),
    [
        ({"ready": 1000}, False),
        ({"ready": 50, "scheduled": 39, "max_jobs": 100}, False),
        ({"ready": 50, "scheduled": 40, "max_jobs": 100}, True),
        ({"ready": 5000, "max_jobs": 100}, True),  # it was lowered
        ({"dead": 100, "active": 100, "max_jobs": 100}, False),  # they do not count
    ],
)
def test_queue_that_is_nearly_full_is_named(readings, is_told):
    found = findings_of(check_room(queue(**readings)))
    assert found == ([("room of orders", "warning")] if is_told else [])


def test_script_looks_into_every_structure_that_may_hold_a_job():
    structures = {"ready", "quarantine", "scheduled", "active", "dead", "done"} & QUEUE_KEYS.keys()
    assert structures <= set(AUDIT.keys)
