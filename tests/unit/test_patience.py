"""How long a call may take, by whether bytes move; and how much the next one carries."""

import asyncio
from collections.abc import Callable

import pytest

from qcore.broker.redis.call_limits import CallSize, StallTimeout
from tests.support.virtual_time import run_in_no_time


def ended_after(moved: Callable[[float], bytes | None], *, max_s: float = 20.0) -> float:
    """Return when a call is ended that never has its reply; still for 5 s is too long."""

    async def call() -> float:
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(None)
        patience = StallTimeout(lambda: moved(loop.time()))
        patience.start(loop, lambda: limit.reschedule(loop.time()), still_s=5.0, max_s=max_s)
        with pytest.raises(TimeoutError):
            async with limit:
                await asyncio.sleep(3600)
        patience.stop()
        return loop.time()

    return run_in_no_time(call())


def at(time_s: float) -> bytes:
    return f"{time_s}".encode()


def test_call_in_which_nothing_moves_ends_after_the_call_timeout():
    assert ended_after(lambda _: None) == pytest.approx(5.0)
    assert ended_after(lambda _: b"as before") == pytest.approx(5.0)


def test_call_that_moves_on_ends_when_its_time_is_over():
    assert ended_after(at) == pytest.approx(20.0)
    assert ended_after(at, max_s=7.0) == pytest.approx(7.0)
    assert ended_after(at, max_s=0.1) == pytest.approx(0.1)


@pytest.mark.parametrize("stop_s", [2.0, 6.0, 14.0])
def test_call_that_stops_moving_ends_a_call_timeout_later(stop_s: float):
    assert stop_s + 5.0 <= ended_after(lambda now: at(min(now, stop_s))) <= stop_s + 6.25


def test_calls_grow_on_a_fast_link_and_shrink_on_a_slow_one():
    size = CallSize(4.0, 200_000)
    first = size.now
    size.took(0.5)
    assert size.now == 2 * first
    size.took(0.5)
    size.took(0.5)
    assert size.now == 200_000
    size.took(2.0)
    assert size.now == 200_000
    size.took(5.0)
    assert size.now == 100_000
    for _ in range(10):
        size.failed()
    assert 0 < size.now < first


def test_size_of_a_call_stays_within_its_bounds():
    size = CallSize(4.0, 100, first=8, least=1)
    assert size.now == 8
    for _ in range(5):
        size.failed()
    assert size.now == 1
    for _ in range(10):
        size.took(0.5)
    assert size.now == 100
