"""What can be a key, and what the declarations of keys and full queues refuse."""

import functools
from datetime import date, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from qcore import App, ArgumentError, ConfigError, Context, Queue, Unique
from qcore.model.admission import KEY_LIMIT, parts_of_key
from qcore.uniqueness import value_text

ID = UUID("01a231b2-9289-7ed2-88e5-ff3a5f758277")


class Plan(Enum):
    FREE = "free"


class Odd(int):
    def __str__(self) -> str:
        raise RuntimeError("no")


def key_of(task: Any, *args: Any, **named: Any) -> str:
    """Return the key of one call, as operators see it."""
    key = task._maker.job(args, named).terms.key
    return parts_of_key(key.name).value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "=a b"),
        (5, "=5"),
        (1.5, "=1.5"),
        (True, "=True"),
        (Plan.FREE, "=free"),
        (date(2026, 1, 2), "=2026-01-02"),
        (("a", 5), '=["a", "5"]'),
        (("ä",), '=["ä"]'),
    ],
)
def test_key_is_its_text(value, text):
    assert value_text("k", value) == text


@pytest.mark.parametrize("value", ["x" * 25, "two\nlines", "nul\0", "\ud800", "\x1b[2J", ID])
def test_key_that_is_long_or_cannot_be_printed_is_a_digest(value):
    text = value_text("k", value)
    assert text[0] == "#"
    assert len(text) == 33
    assert text != value_text("k", f"{value!a}x")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "k is of type NoneType, give text, a number, a UUID, a date, or a tuple of these"),
        ([], "k is of type list"),
        (b"x", "k is of type bytes"),
        (("a", None), "k is of type NoneType"),
        ("", "k is empty"),
        ("x" * (KEY_LIMIT + 1), "k has 513 bytes, allowed are 512: give a shorter one"),
        ("ä" * 257, "k has 514 bytes"),
        (10**5000, "k of type int cannot be made text"),
        (Odd(3), "k of type Odd cannot be made text: no"),
    ],
    ids=range(9),
)
def test_value_that_is_no_key_is_refused_in_one_sentence(value, said):
    with pytest.raises(ArgumentError) as e:
        value_text("k", value)
    assert str(e.value).startswith(said)


def test_key_names_parameters_or_is_a_function_of_them():
    app = App()

    def make(name: str, key: Any) -> Any:
        @app.task(name=name, unique=Unique(key))
        async def export(ctx: Context, user: str, day: date = date(2026, 1, 2), n: float = 1): ...

        return export

    assert key_of(make("a", "user"), "ann") == "ann"
    assert key_of(make("b", ("user", "n")), "ann") == '["ann", "1.0"]'
    # a default is what the worker will see, as it is when it is given
    assert key_of(make("c", "n"), "ann") == key_of(make("d", "n"), "ann", n=1) == "1.0"
    assert key_of(make("e", lambda user: user.upper()), user="ann") == "ANN"
    assert key_of(make("f", lambda **all: len(all)), "ann") == "3"
    assert key_of(make("g", functools.partial(lambda user, sep: f"{user}{sep}", sep="!")), "ann")
    failing = make("h", lambda user: user[99])
    with pytest.raises(ArgumentError, match="function of its unique key raised IndexError"):
        failing._maker.job(("ann",), {})


async def _async(user: str) -> str:
    return user


class _AsyncCall:
    async def __call__(self, user: str) -> str:
        return user


@pytest.mark.parametrize("key", ["nobody", ("user", "ctx"), lambda z: z, lambda z, **all: z])
def test_key_that_names_no_parameter_is_refused_when_the_task_is_registered(key):
    with pytest.raises(ConfigError, match="which is none of its parameters: user"):

        @App().task(unique=Unique(key))
        async def export(ctx: Context, user: str): ...


#: What no type checker would let pass.
unique: Any = Unique
queue: Any = Queue
ODD: dict[str, Any] = {"unique": "user"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: unique(()), r"key is \(\)"),
        (lambda: unique(5), "key is 5"),
        (lambda: unique(_async), "key is an async function"),
        (lambda: unique(_AsyncCall()), "key is an async function"),
        (lambda: unique("a", until=timedelta(0)), "until is 0 s, allowed is 0.001 s to 366 days"),
        (lambda: unique("a", until="never"), "until is 'never'"),
        (lambda: unique("a", on_conflict="no"), "on_conflict is 'no'"),
        (lambda: queue("a", max_jobs=0), "max_jobs is 0, allowed is 1 to 100000000"),
        (lambda: queue("a", max_jobs=True), "max_jobs is True, give a whole number"),
        (lambda: queue("a", max_jobs=1, when_full="no"), "when_full is 'no'"),
        (lambda: queue("a", when_full="wait"), "when_full needs max_jobs="),
        (lambda: App().task(**ODD)(_async), "unique is 'user', give Unique"),
    ],
)
def test_declaration_that_is_none_is_refused_in_one_sentence(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": ""}, "id '' is none: use 1 to 128 of letters"),
        ({"id": "a/b"}, "id 'a/b' is none"),
        ({"id": "x" * 129}, "is none"),
        ({"id": 5}, "id is 5, give text"),
        ({"idempotency_key": []}, "idempotency_key is of type list"),
        ({"idempotency_key": "a", "idempotency_ttl": 0}, "idempotency_ttl is 0 s"),
    ],
)
def test_options_that_are_none_are_refused_in_one_sentence(options, said):
    @App().task(name="charge")
    async def charge(amount: int): ...

    with pytest.raises(ArgumentError, match=said):
        charge.options(**options)


def test_outcome_of_an_idempotent_request_is_kept_for_its_ttl_at_least():
    @App().task(name="charge", keep=60)
    async def charge(amount: int): ...

    def kept_ms(**options: Any) -> int:
        return charge.options(idempotency_key="a", **options)._options.keep_ms

    assert kept_ms(idempotency_ttl="3d") == 3 * 86_400_000
    assert kept_ms(idempotency_ttl=5) == 60_000
    assert kept_ms(idempotency_ttl=5, keep="1h") == 3_600_000
    assert kept_ms(idempotency_ttl=5, keep=0) == 5_000
