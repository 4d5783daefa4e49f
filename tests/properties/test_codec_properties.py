"""Whatever fits the annotations comes back unchanged; whatever does not is an error of ours."""

import contextlib
import dataclasses
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from qcore.context import Context
from qcore.errors import ArgumentError, CodecError
from qcore.model.codec import (
    ENVELOPE_VERSION,
    Arguments,
    decode_envelope,
    decode_outcome,
    decode_state,
    encode,
)
from qcore.model.job import (
    ERROR_TEXT_LIMIT,
    ERRORS_KEPT,
    AttemptError,
    Envelope,
    JobOutcome,
    JobState,
    JobStatus,
    shorten,
)

TEXT = st.text(st.characters(codec="utf-8"))
INT = st.integers(-(2**63), 2**64 - 1)
SMALL = st.integers(-(2**63), 2**63 - 1)
PLAIN = st.recursive(
    st.none() | st.booleans() | INT | st.floats(allow_nan=False) | TEXT | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)


class Point(msgspec.Struct):
    x: int
    name: str | None = None


@dataclasses.dataclass
class Order:
    id: UUID
    total: Decimal
    at: datetime
    points: list[Point]


def task(
    ctx: Context,
    number: int,
    text: str,
    raw: bytes,
    order: Order | None,
    *,
    by_name: dict[str, list[float]],
    pair: tuple[int, str] = (0, ""),
    anything: Any = None,
) -> None: ...


ARGUMENTS = Arguments("task", task, Context)
MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001
    max_value=datetime(9999, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
ORDERS = st.builds(
    Order,
    st.uuids(),
    st.decimals(allow_nan=False, allow_infinity=False),
    MOMENTS,
    st.lists(st.builds(Point, SMALL, st.none() | TEXT), max_size=3),
)
CALLS = st.fixed_dictionaries(
    {
        "number": INT,
        "text": TEXT,
        "raw": st.binary(),
        "order": st.none() | ORDERS,
        "by_name": st.dictionaries(TEXT, st.lists(st.floats(allow_nan=False), max_size=3)),
    },
    optional={"pair": st.tuples(SMALL, TEXT), "anything": PLAIN},
)
ERRORS = st.builds(AttemptError, SMALL, TEXT, TEXT, SMALL, SMALL, TEXT, st.integers(0, 2**31))


@given(CALLS, st.integers(0, 4))
def test_arguments_come_back_however_they_are_given(call, positional):
    names = ["number", "text", "raw", "order"][:positional]
    args = tuple(call[name] for name in names)
    kwargs = {name: value for name, value in call.items() if name not in names}
    assert ARGUMENTS.decode(ARGUMENTS.encode(args, kwargs)) == call


@given(st.dictionaries(st.sampled_from(["number", "text", "raw", "order", "by_name"]), PLAIN))
def test_arguments_of_any_values_are_taken_or_refused_by_name(call):
    try:
        raw = ARGUMENTS.encode((), call)
    except ArgumentError as e:
        assert str(e).startswith("task task: ")  # noqa: PT017
    else:
        assert set(ARGUMENTS.decode(raw)) == set(call)


@given(PLAIN)
def test_arguments_of_any_value_keep_it(value):
    def untyped(value): ...

    arguments = Arguments("untyped", untyped, Context)
    assert arguments.decode(arguments.encode((value,), {})) == {"value": value}


@given(st.binary(max_size=200))
def test_arguments_of_any_bytes_decode_or_are_refused(raw):
    with contextlib.suppress(ArgumentError):
        ARGUMENTS.decode(raw)


@given(TEXT, PLAIN, st.integers(-1, 2**63 - 1))
def test_envelope_comes_back(name, args, keep_ms):
    envelope = Envelope(ENVELOPE_VERSION, name, msgspec.Raw(encode(args)), keep_ms)
    found = decode_envelope(encode(envelope))
    assert found == envelope
    assert msgspec.msgpack.decode(found.args) == args


@given(st.binary(max_size=200))
def test_envelope_of_any_bytes_decodes_or_is_refused(raw):
    with contextlib.suppress(CodecError):
        decode_envelope(raw)


@given(PLAIN)
def test_envelope_of_any_msgpack_decodes_or_is_refused(value):
    with contextlib.suppress(CodecError):
        decode_envelope(msgspec.msgpack.encode(value))


@given(st.binary(max_size=200) | st.none())
def test_state_of_any_bytes_is_a_state(raw):
    assert isinstance(decode_state(raw), JobState)


@given(st.binary(max_size=200))
def test_outcome_of_any_bytes_decodes_or_is_refused(raw):
    with contextlib.suppress(CodecError):
        decode_outcome(raw)


@given(st.builds(JobState, SMALL, st.lists(ERRORS).map(tuple), SMALL, SMALL))
def test_state_comes_back(state):
    assert decode_state(encode(state)) == state


@given(st.sampled_from(JobStatus), PLAIN)
def test_outcome_comes_back(status, result):
    outcome = JobOutcome(status, msgspec.Raw(encode(result)))
    assert decode_outcome(encode(outcome)) == outcome


@given(st.lists(st.tuples(ERRORS, st.booleans()), max_size=20))
def test_record_counts_the_charged_and_keeps_the_last(failures):
    state = JobState()
    for error, charge in failures:
        state = state.failed(error, charge=charge)
    assert state.failures == sum(charge for _, charge in failures)
    assert list(state.errors) == [error for error, _ in failures][-ERRORS_KEPT:]


@given(st.text(max_size=50), st.integers(0, 1500), st.text(max_size=50))
def test_shorten_stays_in_its_limit_and_keeps_the_end(head, times, tail):
    text = head * times + tail
    short = shorten(text)
    assert len(short.encode()) <= ERROR_TEXT_LIMIT
    assert short.endswith(tail.encode("utf-8", "replace").decode())
    if len(text.encode("utf-8", "replace")) <= ERROR_TEXT_LIMIT:
        assert not short.startswith("[...] ") or text.startswith("[...] ")
