"""Counts what clients say to a server: commands, round trips and bytes, by what passes a proxy.

Redis' own counters do not tell a command of a client from one inside a script, and a client that
counts itself is part of what is to be measured.
"""

from collections import Counter
from collections.abc import Iterable

import hiredis

from qcore.broker.redis.scripts import SCRIPTS
from tests.support.proxy import Proxy, Talk

_SCRIPTS = {
    word: script.name for script in SCRIPTS for word in (script.sha, script.source.encode())
}


class Heard(Talk):
    """What was said over one connection since it began, or since `forget`."""

    def __init__(self) -> None:
        super().__init__()
        self._asks, self._answers = hiredis.Reader(), hiredis.Reader()
        #: Commands without a reply so far.
        self._open = 0
        self.forget()

    def forget(self) -> None:
        #: By the word of the command, or the name of the script that it calls.
        self.commands: Counter[str] = Counter()
        #: How often something was asked while nothing else was on its way.
        self.round_trips = 0
        #: In both directions.
        self.bytes = 0

    def asked(self, data: bytes) -> None:
        self.bytes += len(data)
        for words in _messages(self._asks, data):
            self.round_trips += self._open == 0
            self._open += 1
            is_script = words[0] in (b"EVAL", b"EVALSHA")
            self.commands[_SCRIPTS[words[1]] if is_script else words[0].decode()] += 1

    def answered(self, data: bytes) -> None:
        self.bytes += len(data)
        self._open -= sum(1 for _ in _messages(self._answers, data))


def _messages(reader: hiredis.Reader, data: bytes) -> Iterable:
    reader.feed(data)
    while (message := reader.gets()) is not False:
        yield message


class Meter(Proxy):
    """A way to a server that hears what is said on it."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        #: Every connection that there ever was.
        self.talks: list[Heard] = []

    def _begin(self) -> Talk:
        self.talks.append(Heard())
        return self.talks[-1]

    def forget(self) -> None:
        """Count from now; connections and what is on its way remain known."""
        for talk in self.talks:
            talk.forget()

    @property
    def commands(self) -> Counter[str]:
        return sum((talk.commands for talk in self.talks), Counter[str]())

    @property
    def round_trips(self) -> int:
        return sum(talk.round_trips for talk in self.talks)

    @property
    def bytes(self) -> int:
        return sum(talk.bytes for talk in self.talks)
