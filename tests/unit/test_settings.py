"""Settings: ranges, and messages that name option, value and what is allowed."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from qcore.durations import seconds
from qcore.environment import broker_config, child_environment, child_variable
from qcore.errors import ConfigError
from qcore.settings import (
    BrokerConfig,
    SupervisorConfig,
    WorkerConfig,
    check_name,
    check_stall,
    shutdown_timeout_for,
    time_for_jobs_s,
)

URL = "redis://localhost:6379/0"
#: What settings are called in messages: by the flag, where the command has one.
FLAGS = {
    "call_timeout_s": "--call-timeout",
    "enqueue_timeout_s": "enqueue_timeout",
    "payload_limit_bytes": "payload_limit",
    "concurrency": "--concurrency",
    "threads": "--threads",
    "pool_size": "--pool-size",
    "ready_timeout_s": "--ready-timeout",
    "max_jobs": "--max-jobs",
    "max_time_s": "--max-time",
    "max_memory_bytes": "--max-memory, in bytes,",
    "shutdown_timeout_s": "--shutdown-timeout",
    "processes": "--processes",
}


def broker(**settings: Any) -> BrokerConfig:
    return BrokerConfig(url=URL, **settings)


def worker(**settings: Any) -> WorkerConfig:
    queues = settings.pop("queues", ("default",))
    return WorkerConfig(queues=queues, **settings)


def supervisor(**settings: Any) -> SupervisorConfig:
    processes = settings.pop("processes", 1)
    return SupervisorConfig(processes=processes, **settings)


@pytest.mark.parametrize(
    ("build", "option", "low", "high", "outside"),
    [
        (broker, "call_timeout_s", 0.05, 300, (0.04, 301)),
        (broker, "enqueue_timeout_s", 0.05, 3600, (0, 3601)),
        (broker, "payload_limit_bytes", 1024, 16 * 1024**2, (1023, 16 * 1024**2 + 1)),
        (worker, "concurrency", 1, 10_000, (0, 10_001)),
        (supervisor, "max_jobs", 1, 1_000_000_000, (0, 1_000_000_001)),
        (supervisor, "max_time_s", 1, 30 * 86_400, (0.9, 30 * 86_400 + 1)),
        (supervisor, "max_memory_bytes", 10 * 1024**2, 1024**4, (10, 1024**4 + 1)),
        (worker, "threads", 1, 1000, (0, 1001)),
        (worker, "pool_size", 1, 256, (0, 257)),
        (worker, "block_s", 0.05, 60, (0.04, 61)),
        (worker, "heartbeat_s", 0.05, 60, (0, 61)),
        (worker, "shutdown_timeout_s", 0.1, 86400, (0, 86401)),
        (worker, "crash_limit", 1, 1000, (0, 1001)),
        (supervisor, "processes", 1, 256, (0, 257)),
        (supervisor, "ready_timeout_s", 0.1, 3600, (0, 3601)),
    ],
)
def test_option_takes_its_range_and_names_it_otherwise(build, option, low, high, outside):
    for value in (low, high):
        assert getattr(build(**{option: value}), option) == value
    name = FLAGS.get(option, option)
    for value in (*outside, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=rf"^{name} is \S+, allowed is \S+ to \S+$"):
            build(**{option: value})


@pytest.mark.parametrize(("option", "part"), [("extend_s", 3), ("sweep_s", 4)])
def test_worker_clock_must_fit_into_the_lease(option, part):
    fitting = {"lease_s": 8.0, "extend_s": 1.0, "sweep_s": 1.0}
    assert worker(**fitting | {option: 8 / part})
    for value in (8 / part + 0.01, 0, -1, float("nan")):
        with pytest.raises(ConfigError, match=rf"^{option} is \S+, allowed is up to lease_s / "):
            worker(**fitting | {option: value})


@pytest.mark.parametrize("lease_s", [0.29, 86401, float("nan")])
def test_worker_lease_out_of_range_is_named(lease_s):
    with pytest.raises(ConfigError, match=r"^--lease is "):
        worker(lease_s=lease_s, extend_s=0.01, sweep_s=0.01)


def test_worker_defaults_fit_together():
    config = worker()
    assert config.extend_s <= config.lease_s / 3
    assert config.sweep_s <= config.lease_s / 4


def test_stall_limit_lies_between_the_heartbeats_and_the_end_of_a_lease():
    clocks = worker(lease_s=8.0, extend_s=2.0, sweep_s=1.0, heartbeat_s=0.5)
    for stall_s in (1.5, 5.99):
        check_stall(stall_s, clocks)
    with pytest.raises(ConfigError, match=r"^--stall is 6 s and --lease 8 s, renewed every 2 s: "):
        check_stall(6.0, clocks)
    with pytest.raises(ConfigError, match=r"^--stall is 1.4 s, .* for 0.5 s between two beats: "):
        check_stall(1.4, clocks)


@pytest.mark.parametrize("lease_s", [0.3, 1.0, 1.5, 10.0, 30.0, 86400.0])
def test_command_chooses_times_that_fit_to_any_lease(lease_s):
    clocks = WorkerConfig.for_lease(lease_s, queues=("default",))
    check_stall(clocks.stall_s, clocks)


def test_worker_without_a_queue_is_refused():
    with pytest.raises(ConfigError, match="at least one queue"):
        worker(queues=())


@pytest.mark.parametrize("build", [broker, worker, supervisor])
def test_config_is_frozen(build):
    config = build()
    with pytest.raises(AttributeError):
        setattr(config, msgspec.structs.fields(config)[0].name, 1)


@pytest.mark.parametrize("name", ["a", "A-1_x.y", "9", "x" * 64])
def test_name_that_can_be_part_of_a_key_is_taken(name):
    assert check_name("queue", name) == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a:b", "a{b", "a}b", "a/b", "ü", "a\n"])
def test_name_that_cannot_be_part_of_a_key_is_refused(name):
    with pytest.raises(ConfigError, match=r"^queue .* is not a name: use 1 to 64 of"):
        check_name("queue", name)


def test_worker_and_broker_check_their_names():
    with pytest.raises(ConfigError, match="queue 'a:b' is not a name"):
        worker(queues=("fine", "a:b"))
    with pytest.raises(ConfigError, match="namespace 'a:b' is not a name"):
        broker(namespace="a:b")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (0.25, 0.25),
        (timedelta(minutes=2, milliseconds=5), 120.005),
        ("90", 90),
        ("1.5s", 1.5),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
    ],
)
def test_seconds_takes_numbers_timedeltas_and_text(value, expected):
    found = seconds("timeout", value)
    assert found == expected
    assert isinstance(found, float)


@pytest.mark.parametrize(
    "value", ["", "soon", "5 m", "-5", "5mm", "1e3", True, None, [5], b"5", 1j]
)
def test_seconds_of_what_is_no_duration_names_the_option(value):
    with pytest.raises(ConfigError, match=r"^task pay: timeout is .*, which is no duration: give "):
        seconds("task pay: timeout", value)
    with pytest.raises(ValueError, match=r"^delay is "):
        seconds("delay", value, ValueError)


# -- the environment -------------------------------------------------------------------------------


def test_broker_config_prefers_what_is_given():
    env = {"QCORE_URL": "redis://env", "QCORE_NAMESPACE": "env"}
    config = broker_config("redis://given", "given", env)
    assert (config.url, config.namespace) == ("redis://given", "given")


def test_broker_config_falls_back_to_the_environment():
    env = {"QCORE_URL": "redis://env", "QCORE_NAMESPACE": "env"}
    config = broker_config(None, None, env)
    assert (config.url, config.namespace) == ("redis://env", "env")


def test_broker_config_has_a_namespace_of_its_own():
    assert broker_config(URL, None, {}).namespace == "qcore"


@pytest.mark.parametrize("env", [{}, {"QCORE_URL": ""}])
def test_broker_config_without_url_away_from_a_terminal_says_what_to_set(monkeypatch, env):
    """A production host must never fill a private server that nobody drains."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with pytest.raises(ConfigError, match=r"no Redis URL: set QCORE_URL .*embedded://PATH"):
        broker_config(None, None, env)


def test_broker_config_without_url_on_a_terminal_is_the_embedded_server(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert broker_config(None, None, {}).url == "embedded://.qcore"


def test_broker_config_reads_this_process_by_default(monkeypatch):
    monkeypatch.setenv("QCORE_URL", "redis://process")
    assert broker_config(None, None).url == "redis://process"


def test_broker_config_refuses_a_bad_namespace_of_the_environment():
    with pytest.raises(ConfigError, match="namespace 'a b' is not a name"):
        broker_config(URL, None, {"QCORE_NAMESPACE": "a b"})


def test_child_environment_is_this_one_with_more_on_top(monkeypatch):
    monkeypatch.setenv("QCORE_TEST_A", "parent")
    assert child_environment({"QCORE_TEST_B": "b"})["QCORE_TEST_A"] == "parent"
    assert child_environment({"QCORE_TEST_A": "child"})["QCORE_TEST_A"] == "child"


def test_child_variable_is_taken_once_so_that_grandchildren_do_not_see_it(monkeypatch):
    monkeypatch.setenv("QCORE_TEST_A", "value")
    assert child_variable("QCORE_TEST_A") == "value"
    with pytest.raises(ConfigError, match=r"QCORE_TEST_A is not set: .* for the supervisor"):
        child_variable("QCORE_TEST_A")


@pytest.mark.parametrize(
    ("timeout_s", "jobs_s"), [(1, 0.64), (3, 1.92), (10, 6.4), (15, 10.4), (30, 24), (600, 594)]
)
def test_jobs_have_what_supervisor_and_cleanup_leave_of_the_shutdown_timeout(timeout_s, jobs_s):
    """As docs/explanation/supervision.md says of 30 s."""
    assert time_for_jobs_s(timeout_s) == pytest.approx(jobs_s)
    assert shutdown_timeout_for(jobs_s) == pytest.approx(timeout_s)


def test_call_timeout_comes_from_the_environment():
    env = {"QCORE_URL": URL, "QCORE_CALL_TIMEOUT": "30s"}
    assert broker_config(None, None, env).call_timeout_s == 30
    assert broker_config(None, None, env | {"QCORE_CALL_TIMEOUT": "7.5"}).call_timeout_s == 7.5
    with pytest.raises(ConfigError, match=r"^QCORE_CALL_TIMEOUT is 'soon'"):
        broker_config(None, None, env | {"QCORE_CALL_TIMEOUT": "soon"})
