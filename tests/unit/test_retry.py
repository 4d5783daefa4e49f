"""Retry policies: what they wait, when they end, what they refuse."""

from datetime import timedelta

import pytest

from qcore import ConfigError, Exponential, GiveUp, QcoreError, Retry, RetryLater


def delays(retry: Retry, draw: float = 0.5) -> list[float | None]:
    """Return the delay after each failure; a draw of one half is no jitter."""
    return [retry.delay_s(failures, draw) for failures in range(1, retry.max_attempts + 1)]


def test_retry_waits_the_delays_of_its_list_in_turn():
    assert delays(Retry(max_attempts=4, backoff=[10, 60, 300])) == [10, 60, 300, None]


def test_retry_repeats_the_last_delay_of_its_list():
    assert delays(Retry(max_attempts=5, backoff=[1, 2])) == [1, 2, 2, 2, None]


@pytest.mark.parametrize("backoff", [7, 7.0, timedelta(seconds=7)])
def test_retry_with_one_number_always_waits_that(backoff):
    assert delays(Retry(max_attempts=3, backoff=backoff)) == [7, 7, None]


def test_retry_takes_timedeltas_in_its_list():
    retry = Retry(max_attempts=3, backoff=[timedelta(milliseconds=500), timedelta(hours=1)])
    assert delays(retry) == [0.5, 3600, None]


def test_retry_exponential_grows_up_to_its_most():
    retry = Retry(max_attempts=6, backoff=Exponential(first=2, factor=3, max=50))
    assert delays(retry) == [2, 6, 18, 50, 50, None]


def test_retry_by_default_has_five_attempts_5_to_135_s_apart():
    assert delays(Retry()) == [5, 15, 45, 135, None]


def test_retry_with_one_attempt_never_retries():
    assert Retry(max_attempts=1).delay_s(1, 0.5) is None


def test_retry_of_more_failures_than_attempts_is_dead():
    """The policy was changed while the job was waiting."""
    assert Retry(max_attempts=2).delay_s(7, 0.5) is None


def test_retry_of_a_list_is_dead_at_its_attempts_and_not_at_its_end():
    assert Retry(max_attempts=2, backoff=[1, 2, 3]).delay_s(2, 0.5) is None


@pytest.mark.parametrize(("draw", "expected"), [(0.0, 80), (0.25, 90), (0.5, 100), (0.75, 110)])
def test_retry_jitter_spreads_the_delay_up_and_down(draw, expected):
    assert Retry(backoff=100, jitter=0.2).delay_s(1, draw) == pytest.approx(expected)


def test_retry_without_jitter_waits_exactly():
    assert Retry(backoff=100, jitter=0).delay_s(1, 0.99) == 100


def test_retry_jitter_of_one_never_waits_less_than_nothing():
    assert Retry(backoff=100, jitter=1).delay_s(1, 0) == 0


def test_retry_does_not_overflow_after_many_failures():
    retry = Retry(max_attempts=10**9, backoff=Exponential(first=5.0, factor=3.0, max=3600.0))
    assert retry.delay_s(10**9 - 1, 0.5) == 3600


@pytest.mark.parametrize("factor", [10.0, 1e5, 1e9, 1e300])
def test_retry_does_not_overflow_with_a_steep_factor(factor):
    retry = Retry(max_attempts=100, backoff=Exponential(first=1.0, factor=factor, max=60.0))
    assert retry.delay_s(99, 0.5) == 60


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_attempts": 0}, "max_attempts is 0, allowed is 1 and more"),
        ({"max_attempts": -3}, "max_attempts is -3, allowed is 1 and more"),
        ({"jitter": -0.1}, "jitter is -0.1, allowed is 0 to 1"),
        ({"jitter": 1.5}, "jitter is 1.5, allowed is 0 to 1"),
        ({"jitter": float("nan")}, "jitter is nan, allowed is 0 to 1"),
        ({"backoff": []}, "needs delays of 0 s and more"),
        ({"backoff": -1}, "needs delays of 0 s and more"),
        ({"backoff": [1, -1]}, "needs delays of 0 s and more"),
        ({"backoff": timedelta(seconds=-1)}, "needs delays of 0 s and more"),
        ({"backoff": [timedelta(seconds=-1)]}, "needs delays of 0 s and more"),
        ({"backoff": Exponential(first=-1)}, "needs delays of 0 s and more"),
        ({"backoff": Exponential(max=-1)}, "needs delays of 0 s and more"),
    ],
)
def test_retry_out_of_range_is_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=f"^Retry: .*{message}"):
        Retry(**settings)


@pytest.mark.parametrize(
    "backoff",
    [
        Exponential(first=1, factor=-3),
        Exponential(factor=float("nan")),
        float("nan"),
        float("inf"),
        [float("nan")],
    ],
)
def test_retry_that_could_wait_no_time_at_all_is_refused(backoff):
    """A delay that is negative, infinite or no number fails at registration, not at a failure."""
    with pytest.raises(ConfigError):
        Retry(backoff=backoff)


def test_retry_is_a_value():
    assert Retry(backoff=3) == Retry(backoff=3)
    with pytest.raises(AttributeError):
        Retry().jitter = 0.5  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("delay", "expected"), [(5, 5), (timedelta(minutes=1), 60), (-1, 0)])
def test_retry_later_takes_seconds_and_timedeltas_and_no_past(delay, expected):
    later = RetryLater(delay)
    assert later.delay_s == expected
    assert later.charge is True


def test_retry_later_may_charge_nothing():
    assert RetryLater(1, charge=False).charge is False


def test_instructions_of_a_task_are_no_qcore_errors():
    assert not issubclass(GiveUp, QcoreError)
    assert not issubclass(RetryLater, QcoreError)
    assert str(GiveUp("no such customer")) == "no such customer"
