"""Contains tests for the menu of `stream-rnn top`, over a real control socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.control.server import ControlServer


class Obedient:
    """Notes what it is told, and answers as a test wants."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.told: list[str] = []
        self.answer: dict[str, Any] = {"ok": True, "text": "step 17 is durable"}
        self.server = ControlServer(directory, self._ask, list)

    def _ask(self, verb: str, argument: str) -> Future[dict[str, Any]]:
        self.told.append(verb)
        answer: Future[dict[str, Any]] = Future()
        answer.set_result(self.answer)
        return answer


@pytest.fixture
def obedient(tmp_path: Path) -> Iterator[Obedient]:
    daemon = Obedient(tmp_path)
    daemon.server.open()
    yield daemon
    daemon.server.close()


@pytest.mark.parametrize(
    ("key", "verb"), [("s", "checkpoint"), ("p", "pause"), ("r", "resume")], ids=str
)
def test_an_order_is_given_after_a_yes(scripted, watching, obedient, key, verb):
    async def play(screen):
        await screen.until("c control")
        await screen.press("c")
        await screen.until(str(obedient.directory)[:40])  # a long one goes on in the next line
        await screen.press(key)
        await screen.until("y  yes")
        assert obedient.told == []
        await screen.press("y")
        await screen.until("● done")
        await screen.until("step 17 is durable")
        assert obedient.told == [verb]

    watching(scripted.place, play, state=obedient.directory)


@pytest.mark.parametrize("keys", [["n"], ["enter"], ["escape"], ["s"], ["q"]], ids=str)
def test_without_a_yes_nothing_is_told(scripted, watching, obedient, keys):
    async def play(screen):
        await screen.until("● ready")
        await screen.press("c", "s", *keys)

    watching(scripted.place, play, state=obedient.directory)
    assert obedient.told == []


def test_a_refusal_is_shown_and_nothing_in_it_is_obeyed(scripted, watching, obedient):
    obedient.answer = {"ok": False, "text": "no: \x1b[2J[bold]disk full[/]"}

    async def play(screen):
        await screen.until("● ready")
        await screen.press("c")
        await screen.until(str(obedient.directory)[:40])
        await screen.press("s")
        await screen.until("y  yes")
        await screen.press("y")
        await screen.until("✕ not done")
        await screen.until("no: ?[2J[bold]disk full[/]")

    watching(scripted.place, play, state=obedient.directory)


def test_a_daemon_that_is_not_there_is_said(scripted, watching, tmp_path):
    async def play(screen):
        await screen.until("● ready")
        await screen.press("c")
        await screen.until(str(tmp_path)[:40])
        await screen.press("p")
        await screen.until("y  yes")
        await screen.press("y")
        await screen.until("no daemon runs on")

    watching(scripted.place, play, state=tmp_path)


def test_without_a_state_folder_there_is_no_menu(scripted, watching):
    async def play(screen):
        text = await screen.until("h help")
        assert "c control" not in text
        await screen.press("c")
        assert "The daemon of" not in screen.text()

    watching(scripted.place, play)


@pytest.mark.parametrize("key", ["h", "c"])
def test_the_key_that_leaves_does_so_from_everywhere(scripted, watching, obedient, key):
    async def play(screen):
        await screen.until("● ready")
        await screen.press(key)
        await screen.press("q")
        while not screen.app._exit:
            await asyncio.sleep(0.02)

    watching(scripted.place, play, state=obedient.directory)
