"""Envelopes, records and arguments: to bytes and back, and what is refused."""

import dataclasses
import enum
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest

from qcore.context import Context
from qcore.errors import ArgumentError, CodecError, ConfigError
from qcore.model.codec import (
    Arguments,
    encode,
)

pydantic = pytest.importorskip("pydantic")


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    lines: list[Point]
    note: str | None = None


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict):
    fast: bool


class Customer(pydantic.BaseModel):
    name: str
    born: date


def arguments_of(function: Any) -> Arguments:
    return Arguments(function.__name__, function, Context)


def there_and_back(function: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    arguments = arguments_of(function)
    return arguments.decode(arguments.encode(args, kwargs))


# -- arguments that fit ----------------------------------------------------------------------------

UTC_TIME = datetime(2027, 1, 2, 3, 4, 5, 678901, UTC)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 7),
        (int, -(2**63)),
        (int, 2**64 - 1),
        (float, 1.5),
        (float, float("inf")),
        (bool, True),
        (str, "ünïcödé 😀"),
        (str, ""),
        (bytes, bytes(range(256))),
        (type(None), None),
        (int | None, None),
        (int | None, 3),
        (int | str, "3"),
        (list[int], [1, 2, 3]),
        (list[int], []),
        (dict[str, int], {"a": 1}),
        (dict[int, str], {1: "a"}),
        (dict[str, list[int | None]], {"a": [1, None]}),
        (tuple[int, str], (1, "a")),
        (tuple[int, ...], (1, 2, 3)),
        (set[int], {1, 2}),
        (frozenset[str], frozenset({"a"})),
        (datetime, UTC_TIME),
        (datetime, datetime(2027, 1, 2, 3, 4, 5)),  # noqa: DTZ001 - naive on purpose
        (date, date(2027, 1, 2)),
        (time, time(3, 4, 5)),
        (timedelta, timedelta(days=1, microseconds=5)),
        (uuid.UUID, uuid.UUID(int=7)),
        (Decimal, Decimal("12.340")),
        (Color, Color.BLUE),
        (Level, Level.HIGH),
        (Literal["a", "b"], "b"),
        (Point, Point(1, 2)),
        (list[Point], [Point(1), Point(2, 3)]),
        (Order, Order(uuid.UUID(int=1), [Point(1)], "fast")),
        (Pair, Pair(1, "a")),
        (Options, {"fast": True}),
        (Annotated[int, msgspec.Meta(ge=0)], 0),
        (Customer, Customer(name="Ada", born=date(1815, 12, 10))),
        (list[Customer], [Customer(name="Ada", born=date(1815, 12, 10))]),
        (Any, {"anything": [1, 2.5, None, "x", b"y"]}),
    ],
    ids=str,
)
def test_argument_comes_back_as_its_annotated_type(kind, value):
    def task(value): ...

    task.__annotations__["value"] = kind
    found = there_and_back(task, value)
    assert found == {"value": value}
    assert type(found["value"]) is type(value)


def test_argument_aware_in_another_zone_is_the_same_moment():
    def task(at: datetime): ...

    local = UTC_TIME.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert there_and_back(task, local) == {"at": UTC_TIME}


def test_argument_without_annotation_takes_anything():
    def task(a, b=None): ...

    assert there_and_back(task, [1, {"x": 2}]) == {"a": [1, {"x": 2}]}


def test_argument_annotated_with_object_takes_anything_or_is_refused_at_once():
    """`object` is what strict typing calls anything; it must not fail at each enqueue."""

    def task(a: object): ...

    try:
        arguments = arguments_of(task)
    except ConfigError:
        return
    assert arguments.decode(arguments.encode(([1, "x"],), {})) == {"a": [1, "x"]}


def test_result_annotated_with_object_comes_back():
    def task() -> object: ...

    assert arguments_of(task).decode_result(encode([1, "x"])) == [1, "x"]


def test_arguments_travel_by_name_however_they_are_given():
    def task(a: int, b: int, *, c: int): ...

    expected = {"a": 1, "b": 2, "c": 3}
    assert there_and_back(task, 1, 2, c=3) == expected
    assert there_and_back(task, 1, c=3, b=2) == expected
    assert there_and_back(task, c=3, b=2, a=1) == expected


def test_argument_left_out_stays_out_so_that_the_default_of_the_worker_counts():
    def task(a: int, b: int = 5, *, c: str = "x", d: list[int] | None = None): ...

    assert there_and_back(task, 1) == {"a": 1}
    assert there_and_back(task, 1, c="y") == {"a": 1, "c": "y"}
    assert there_and_back(task, 1, d=None) == {"a": 1, "d": None}


def test_arguments_of_a_task_without_any():
    def task(): ...

    assert there_and_back(task) == {}


def test_context_is_left_out_wherever_it_stands():
    def first(ctx: Context, a: int): ...
    def last(a: int, *, job: Context): ...

    assert there_and_back(first, 1) == {"a": 1}
    assert there_and_back(last, 1) == {"a": 1}
    assert arguments_of(first).injected == ["ctx"]
    assert arguments_of(last).injected == ["job"]


def test_context_is_left_out_in_an_optional_or_annotated_form():
    def task(a: int, ctx: Context | None = None): ...
    def other(ctx: Annotated[Context, "the job"], a: int): ...
    def third(ctx: "Annotated[Context, 1] | None", a: int): ...

    for function in (task, other, third):
        assert arguments_of(function).injected == ["ctx"]


# -- arguments that do not fit ---------------------------------------------------------------------


def pay(order: int, amount: Decimal, *, tags: list[str] = [], fast: bool = False): ...  # noqa: B006


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'order'"),
        ((1,), {}, "missing a required argument: 'amount'"),
        ((1, Decimal(1), []), {}, "too many positional arguments"),
        ((1, Decimal(1)), {"slow": True}, "unexpected keyword argument 'slow'"),
        ((1, Decimal(1)), {"order": 2}, "multiple values for argument 'order'"),
        (("1", Decimal(1)), {}, r"Expected `int`, got `str` - at `\$\.order`"),
        ((None, Decimal(1)), {}, r"Expected `int`, got .* - at `\$\.order`"),
        ((1.5, Decimal(1)), {}, r"Expected `int`, got `float` - at `\$\.order`"),
        ((1, "x"), {}, r"Invalid decimal string - at `\$\.amount`"),
        ((1, Decimal(1)), {"tags": ["a", 2]}, r"Expected `str`, got `int` - at `\$\.tags\[1\]`"),
        ((1, Decimal(1)), {"fast": 1}, r"Expected `bool`, got `int` - at `\$\.fast`"),
        ((2**64, Decimal(1)), {}, "int"),
        ((object(), Decimal(1)), {}, "a object cannot be an argument"),
        ((1, Decimal(1)), {"tags": ["\ud800"]}, "surrogates"),
    ],
)
def test_argument_that_does_not_fit_is_refused_by_task_and_name(args, kwargs, message):
    with pytest.raises(ArgumentError, match=rf"^task pay: .*{message}"):
        arguments_of(pay).encode(args, kwargs)


def test_argument_that_contains_itself_is_refused():
    def task(a: Any): ...

    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ArgumentError, match="task"):
        arguments_of(task).encode((loop,), {})


def test_argument_that_fits_no_field_of_its_struct_is_refused():
    def task(at: Point): ...

    with pytest.raises(ArgumentError, match=r"Expected `int`, got `str` - at `\$\.at\.x`"):
        arguments_of(task).encode((Point("no"),), {})  # pyright: ignore[reportArgumentType]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_argument_that_a_pydantic_model_refuses_is_refused():
    def task(who: Customer): ...

    bad = Customer.model_construct(name="Ada", born="never")
    with pytest.raises(ArgumentError, match=r"(?s)born.*at `\$\.who`"):
        arguments_of(task).encode((bad,), {})


def test_argument_that_breaks_a_constraint_is_refused():
    def task(n: Annotated[int, msgspec.Meta(ge=0)]): ...

    with pytest.raises(ArgumentError, match=r"Expected `int` >= 0 - at `\$\.n`"):
        arguments_of(task).encode((-1,), {})


def test_context_given_by_a_caller_is_refused():
    def task(ctx: Context, a: int): ...

    with pytest.raises(ArgumentError, match="unexpected keyword argument 'ctx'"):
        arguments_of(task).encode((1,), {"ctx": None})


def test_arguments_of_another_version_of_the_task_do_not_decode():
    def old(a: int, b: int): ...
    def new(a: int): ...
    def needs_more(a: int, b: int, c: int): ...

    raw = arguments_of(old).encode((1, 2), {})
    with pytest.raises(ArgumentError, match="unknown field `b`"):
        arguments_of(new).decode(raw)
    with pytest.raises(ArgumentError, match="missing required field `c`"):
        arguments_of(needs_more).decode(raw)


def test_arguments_that_are_no_map_do_not_decode():
    with pytest.raises(ArgumentError):
        arguments_of(pay).decode(b"\xff")
    with pytest.raises(ArgumentError):
        arguments_of(pay).decode(encode([1, 2]))


# -- functions that can be no task -----------------------------------------------------------------


def test_function_with_parameters_that_have_no_name_is_refused():
    def positional(a, /): ...
    def many(*args): ...
    def named(**kwargs): ...

    for function in (positional, many, named):
        with pytest.raises(ConfigError, match=r"parameter .* is not possible, arguments travel"):
            arguments_of(function)


def test_function_with_an_annotation_that_is_not_there_is_refused():
    def task(a): ...

    task.__annotations__["a"] = "Missing"
    with pytest.raises(ConfigError, match="name 'Missing' is not defined in its annotations"):
        arguments_of(task)


def test_function_with_an_annotation_that_cannot_be_decoded_is_refused():
    def task(a: dict[str, int] | list[Point] | tuple[int]): ...

    with pytest.raises(ConfigError, match=r"task .*task: annotation not possible: "):
        arguments_of(task)


# -- results ---------------------------------------------------------------------------------------


def test_result_comes_back_as_the_annotated_type():
    def task() -> Order: ...  # pyright: ignore[reportReturnType]

    order = Order(uuid.UUID(int=1), [Point(1)])
    assert arguments_of(task).decode_result(encode(order)) == order


def test_result_of_a_pydantic_model_comes_back_as_one():
    def task() -> Customer: ...  # pyright: ignore[reportReturnType]

    ada = Customer(name="Ada", born=date(1815, 12, 10))
    assert arguments_of(task).decode_result(encode(ada)) == ada


def test_result_that_no_longer_fits_says_so():
    def task() -> int: ...  # pyright: ignore[reportReturnType]

    with pytest.raises(CodecError, match=r"task: its result does not fit: Expected `int`"):
        arguments_of(task).decode_result(encode("no"))


# -- envelopes and records -------------------------------------------------------------------------


def test_arguments_nested_without_end_do_not_decode():
    def task(a: Any): ...

    raw = b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(ArgumentError):
        arguments_of(task).decode(raw)
