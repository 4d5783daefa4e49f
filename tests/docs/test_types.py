"""The reference of types: each row of its tables is as it says."""

import dataclasses
import enum
import re
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest

from qcore import ArgumentError, Context
from qcore.model.codec import Arguments
from tests.docs.pages import DOCS, rows, sections

pydantic = pytest.importorskip("pydantic")
SECTIONS = sections(DOCS / "reference" / "types.md")
ANNOTATED = rows(SECTIONS["With an annotation"])
PLAIN = [["", *row] for row in rows(SECTIONS["Without an annotation, or with `Any`"])]


@dataclasses.dataclass
class Line:
    what: str
    count: int


@dataclasses.dataclass
class Order:
    id: UUID
    lines: list[Line]


@dataclasses.dataclass
class RushOrder(Order):
    by: str


class Point(msgspec.Struct):
    x: int
    y: int


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict):
    fast: bool


class Color(enum.Enum):
    RED = "red"


class Tone(enum.StrEnum):
    LOUD = "loud"


class Customer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    name: str = pydantic.Field(alias="userName")
    born: date


class Login(pydantic.BaseModel):
    name: str
    password: pydantic.SecretStr  # pyright: ignore[reportInvalidTypeForm]


class Draft(pydantic.BaseModel):
    text: str
    by: str = pydantic.Field(default="", exclude=True)


class Blob(pydantic.BaseModel):
    data: bytes


NAMES = {
    **globals(),
    **{kind.__name__: kind for kind in (datetime, date, time, timedelta, Decimal, UUID, ZoneInfo)},
    **{kind.__name__: kind for kind in (Path, OrderedDict)},
    "UTC": UTC,
    "Literal": Literal,
    "SecretStr": pydantic.SecretStr,
}


def value_of(cell: str) -> Any:
    return eval(cell.strip("`"), NAMES)


def arrives(annotation: str, value: Any) -> Any:
    def task(value): ...

    if annotation:
        task.__annotations__["value"] = value_of(annotation)
    arguments = Arguments("task", task, Context)
    return arguments.decode(arguments.encode((value,), {}))["value"]


@pytest.mark.parametrize(("annotation", "cell", "outcome"), ANNOTATED + PLAIN)
def test_value_arrives_as_the_page_says(annotation: str, cell: str, outcome: str):
    value = value_of(cell)
    if outcome.startswith("refused: "):
        reason = re.escape(outcome.removeprefix("refused: "))
        with pytest.raises(ArgumentError, match=rf"task task: .*{reason}"):
            arrives(annotation, value)
        return
    expected = value if outcome.startswith("the same") else value_of(outcome)
    found = arrives(annotation, value)
    assert found == expected
    assert type(found) is type(expected)
    if outcome == "the same moment in UTC":
        assert found.tzinfo is UTC


def test_page_has_both_tables():
    assert len(ANNOTATED) > 30
    assert len(PLAIN) > 20
