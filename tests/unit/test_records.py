"""What is stored of jobs: envelopes, records, outcomes."""

import msgspec
import pytest

from qcore.errors import CodecError, NewerVersion
from qcore.model.codec import (
    ENVELOPE_VERSION,
    TRACE_BYTES,
    decode_envelope,
    decode_outcome,
    decode_state,
    decode_trace,
    encode,
)
from qcore.model.job import AttemptError, Envelope, JobOutcome, JobState


def test_envelope_comes_back():
    args = msgspec.Raw(encode({"a": 1}))
    for envelope in (
        Envelope(ENVELOPE_VERSION, "shop.pay", args),
        Envelope(ENVELOPE_VERSION, "shop.pay", args, 5000),
    ):
        assert decode_envelope(encode(envelope)) == envelope


def test_envelope_of_today_reads_as_it_always_has():
    """Jobs that wait in Redis outlive a deploy: this layout may only grow at its end."""
    raw = msgspec.msgpack.encode([1, "shop.pay", {"n": 1}])
    envelope = decode_envelope(raw)
    assert (envelope.version, envelope.task) == (1, "shop.pay")
    assert (envelope.keep_ms, envelope.expires_ms) == (-1, -1)
    assert msgspec.msgpack.decode(envelope.args) == {"n": 1}
    assert msgspec.msgpack.decode(encode(envelope)) == [1, "shop.pay", {"n": 1}, -1, -1]


def test_envelope_with_fields_of_a_later_minor_version_still_reads():
    raw = msgspec.msgpack.encode([1, "shop.pay", {}, 5, 7, "something", "new"])
    assert decode_envelope(raw).keep_ms == 5


@pytest.mark.parametrize(
    "newer", [[2, "t", {}], [2, {"other": "shape"}], [99], [2, "t", {}, "no number"]]
)
def test_envelope_of_a_newer_version_is_told_from_garbage(newer):
    with pytest.raises(NewerVersion, match=r"version \d+, this qcore reads up to 1: upgrade"):
        decode_envelope(msgspec.msgpack.encode(newer))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\xff\xff\xff",
        b"hello",
        b"\x80\x04\x95",  # a pickle
        encode({"version": 1}),
        encode([]),
        encode([1]),
        encode([1, 2, 3]),
        encode(["1", "t", {}]),
        encode([1, "t", {}])[:-1],
        encode([1, "t", {}]) + b"x",
    ],
    ids=repr,
)
def test_envelope_of_garbage_is_a_codec_error_and_no_newer_version(raw):
    with pytest.raises(CodecError, match="payload is not a qcore envelope: ") as e:
        decode_envelope(raw)
    assert not isinstance(e.value, NewerVersion)


def test_envelope_nested_without_end_is_a_codec_error():
    """Its bytes must make the job dead, and not end the worker that reads them."""
    raw = b"\x93\x01\xa1t" + b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(CodecError):
        decode_envelope(raw)


def test_state_comes_back():
    error = AttemptError(1, "ValueError", "no", 1, 2, "host", 3)
    for state in (JobState(), JobState(3, (error, error), 5, 6)):
        assert decode_state(encode(state)) == state


@pytest.mark.parametrize("raw", [None, b"", b"\xff", b"garbage", encode({"failures": 1})])
def test_state_that_cannot_be_read_does_not_keep_a_job_from_running(raw):
    assert decode_state(raw) == JobState()


def test_records_with_fields_of_a_later_version_still_read():
    longer = [*msgspec.to_builtins(JobState(failures=2)), {"step": 3}]
    assert decode_state(encode(longer)) == JobState(failures=2)
    assert decode_outcome(encode(["completed", 5, "", {"trace": "a"}])).status == "completed"


def test_outcome_comes_back():
    outcome = JobOutcome("completed", msgspec.Raw(encode([1, 2])))
    assert decode_outcome(encode(outcome)) == outcome
    assert msgspec.msgpack.decode(decode_outcome(encode(JobOutcome("cancelled"))).result) is None


@pytest.mark.parametrize("status", ["completed", "cancelled"])
@pytest.mark.parametrize("reason", ["", "why"])
@pytest.mark.parametrize("result", [None, [1, 2]])
def test_trace_of_an_outcome_tells_its_status(status: str, result: object, reason: str):
    whole = encode(JobOutcome(status, msgspec.Raw(encode(result)), reason))
    assert decode_trace(whole[:TRACE_BYTES]) == JobOutcome(status)


def test_outcome_that_cannot_be_read_is_a_codec_error():
    with pytest.raises(CodecError, match="kept outcome cannot be read"):
        decode_outcome(b"\xff")
