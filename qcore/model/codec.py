"""Values to bytes and back: envelopes, records, and the arguments of a task."""

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import msgspec.inspect

from qcore.errors import ArgumentError, CodecError, ConfigError, NewerVersion
from qcore.model.callee import returns_unfinished, source_of
from qcore.model.fidelity import difference, needs_look
from qcore.model.job import Envelope, JobOutcome, JobState, JobStatus

#: The layout of Envelope that this code writes, and the newest that it reads.
ENVELOPE_VERSION = 1
#: So much of the beginning of an outcome holds its status: the head of an array, and its 9 letters.
TRACE_BYTES = 11


def _to_builtins(value: Any) -> Any:
    """Encode what msgspec does not know: Pydantic models, by their own dump."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise NotImplementedError(f"a {type(value).__name__} cannot be an argument or a result")
    try:
        return dump(mode="json", by_alias=True, round_trip=True)
    except UnicodeDecodeError as e:
        raise NotImplementedError(
            f"a {type(value).__name__} has bytes that are no UTF-8: give the model "
            "ConfigDict(ser_json_bytes='base64', val_json_bytes='base64')"
        ) from e


def _from_builtins(kind: Any, value: Any) -> Any:
    if kind is object:
        return value
    validate = getattr(kind, "model_validate_json", None)
    if validate is None:
        raise NotImplementedError(f"{kind} cannot be an argument")
    # as JSON, of which a strict model, too, takes text for a date
    return validate(_json(value))


#: What decoding can raise: on any bytes, and on bytes of other types than the annotated ones.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_UNFIT = (*_UNREADABLE, NotImplementedError, TypeError)


class _Versioned(msgspec.Struct, array_like=True):
    """The one field that every version of the envelope begins with."""

    version: int


_any_version = msgspec.msgpack.Decoder(_Versioned)
_encoder = msgspec.msgpack.Encoder(enc_hook=_to_builtins)
_envelope = msgspec.msgpack.Decoder(Envelope)
_state = msgspec.msgpack.Decoder(JobState)
_outcome = msgspec.msgpack.Decoder(JobOutcome)

encode = _encoder.encode
_json = msgspec.json.Encoder().encode


def decode_envelope(raw: bytes) -> Envelope:
    """Return the envelope in `raw`.

    Raises:
        NewerVersion: a layout newer than this code.
        CodecError: no msgpack, or another shape.
    """
    try:
        envelope = _envelope.decode(raw)
        if envelope.version <= ENVELOPE_VERSION:
            return envelope
    except _UNREADABLE as e:
        if _version(raw) <= ENVELOPE_VERSION:
            raise CodecError(f"payload is not a qcore envelope: {e}") from e
    raise NewerVersion(
        f"payload has envelope version {_version(raw)}, this qcore reads up to "
        f"{ENVELOPE_VERSION}: upgrade the worker"
    )


def _version(raw: bytes) -> int:
    """Return the version that bytes of an unknown shape claim, 0 for none."""
    try:
        return _any_version.decode(raw).version
    except _UNREADABLE:
        return 0


def decode_state(raw: bytes | None) -> JobState:
    """Return the mutable record of a job; an absent or unreadable one is a fresh one.

    A record that cannot be read must not keep a job from running: its payload is intact.
    """
    if raw is None:
        return JobState()
    try:
        return _state.decode(raw)
    except _UNREADABLE:
        return JobState()


def decode_outcome(raw: bytes) -> JobOutcome:
    """Return the kept outcome of an ended job.

    Raises:
        CodecError: the bytes are no outcome.
    """
    try:
        outcome = _outcome.decode(raw)
        JobStatus(outcome.status)
    except _UNREADABLE as e:
        raise CodecError(f"the kept outcome cannot be read: {e}") from e
    return outcome


def decode_trace(raw: bytes) -> JobOutcome:
    """Return the status of an outcome of which the first TRACE_BYTES are left.

    Raises:
        CodecError: the bytes are no trace.
    """
    # what is left of the array is its first field
    return decode_outcome(b"\x91" + raw[1:TRACE_BYTES])


def _asks_for(wanted: type, hint: Any) -> bool:
    """Say whether an annotation means this type: itself, or in `Annotated` or with `| None`."""
    while get_origin(hint) is Annotated:
        hint = hint.__origin__
    if get_origin(hint) in (Union, UnionType):
        return any(_asks_for(wanted, one) for one in get_args(hint))
    return hint is wanted


def _parameters_of(
    name: str, function: Callable[..., Any]
) -> tuple[Collection[inspect.Parameter], dict[str, Any]]:
    """Return the parameters of a task's function, and all its annotations by name."""
    try:
        hints = get_type_hints(source_of(function), include_extras=True)
    except NameError as e:
        raise ConfigError(f"task {name}: {e} in its annotations") from e
    try:
        return inspect.signature(function).parameters.values(), hints
    except (TypeError, ValueError) as e:  # of a function that is not written in Python
        raise ConfigError(f"task {name}: its parameters cannot be read: {e}") from e


class Arguments:
    """The arguments of one function: bound, checked and encoded by name.

    Built once per task from the function's signature and annotations; a parameter without an
    annotation takes anything. Parameters of the type `injected` are left out: the worker
    supplies them.
    """

    def __init__(self, name: str, function: Callable[..., Any], injected: type) -> None:
        self.name = name
        parameters, hints = _parameters_of(name, function)
        self.injected = [p.name for p in parameters if _asks_for(injected, hints.get(p.name))]
        own = [p for p in parameters if p.name not in self.injected]
        for p in own:
            if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL, p.VAR_KEYWORD):
                raise ConfigError(
                    f"task {name}: parameter {p} is not possible, arguments "
                    "travel by name; use ordinary parameters"
                )
        self.returns: Any = hints.get("return", Any)
        if returns_unfinished(self.returns):
            raise ConfigError(
                f"task {name}: it returns {self.returns}, which is yet to be run: do the work in "
                "the task, and return what is to be kept"
            )
        self._signature = inspect.Signature(own)
        self.names = tuple(p.name for p in own)
        self._defaults = {p.name: p.default for p in own if p.default is not p.empty}
        self._takes_positions = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in own)
        fields = [
            (p.name, hints.get(p.name, Any), msgspec.field(default=msgspec.UNSET))
            if p.default is not p.empty
            else (p.name, hints.get(p.name, Any))
            for p in own
        ]
        try:
            shape = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
            self._shape = shape
            self._decoder = msgspec.msgpack.Decoder(shape, dec_hook=_from_builtins)
            self._result = msgspec.msgpack.Decoder(self.returns, dec_hook=_from_builtins)
            kinds = ((p.name, msgspec.inspect.type_info(hints.get(p.name, Any))) for p in own)
            self._looks = tuple((p, kind) for p, kind in kinds if needs_look(kind))
        except TypeError as e:
            raise ConfigError(f"task {self.name}: annotation not possible: {e}") from e

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the arguments of one call as bytes, checked against the annotations.

        Raises:
            ArgumentError: as `read`.
        """
        return self.read(args, kwargs)[0]

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bytes, Any]:
        """Return the arguments of one call as `encode` does; and as a worker will read them.

        The latter has an attribute for each parameter; see `value_in`.

        Raises:
            ArgumentError: they do not fit the signature or its annotations, or would arrive as
                others than they were given.
        """
        if self._takes_positions and not kwargs and len(args) == len(self.names):
            named = dict(zip(self.names, args, strict=True))  # binding takes 1 us
        else:
            try:
                named = self._signature.bind(*args, **kwargs).arguments
            except TypeError as e:
                raise ArgumentError(f"task {self.name}: {e}") from e
        try:
            raw = _encoder.encode(named)
        except (*_UNFIT, OverflowError) as e:
            raise ArgumentError(f"task {self.name}: {e}") from e
        try:
            values = self._decoder.decode(raw)
        except _UNFIT as e:
            raise ArgumentError(f"task {self.name}: {e}") from e
        for parameter, kind in self._looks:
            if parameter in named:
                try:
                    found = difference(kind, named[parameter], getattr(values, parameter))
                except RecursionError:
                    found = ": it is nested too deeply to be compared"
                if found is not None:
                    raise ArgumentError(
                        f"task {self.name}: argument {parameter}{found}; pass plain data, or "
                        "annotate the parameter with the type that is to arrive"
                    )
        return raw, values

    def decode(self, raw: bytes | msgspec.Raw) -> dict[str, Any]:
        """Return the arguments by name, as the annotated types.

        Raises:
            ArgumentError: they do not fit: at enqueue a mistake of the caller, in a worker
                another version of the task.
        """
        try:
            named = msgspec.structs.asdict(self._decoder.decode(raw))
        except _UNFIT as e:
            raise ArgumentError(f"task {self.name}: {e}") from e
        if self._defaults:
            return {name: value for name, value in named.items() if value is not msgspec.UNSET}
        return named

    def value_in(self, values: Any, name: str) -> Any:
        """Return one of the arguments that `read` returned; if it was left out, its default."""
        value = getattr(values, name)
        return self._typed_defaults[name] if value is msgspec.UNSET else value

    @cached_property
    def _typed_defaults(self) -> dict[str, Any]:
        """The defaults as a worker would read them if they were given: 1 for a float is 1.0."""
        kinds = {field.name: field.type for field in msgspec.structs.fields(self._shape)}
        typed: dict[str, Any] = {}
        for name, default in self._defaults.items():
            decoder = msgspec.msgpack.Decoder(kinds[name], dec_hook=_from_builtins)
            try:
                typed[name] = decoder.decode(encode(default))
            except (*_UNFIT, OverflowError):  # no argument that travels, but as good for a key
                typed[name] = default
        return typed

    def decode_result(self, raw: bytes | msgspec.Raw) -> Any:
        """Return a kept result as the annotated type of the function.

        Raises:
            CodecError: it does not fit the annotation, as after a change of the code.
        """
        try:
            return self._result.decode(raw)
        except _UNFIT as e:
            raise CodecError(f"task {self.name}: its result does not fit: {e}") from e
