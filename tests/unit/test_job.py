"""The values that travel: records that stay small, ids that are never given twice."""

import time
import uuid

import pytest

from qcore.broker.identity import new_id, new_owner
from qcore.model.job import (
    ERROR_TEXT_LIMIT,
    ERRORS_KEPT,
    AttemptError,
    JobState,
    Reclaimed,
    shorten,
)


def error(n: int) -> AttemptError:
    return AttemptError(n, "ValueError", f"no {n}", 0, 0, "host", 1)


def test_record_counts_charged_failures_only():
    state = JobState().failed(error(1), charge=True).failed(error(2), charge=False)
    assert state.failures == 1
    assert [e.attempt for e in state.errors] == [1, 2]


def test_record_keeps_the_last_errors_oldest_first():
    state = JobState()
    for n in range(1, 9):
        state = state.failed(error(n), charge=True)
    assert [e.attempt for e in state.errors] == [4, 5, 6, 7, 8]
    assert len(state.errors) == ERRORS_KEPT
    assert state.failures == 8


def test_record_keeps_what_it_knows_of_parking():
    state = JobState(parked_ms=5, parks=2).failed(error(1), charge=True)
    assert (state.parked_ms, state.parks) == (5, 2)


@pytest.mark.parametrize("text", ["", "short", "x" * ERROR_TEXT_LIMIT, "ü" * 1024])
def test_shorten_leaves_what_fits(text):
    assert shorten(text) == text


def test_shorten_keeps_the_end_which_names_the_error():
    text = shorten("frame\n" * 10_000 + "ValueError: no")
    assert text.startswith("[...] ")
    assert text.endswith("ValueError: no")
    assert ERROR_TEXT_LIMIT - 100 < len(text.encode()) <= ERROR_TEXT_LIMIT


@pytest.mark.parametrize("tail", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("character", ["ü", "€", "😀"])
def test_shorten_in_the_middle_of_a_character_stays_in_its_limit(character, tail):
    assert len(shorten(character * 5000 + tail).encode()) <= ERROR_TEXT_LIMIT


def test_shorten_takes_text_that_is_no_unicode():
    """The text of an exception may hold half characters, from a file name for example."""
    assert shorten("bad \udcff name") == "bad ? name"


def test_reclaimed_names_its_job():
    assert Reclaimed(b"owner:12:an:id", "ready").id == "an:id"


def test_new_id_is_a_uuid_of_version_7():
    text = new_id()
    id = uuid.UUID(text)
    assert (id.version, id.variant) == (7, uuid.RFC_4122)
    assert str(id) == text


def test_new_ids_are_ordered_by_the_time_of_their_making():
    ids = [new_id()]
    for _ in range(3):
        before = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == before:
            pass
        ids.append(new_id())
    assert ids == sorted(ids)


def test_new_id_carries_the_present_time():
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id()).int >> 80
    assert before <= made <= time.time_ns() // 1_000_000


def test_new_ids_are_never_the_same():
    assert len({new_id() for _ in range(10_000)}) == 10_000


def test_new_owner_is_16_hex_digits_and_never_the_same():
    owners = {new_owner() for _ in range(1000)}
    assert len(owners) == 1000
    assert all(len(owner) == 16 and int(owner, 16) >= 0 for owner in owners)
