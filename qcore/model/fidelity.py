"""Whether an argument arrives as it was given: which annotations need a look, and the look.

Most need none: what decodes as an `int` or a `list[datetime]` is what was encoded. A look compares
what was given with what a worker would get, where a value can change or lose something on the way
and still fit: below `Any`, and in objects with fields.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from msgspec import inspect

_OBJECTS = (inspect.StructType, inspect.DataclassType, inspect.NamedTupleType)
_SERIES = (list, tuple, set, frozenset)
#: Where it is, its type (None: it is compared exactly), what was given, what would arrive.
_Parts = Iterable[tuple[str, inspect.Type | None, Any, Any]]


def needs_look(kind: inspect.Type) -> bool:
    """Say whether a value of this type can fit and yet arrive as another one."""
    match kind:
        case inspect.CollectionType(item_type=item):
            return needs_look(item)
        case inspect.TupleType(item_types=items):
            return any(map(needs_look, items))
        case inspect.UnionType(types=types):
            return any(map(needs_look, types))
        case inspect.DictType(key_type=key, value_type=value):
            return needs_look(key) or needs_look(value)
        case inspect.Metadata(type=inner):
            return needs_look(inner)
        case inspect.AnyType() | inspect.CustomType() | inspect.TypedDictType():
            return True
        case _:
            return isinstance(kind, _OBJECTS)


def difference(kind: inspect.Type, given: Any, arrived: Any) -> str | None:
    """Return where and how a value would arrive as another one; None: it does not.

    What the annotation asks for is no difference: a tuple arrives in a `list[int]` as a list.
    """
    match kind:
        case inspect.Metadata(type=inner):
            return difference(inner, given, arrived)
        case inspect.UnionType(types=types):
            found = [one for one in types if needs_look(one) and _is_of(arrived, one)]
            return difference(found[0], given, arrived) if found else None
        case inspect.CollectionType(item_type=item) if _is_a(given, *_SERIES):
            return _items(given, arrived, item)
        case inspect.TupleType(item_types=items) if _is_a(given, *_SERIES):
            parts = enumerate(zip(items, given, arrived, strict=False))
            return _first((f"[{i}]", one, a, b) for i, (one, a, b) in parts)
        case inspect.DictType(value_type=value) if _is_a(given, dict):
            return _values(given, arrived, value)
        case inspect.TypedDictType(fields=fields) if _is_a(given, dict):
            return _named(fields, given, arrived)
        case inspect.StructType() | inspect.DataclassType() | inspect.NamedTupleType():
            return _fields(kind.fields, given, arrived)
        case _:
            return _unlike(given, arrived) if needs_look(kind) else None


def _is_of(value: Any, kind: inspect.Type) -> bool:
    match kind:
        case inspect.Metadata(type=inner):
            return _is_of(value, inner)
        case inspect.AnyType() | inspect.CustomType():
            return value is not None
        case inspect.StructType() | inspect.DataclassType() | inspect.NamedTupleType():
            return isinstance(value, kind.cls)
        case inspect.DictType() | inspect.TypedDictType():
            return isinstance(value, dict)
        case _:
            return _is_a(value, *_SERIES)


def _first(parts: _Parts) -> str | None:
    for where, kind, given, arrived in parts:
        found = _unlike(given, arrived) if kind is None else difference(kind, given, arrived)
        if found is not None:
            return where + found
    return None


def _items(given: Any, arrived: Any, kind: inspect.Type | None) -> str | None:
    if _is_a(arrived, set, frozenset):
        return None if set(given) == arrived else ": items of it would arrive as others"
    pairs = enumerate(zip(given, arrived, strict=False))
    return _first((f"[{i}]", kind, a, b) for i, (a, b) in pairs)


def _values(given: Any, arrived: Any, kind: inspect.Type | None) -> str | None:
    if given.keys() != arrived.keys():
        return ": keys of it would arrive as others"
    return _first((f"[{key!r}]", kind, value, arrived[key]) for key, value in given.items())


def _named(fields: Iterable[inspect.Field], given: Any, arrived: Any) -> str | None:
    """Compare a dict with what has these fields."""
    named = {field.encode_name: field for field in fields}
    lost = given.keys() - named.keys()
    if lost:
        return f"[{min(lost)!r}]: it would be lost, the annotation has no such key"
    read: Callable[[str], Any] = (
        arrived.__getitem__ if _is_a(arrived, dict) else partial(getattr, arrived)
    )
    return _first((f"[{k!r}]", named[k].type, v, read(named[k].name)) for k, v in given.items())


def _fields(fields: Iterable[inspect.Field], given: Any, arrived: Any) -> str | None:
    if _is_a(given, dict):
        return _named(fields, given, arrived)
    if type(given) is not type(arrived):
        return _as_another(given, arrived)
    for field in fields:
        # one that __init__ does not set may be missing
        a, b = getattr(given, field.name, None), getattr(arrived, field.name, None)
        found = difference(field.type, a, b)
        if found is None and type(a) is type(b) and not needs_look(field.type):
            found = _unlike(a, b)  # what is made again may be made otherwise, by __post_init__
        if found is not None:
            return f".{field.name}{found}"
    return None


def _unlike(given: Any, arrived: Any) -> str | None:
    """Compare plain data and models, exactly."""
    # as an instance of a subclass an OrderedDict, or an enum of strings, is what arrives
    if isinstance(given, type(arrived)) and _is_equal(given, arrived):
        return None
    if type(given) is not type(arrived):
        return _as_another(given, arrived)
    names = _model_fields(given)
    if names is not None:
        return _first((f".{n}", None, getattr(given, n), getattr(arrived, n, None)) for n in names)
    if _is_a(given, dict):
        return _values(given, arrived, None)
    if _is_a(given, list, tuple):
        return _items(given, arrived, None)
    if isinstance(given, float) and math.isnan(given) and math.isnan(arrived):
        return None
    return f": a {type(given).__name__} would arrive with another value"


def _model_fields(model: Any) -> list[str] | None:
    """Return the names of the fields of a Pydantic model; None for what is none."""
    names = getattr(model.__class__, "model_fields", None)
    return None if names is None else [*names, *(getattr(model, "model_extra", None) or ())]


def _is_a(value: Any, *kinds: type) -> bool:
    """Do as `isinstance` does, without a guess at what is in a container."""
    return isinstance(value, kinds)


def _is_equal(given: Any, arrived: Any) -> bool:
    try:
        return bool(given == arrived)
    except Exception:  # noqa: BLE001 - of a class of the caller's
        return False


def _as_another(given: Any, arrived: Any) -> str:
    return f": a {type(given).__name__} would arrive as a {type(arrived).__name__}"
