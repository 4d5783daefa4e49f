"""Delays stay in their bounds, for any policy and any number of failures."""

from datetime import timedelta
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from qcore.broker.backoff import Backoff
from qcore.model.retry import Exponential, Retry

SECONDS = st.floats(0, 1e6)
DELAYS = SECONDS | st.timedeltas(timedelta(0), timedelta(days=30))
EXPONENTIALS = st.builds(Exponential, first=SECONDS, factor=st.floats(1, 1000), max=SECONDS)
BACKOFFS = DELAYS | st.lists(DELAYS, min_size=1, max_size=8) | EXPONENTIALS
POLICIES = st.builds(
    Retry,
    max_attempts=st.integers(1, 10**9),
    backoff=BACKOFFS,
    jitter=st.floats(0, 1),
)
DRAWS = st.floats(0, 1, exclude_max=True)


@given(POLICIES, st.integers(1, 2 * 10**9), DRAWS)
def test_retry_waits_within_its_jitter_or_is_dead(policy, failures, draw):
    delay_s = policy.delay_s(failures, draw)
    if failures >= policy.max_attempts:
        assert delay_s is None
        return
    base_s = policy.base_delay_s(failures)
    assert base_s * (1 - policy.jitter) - 1e-6 <= delay_s <= base_s * (1 + policy.jitter) + 1e-6
    assert delay_s >= 0


@given(EXPONENTIALS, st.integers(1, 10**6))
def test_retry_exponential_never_shrinks_and_has_a_most(backoff, failures):
    policy = Retry(max_attempts=10**9, backoff=backoff)
    first, second = policy.base_delay_s(failures), policy.base_delay_s(failures + 1)
    assert 0 <= first <= second <= max(backoff.max, 0)


@given(st.lists(DELAYS, min_size=1, max_size=8), st.integers(1, 100))
def test_retry_list_is_followed_and_its_last_value_repeats(delays, failures):
    policy = Retry(max_attempts=1000, backoff=delays, jitter=0)
    expected = delays[failures - 1] if failures <= len(delays) else delays[-1]
    if isinstance(expected, timedelta):
        expected = expected.total_seconds()
    assert policy.delay_s(failures, 0.3) == expected


@given(st.floats(0.001, 10), st.floats(1, 1000), st.lists(st.booleans(), min_size=1, max_size=60))
def test_backoff_stays_between_nothing_and_its_doubling_bound(min_s, times, resets):
    max_s = min_s * times
    backoff, bound_s = Backoff(min_s, max_s), min_s
    for reset in resets:
        if reset:
            backoff.reset()
            bound_s = min_s
        assert 0 <= backoff.next_s() <= bound_s
        bound_s = min(2 * bound_s, max_s)


@given(st.floats(0.001, 10), st.floats(1, 1000), st.integers(1, 40))
def test_backoff_bound_doubles_until_its_most(min_s, times, tries):
    max_s = min_s * times
    with patch("qcore.broker.backoff._random.uniform", lambda low, high: high):
        backoff = Backoff(min_s, max_s)
        bounds = [backoff.next_s() for _ in range(tries)]
    assert bounds == [min(min_s * 2**n, max_s) for n in range(tries)]
