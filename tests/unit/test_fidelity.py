"""Arguments that would arrive as others than they were given, and those that do not."""

import dataclasses
import enum
import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, TypedDict

import msgspec
import pytest
from msgspec import Meta

from qcore.context import Context
from qcore.errors import ArgumentError
from qcore.model.codec import Arguments

pydantic = pytest.importorskip("pydantic")


def arguments_of(function: Any) -> Arguments:
    return Arguments(function.__name__, function, Context)


def there_and_back(function: Any, *args: Any) -> dict[str, Any]:
    arguments = arguments_of(function)
    return arguments.decode(arguments.encode(args, {}))


class Color(enum.Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Options(TypedDict):
    fast: bool


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    lines: list[Point]


class Anything(pydantic.BaseModel):
    value: Any = None


class Sealed(pydantic.BaseModel):
    secret: pydantic.SecretStr  # pyright: ignore[reportInvalidTypeForm]
    hidden: int = pydantic.Field(default=0, exclude=True)


class Computed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    side: Decimal
    raw: pydantic.Json[dict[str, int]]  # pyright: ignore[reportInvalidTypeForm]
    key: uuid.UUID = pydantic.Field(alias="theKey")

    @pydantic.computed_field
    @property
    def area(self) -> Decimal:
        return self.side**2


class SpecialOrder(Order): ...


@dataclasses.dataclass
class Remade:
    price: float
    tag: Any = None

    def __post_init__(self) -> None:
        self.price *= 2


def test_model_that_is_strict_computed_aliased_and_json_comes_back():
    def task(value: Computed): ...

    value = Computed(side=Decimal("1.50"), raw='{"a": 1}', theKey=uuid.UUID(int=7))
    assert there_and_back(task, value) == {"value": value}


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Sealed, Sealed(secret="x"), "argument value.secret: a SecretStr would arrive with ano"),
        (Sealed | None, Sealed(secret="x"), "argument value.secret: a SecretStr would arrive"),
        (
            Annotated[Sealed, Meta(description="x")],
            Sealed(secret="x"),
            "argument value.secret: a SecretStr would arrive with ano",
        ),
        (
            list[Annotated[Any, Meta(title="x")]] | None,
            [(1,)],
            r"argument value\[0\]: a tuple would arrive",
        ),
        (list[Sealed], [Sealed(secret="x")], r"argument value\[0\].secret: a SecretStr"),
        (dict[str, Sealed], {"a": Sealed(secret="x")}, r"argument value\['a'\].secret: a Secr"),
        (Anything, Anything(value=(1,)), "argument value.value: a tuple would arrive as a list"),
        (Anything, Anything(value=[{"a": (1,)}]), r"argument value.value\[0\]\['a'\]: a tuple"),
        (Order, SpecialOrder(uuid.UUID(int=1), []), "a SpecialOrder would arrive as a Order"),
        (Options, {"fast": True, "x": 1}, r"argument value\['x'\]: it would be lost"),
        (Point, {"x": 1, "z": 1}, r"argument value\['z'\]: it would be lost"),
        (Remade, Remade(1.0), "argument value.price: a float would arrive with another value"),
        (dict[str, Any], {"a": [date(2027, 1, 1)]}, r"argument value\['a'\]\[0\]: a date would"),
        (dict[Any, int], {date(2027, 1, 1): 1}, "keys of it would arrive as others"),
        (set[Any], {date(2027, 1, 1)}, "items of it would arrive as others"),
        (list[Any], ((1, 2),), r"argument value\[0\]: a tuple would arrive as a list"),
        (tuple[int, Any], (1, {2}), r"argument value\[1\]: a set would arrive as a list"),
        (dict[str, int] | list[Any] | None, [(1,)], r"argument value\[0\]: a tuple would arrive"),
    ],
)
def test_argument_that_would_arrive_as_another_is_refused_by_place(kind, value, message):
    def task(value): ...

    task.__annotations__["value"] = kind
    with pytest.raises(ArgumentError, match=rf"^task task: argument value.*{message[14:]}"):
        arguments_of(task).encode((value,), {})


def test_argument_that_is_nested_too_deeply_to_be_compared_is_refused():
    def task(value): ...

    deep: Any = float("nan")
    for _ in range(400):
        deep = [deep]
    with pytest.raises(ArgumentError, match=r"^task task: "):
        arguments_of(task).encode((deep,), {})


def test_field_that_was_never_set_is_no_surprise():
    @dataclasses.dataclass
    class Late:
        a: int
        b: int = dataclasses.field(init=False, default=0)

    def task(value): ...

    task.__annotations__["value"] = Late
    assert there_and_back(task, Late(1)) == {"value": Late(1)}


def test_refusal_does_not_show_what_may_be_secret():
    def task(value: Any): ...

    with pytest.raises(ArgumentError) as e:
        arguments_of(task).encode((("hunter2",),), {})
    assert "hunter2" not in str(e.value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Anything, Anything(value=[1, {"a": 2.5}])),
        (list[Anything], [Anything(value="x")]),
        (set[Any], {1, "a"}),
        (Any, {1: [True], (1, 2): None}),
        (list[Any], [[1, 2]]),
    ],
)
def test_argument_that_arrives_as_it_is_goes(kind, value):
    def task(value): ...

    task.__annotations__["value"] = kind
    assert there_and_back(task, value) == {"value": value}


def test_argument_that_is_no_number_goes():
    def task(value): ...

    assert str(there_and_back(task, [float("nan")])) == "{'value': [nan]}"


@pytest.mark.parametrize(
    "kind",
    [int, str, datetime, Color, list[int], dict[str, list[Decimal]], tuple[int, ...], int | None],
)
def test_argument_of_a_type_that_cannot_change_is_not_looked_at_again(kind):
    """The common call must stay cheap."""

    def task(value): ...

    task.__annotations__["value"] = kind
    assert arguments_of(task)._looks == ()
