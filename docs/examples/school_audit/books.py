"""The books of the school network: students and double-entry lines in one SQLite file.

Rows are kept as they came, amounts as text: whether a row can be audited is the business of the
job of its student, which says in one sentence what is wrong with which line.
"""

import re
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

#: The job of rows that name no student: it ends dead and says which rows those are.
NOBODY = 0

SCHEMA = """
CREATE TABLE students (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, school TEXT NOT NULL, form TEXT NOT NULL,
    problem TEXT NOT NULL DEFAULT ''
);
CREATE TABLE ledger (
    line INTEGER PRIMARY KEY, student_id INTEGER NOT NULL, dated TEXT NOT NULL, entry TEXT NOT NULL,
    account TEXT NOT NULL, description TEXT NOT NULL, debit TEXT NOT NULL, credit TEXT NOT NULL,
    problem TEXT NOT NULL DEFAULT ''
);
CREATE TABLE strays (source TEXT NOT NULL, line INTEGER NOT NULL, problem TEXT NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
INDEX = "CREATE INDEX ledger_by_student ON ledger (student_id, line)"

_AMOUNT = re.compile(r"(-?)([0-9]+)(?:\.([0-9]{1,2}))?")
#: What fits the column of a document.
_UNIT_DIGITS = 9
_MONTH = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])")


class BooksError(Exception):
    """The books as a whole cannot be used; the message says what to change."""


class Unauditable(Exception):
    """The audit of one student cannot be made; the message names the row and what is wrong."""


@dataclass(frozen=True, slots=True)
class Student:
    """One row of the list of students."""

    id: int
    name: str
    school: str
    form: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the ledger that has been read and understood; amounts are cents."""

    number: int
    dated: date
    entry: str
    account: str
    description: str
    debit: int
    credit: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What the books as a whole are: the audited month, and where the rows came from."""

    month: str
    source: str
    students: int
    lines: int


def cents(text: str) -> int:
    """Return an amount such as `1234.5` in cents; nothing at all is zero.

    Raises:
        ValueError: the text is not a number with at most two decimals, or one that no school has.
    """
    if not text:
        return 0
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"amount {text!r} is not a number")
    sign, units, decimals = match.groups()
    if len(units) > _UNIT_DIGITS:
        raise ValueError(f"amount {text[:40]!r} has more than {_UNIT_DIGITS} digits")
    value = int(units) * 100 + int((decimals or "0").ljust(2, "0"))
    return -value if sign else value


def check_month(month: str) -> str:
    """Return the month if it reads like `2026-10`, else raise Unauditable."""
    if not _MONTH.fullmatch(month):
        raise Unauditable(f"month {month!r} is not a month such as 2026-10")
    return month


def create(path: Path, source: str, fill: Callable[[sqlite3.Connection], str | None]) -> Facts:
    """Write new books; they appear at `path` whole or not at all.

    Args:
        path: the SQLite file; one that exists is replaced.
        source: where the rows come from, kept to recognise the books later.
        fill: puts the rows in and returns the audited month; None: the month of most lines.
    """
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with closing(sqlite3.connect(draft)) as connection:
        # Nothing is lost by a crash here: without the rename below, the draft is made anew.
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + SCHEMA)
        month = fill(connection) or _usual_month(connection)
        connection.execute(INDEX)
        counts = [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("students", "ledger")
        ]
        facts = Facts(month, source, *counts)
        rows = [(name, str(getattr(facts, name))) for name in Facts.__slots__]
        connection.executemany("INSERT INTO facts VALUES (?, ?)", rows)
        connection.commit()
    draft.replace(path)
    return facts


def _usual_month(connection: sqlite3.Connection) -> str:
    """Return the month that most lines are dated in, the later one of equals."""
    months = connection.execute(
        "SELECT substr(dated, 1, 7) AS month FROM ledger WHERE dated GLOB ?"
        " GROUP BY month ORDER BY count(*) DESC, month DESC",
        ("[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]",),
    )
    for (month,) in months:
        if _MONTH.fullmatch(month):
            return month
    raise BooksError("no ledger line has a date such as 2026-10-31: which month is audited?")


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection]:
    """Open the books to read, and close them again.

    Opened for each job: it costs a tenth of a millisecond, and a process that lives on never
    reads books that have been replaced.

    Raises:
        BooksError: there are none.
    """
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        with closing(connection):
            yield connection
    except sqlite3.OperationalError as error:
        raise BooksError(f"cannot read the books in {path}: {error}") from error


def read_facts(path: Path) -> Facts | None:
    """Return what the books at `path` are, or None when there are none."""
    if not path.exists():
        return None
    with reading(path) as connection:
        found = dict(connection.execute("SELECT name, value FROM facts"))
    return Facts(found["month"], found["source"], int(found["students"]), int(found["lines"]))


def subjects(connection: sqlite3.Connection) -> Iterator[int]:
    """Yield every id that needs a job, in order: no row of the input is without one.

    That is each student, each unknown student whom a ledger line names, and NOBODY when there
    are rows whose student id cannot be read.
    """
    if connection.execute("SELECT 1 FROM strays LIMIT 1").fetchone():
        yield NOBODY
    ids = connection.execute(
        "SELECT id FROM students UNION SELECT student_id FROM ledger ORDER BY 1"
    )
    for (student_id,) in ids:
        yield student_id


def read_student(connection: sqlite3.Connection, student_id: int) -> tuple[Student, list[Line]]:
    """Return a student and the lines of the student's ledger, by date.

    Raises:
        Unauditable: the student is unknown, or one of the rows cannot be understood.
    """
    if student_id == NOBODY:
        raise Unauditable(_stray_rows(connection))
    where = f"student {student_id}"
    found = connection.execute(
        "SELECT name, school, form, problem FROM students WHERE id = ?", (student_id,)
    ).fetchone()
    rows = connection.execute(
        "SELECT line, dated, entry, account, description, debit, credit, problem"
        " FROM ledger WHERE student_id = ? ORDER BY line",
        (student_id,),
    ).fetchall()
    if found is None:
        named = f"ledger line {rows[0][0]} names a student who is" if rows else "is"
        raise Unauditable(f"{where}: {named} not in the list of students")
    name, school, form, problem = found
    if problem:
        raise Unauditable(f"{where}: {problem}")
    try:
        lines = [_line(row) for row in rows]
    except ValueError as error:
        raise Unauditable(f"{where}: {error}") from error
    lines.sort(key=lambda line: (line.dated, line.number))
    return Student(student_id, name, school, form), lines


def _line(row: tuple[int, str, str, str, str, str, str, str]) -> Line:
    number, dated, entry, account, description, debit, credit, problem = row
    try:
        if problem:
            raise ValueError(problem)
        line = Line(number, _day(dated), entry, account, description, cents(debit), cents(credit))
        if line.debit and line.credit:
            raise ValueError(f"has a debit ({debit}) and a credit ({credit})")
        if not account:
            raise ValueError("names no account")
    except ValueError as error:
        raise ValueError(f"ledger line {number}: {error}") from None
    return line


def _day(text: str) -> date:
    try:
        if len(text) == len("2026-10-31"):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f"date {text!r} is not a day such as 2026-10-31")


def _stray_rows(connection: sqlite3.Connection, most: int = 5) -> str:
    """Say which rows name no student: the first few in full, and how many there are."""
    (count,) = connection.execute("SELECT count(*) FROM strays").fetchone()
    rows = connection.execute(
        "SELECT source, line, problem FROM strays ORDER BY source, line LIMIT ?", (most,)
    ).fetchall()
    if not rows:
        return f"student {NOBODY}: is not in the list of students"
    told = "; ".join(f"{source} line {line}: {problem}" for source, line, problem in rows)
    more = f"; and {count - len(rows)} more" if count > len(rows) else ""
    return f"{count} rows name no student: {told}{more}"
