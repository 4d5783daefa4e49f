"""What a check of a server, a queue or an app found."""

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """What a finding means for an operator."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check."""

    level: Level
    #: What was looked at, in a word or two.
    check: str
    said: str
    #: One sentence; empty when all is well.
    remedy: str = ""
    #: Commands that mend it, to be run in this order.
    commands: tuple[str, ...] = ()


def ok(check: str, said: str) -> Finding:
    """Return what a check says when all is well."""
    return Finding(level=Level.OK, check=check, said=said)


def warning(check: str, said: str, remedy: str) -> Finding:
    """Return a finding that does no harm yet."""
    return Finding(level=Level.WARNING, check=check, said=said, remedy=remedy)


def fault(check: str, said: str, remedy: str, *commands: str) -> Finding:
    """Return a finding by which jobs are lost, late or stuck."""
    return Finding(level=Level.FAULT, check=check, said=said, remedy=remedy, commands=commands)
