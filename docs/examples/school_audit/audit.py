"""The audit itself: balances and the double-entry check. Pure; every amount is whole cents."""

import hashlib
from dataclasses import dataclass

from school_audit.books import Line, Student


@dataclass(frozen=True, slots=True)
class Balance:
    """What one account moved in the month; `closing` is debit less credit."""

    account: str
    debit: int
    credit: int

    @property
    def closing(self) -> int:
        """Return debit less credit."""
        return self.debit - self.credit


@dataclass(frozen=True, slots=True)
class Audit:
    """The month of one student, computed."""

    student: Student
    month: str
    lines: list[Line]
    #: Balance of the line's own account after the line, one for each line.
    running: list[int]
    balances: list[Balance]
    debit: int
    credit: int
    #: Journal entries whose debits and credits differ, with the difference.
    unbalanced: dict[str, int]
    #: SHA-256 of the lines as they were read: the document can be held against the books.
    digest: str

    @property
    def balanced(self) -> bool:
        """Tell whether the double-entry check holds: in total, and in each journal entry."""
        return self.debit == self.credit and not self.unbalanced


def audit(student: Student, month: str, lines: list[Line]) -> Audit:
    """Compute the balances of one student's month.

    Books that do not balance are a finding, printed in the document, not a failure.
    """
    moved: dict[str, list[int]] = {}
    entries: dict[str, int] = {}
    running: list[int] = []
    digest = hashlib.sha256()
    for line in lines:
        account = moved.setdefault(line.account, [0, 0])
        account[0] += line.debit
        account[1] += line.credit
        running.append(account[0] - account[1])
        entries[line.entry] = entries.get(line.entry, 0) + line.debit - line.credit
        digest.update(
            f"{line.number}|{line.dated}|{line.entry}|{line.account}|{line.description}"
            f"|{line.debit}|{line.credit}\n".encode()
        )
    balances = [Balance(account, *sums) for account, sums in sorted(moved.items())]
    return Audit(
        student=student,
        month=month,
        lines=lines,
        running=running,
        balances=balances,
        debit=sum(line.debit for line in lines),
        credit=sum(line.credit for line in lines),
        unbalanced={entry: value for entry, value in entries.items() if entry and value},
        digest=digest.hexdigest(),
    )


def money(cents: int) -> str:
    """Return an amount as it is printed: `1,234.50`, `-0.05`."""
    sign = "-" if cents < 0 else ""
    units, rest = divmod(abs(cents), 100)
    return f"{sign}{units:,}.{rest:02d}"
