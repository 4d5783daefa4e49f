"""`qcore top` on a terminal of 80 columns and 24 lines, with keys."""

import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.support.commands import Command as Qcore
from tests.support.commands import one_line
from tests.support.fleet import Fleet
from tests.support.servers import Server, free_port
from tests.support.terminal import Terminal
from tests.support.waiting import eventually


@pytest.fixture
def fleet_url(own_server: Server) -> str:
    return own_server.url


@pytest.fixture
def terminal(fleet: Fleet) -> Iterator[Terminal]:
    words = ["qcore_cli", "top", "--url", fleet.url, "--namespace", fleet.namespace]
    terminal = Terminal(words, fleet.env)
    yield terminal
    terminal.close()


async def shows(terminal: Terminal, *texts: str) -> None:
    await eventually(lambda: all(text in terminal.text() for text in texts), 20)


async def ended(terminal: Terminal) -> int:
    await eventually(lambda: terminal.process.poll() is not None)
    code = terminal.process.poll()
    assert code is not None
    return code


async def test_top_shows_queues_workers_and_jobs_and_obeys_keys(fleet: Fleet, terminal: Terminal):
    command = fleet.start(processes=2, concurrency=1, name="shop")
    first, second = await command.ready(2)
    async with fleet.producer() as producer:
        for _ in range(5):
            await producer.send("work", 60.0)
        await producer.send(producer.task("work").options(delay=1000))
        await shows(terminal, "shop.1", "shop.2", "fleet_tasks.work", "2 workers")
        await eventually(
            lambda: any(
                line.split()[:5] == ["default", "3", "1", "2", "0"] for line in terminal.frame()
            )
        )
        lines = terminal.frame()
        assert len(lines) == 24
        assert max(map(len, lines)) <= 80
        for pid in (command.pid, first, second):
            assert any(f" {pid} " in line and "running" in line for line in lines)

        terminal.press("jj")
        await eventually(lambda: terminal.chosen().startswith("shop.1"), 5)
        assert terminal.text().count("fleet_tasks.work") == 1
        terminal.press("\x1b[B")
        await eventually(lambda: terminal.chosen().startswith("shop.2"), 5)
        terminal.press("k")
        await eventually(lambda: terminal.chosen().startswith("shop.1"), 5)
        terminal.press("\tj")
        await eventually(lambda: terminal.chosen().startswith("default"), 5)

        terminal.press("p")
        await shows(terminal, "paused")
        await producer.send("work", 60.0)
        terminal.press("p")
        await eventually(
            lambda: any(line.split()[:2] == ["default", "4"] for line in terminal.frame())
        )
        assert "paused" not in terminal.text()

    terminal.press("q")
    assert await ended(terminal) == 0
    assert terminal.is_left_as_found
    assert "\x1b[?1049l" in terminal.said
    command.signal()
    command.signal()


async def test_redis_that_is_away_is_said_and_the_last_state_stays(
    fleet: Fleet, own_server: Server, terminal: Terminal
):
    command = fleet.start(processes=1, name="shop")
    await command.ready(1)
    await shows(terminal, "shop.1")
    own_server.kill()
    await shows(terminal, "no answer for", "shop.1")
    terminal.press("j")
    await eventually(terminal.chosen, 5)
    own_server.start()
    await eventually(lambda: "no answer for" not in terminal.text(), 20)
    await shows(terminal, "shop.1")


async def test_redis_that_hangs_does_not_hold_the_keys(
    fleet: Fleet, own_server: Server, terminal: Terminal
):
    await shows(terminal, "q quit")
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        await shows(terminal, "no answer for")
        terminal.press("p")
        await shows(terminal, "paused")
        terminal.press("q")
        assert await ended(terminal) == 0
    finally:
        os.kill(own_server.pid, signal.SIGCONT)


@pytest.mark.parametrize("keys", ["\x03", "\x04"])
async def test_control_keys_quit_and_leave_the_terminal_as_it_was(terminal: Terminal, keys: str):
    await shows(terminal, "q quit")
    assert not terminal.is_left_as_found
    terminal.press(keys)
    assert await ended(terminal) == 0
    assert terminal.is_left_as_found


async def test_terminate_leaves_the_terminal_as_it_was(terminal: Terminal):
    await shows(terminal, "q quit")
    terminal.process.terminate()
    await ended(terminal)
    assert terminal.is_left_as_found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what is stopped")
async def test_control_z_leaves_the_terminal_to_the_shell_until_it_is_resumed(terminal: Terminal):
    await shows(terminal, "q quit")
    await stopped_and_resumed(terminal, lambda: terminal.press("\x1a"))
    await stopped_and_resumed(terminal, lambda: terminal.signal(signal.SIGTSTP))
    terminal.press("q")
    assert await ended(terminal) == 0
    assert terminal.is_left_as_found


async def stopped_and_resumed(terminal: Terminal, stop: Callable[[], None]) -> None:
    stop()
    await eventually(lambda: terminal.is_stopped, 5)
    assert terminal.is_left_as_found
    before = terminal.said
    assert "\x1b[?1049l" in before[-40:]
    terminal.signal(signal.SIGCONT)
    await eventually(lambda: "q quit" in terminal.said[len(before) :], 5)
    assert not terminal.is_left_as_found


async def test_queue_that_is_held_up_is_shown(fleet: Fleet, terminal: Terminal, qcore: Qcore):
    async with fleet.producer() as producer:
        await producer.send("work", 60.0)
        await shows(terminal, "default")
        await producer.app.inspector.pause("default")
        await shows(terminal, "1 queue held up")
        assert any(line.endswith("  paused") for line in terminal.frame())
        await producer.app.inspector.resume("default")
        await eventually(lambda: "paused" not in terminal.text())


async def test_window_of_another_size_is_filled(fleet: Fleet, terminal: Terminal):
    await shows(terminal, "q quit")
    terminal.resize(100, 40)
    await eventually(lambda: len(terminal.frame()) == 40, 5)
    assert len(terminal.frame()[0]) > 80


async def test_without_a_terminal_one_frame_is_printed(fleet: Fleet, qcore: Qcore):
    command = fleet.start(processes=1, name="shop")
    await command.ready(1)

    async def seen() -> str:
        said = await qcore("top", "--url", fleet.url, "--namespace", fleet.namespace)
        assert said.code == 0, said.err
        return said.out if "shop.1" in said.out else ""

    out = await eventually(seen, 20)
    assert "\x1b" not in out
    assert "quit" not in out


async def test_without_a_terminal_a_redis_that_is_away_is_an_error(qcore: Qcore):
    said = await qcore("top", "--url", f"redis://127.0.0.1:{free_port()}/0")
    assert said.code == 1
    assert "Redis at " in one_line(said)
