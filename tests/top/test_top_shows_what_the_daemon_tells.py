"""Contains tests for the screen of `stream-rnn top` over pages with scripted numbers."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from pathlib import Path

import pytest

from stream_rnn.top.place import parse

SHOWN = {
    "task": "forecast load 3 events ahead",
    "source": "lines of power.jsonl",
    "state": "● ready",
    "loss": "━ 2.5",
    "the best baseline": "persistence 5",
    "how much better": "50% below",
    "pace": "Events per second  321",
    "lag": "Lag  1,234 events · 7 s",
    "rule": "rtrl · level 0, as configured",
    "model": "lstm(units=32), 4.39k parameters",
    "execution path": "cpu · native: rtrl of lstm",
    "guarantee": "promise  replayable",
    "snapshot": "4 s ago · 1.5 MB in 250 ms",
    "failed snapshots": "▲ 2",
    "applied": "applied 56,789",
    "rejected by stage": "rejected 12 (decode 12)",
    "dropped": "dropped 3",
    "no letters": "none",
}


@pytest.mark.parametrize("size", [(120, 40), (200, 60)], ids=str)
def test_every_number_is_on_the_screen(scripted, watching, size):
    async def play(screen):
        text = await screen.until("● ready")
        assert {name: words for name, words in SHOWN.items() if words not in text} == {}

    watching(scripted.place, play, size)


@pytest.mark.parametrize("size", [(80, 24), (60, 20)], ids=str)
def test_a_small_screen_keeps_what_matters_most(scripted, watching, size):
    async def play(screen):
        text = await screen.until("● ready")
        for name in ("loss", "how much better", "rule", "guarantee", "applied", "failed snapshots"):
            assert SHOWN[name] in text, name
        lines = (await screen.until("quit")).splitlines()
        assert lines[-1].split()[:2] == ["q", "quit"]
        assert {len(line) for line in lines} == {size[0]}

    watching(scripted.place, play, size)


def test_a_tiny_terminal_does_no_harm(scripted, watching):
    async def play(screen):
        for size in [(40, 10), (20, 5), (5, 2), (1, 1)]:
            await screen.pilot.resize_terminal(*size)
            await asyncio.sleep(0.1)
        await screen.pilot.resize_terminal(80, 24)
        await screen.until("● ready")

    watching(scripted.place, play, every_s=1.0)


def test_a_new_number_is_shown_without_a_key(scripted, watching):
    async def play(screen):
        await screen.until("applied 56,789")
        scripted.metrics.events_applied = 60_000
        await screen.until("applied 60,000")

    watching(scripted.place, play)


def test_the_least_baseline_is_the_one_to_beat(scripted, watching):
    async def play(screen):
        await screen.until("persistence 5")
        scripted.metrics.baseline_loss = {"persistence": 5.0, "mean": 2.0}
        await screen.until("mean 2  25% above")

    watching(scripted.place, play)


def test_a_loss_that_is_not_finite_is_said(scripted, watching):
    async def play(screen):
        await screen.until("━ 2.5")
        scripted.metrics.prequential_loss = float("inf")
        await screen.until("━ inf")

    watching(scripted.place, play)


def test_unknown_is_a_dash_and_no_zero(scripted, watching):
    async def play(screen):
        scripted.metrics.prequential_loss = None
        scripted.metrics.lag_events = scripted.metrics.lag_seconds = None
        text = await screen.until("the source does not say")
        assert "━ -" in text

    watching(scripted.place, play)


def test_what_is_not_known_of_an_older_daemon_is_left_out(scripted, watching):
    scripted.status = {"ready": []}

    async def play(screen):
        text = await screen.until("● ready")
        assert "applied 56,789" in text
        assert "rule     - · level 0" in text

    watching(scripted.place, play)


def test_reasons_against_readiness_come_before_all_else(scripted, watching):
    async def play(screen):
        scripted.status |= {"ready": ["the source is not connected", "no snapshot for 400 s"]}
        await screen.until("▲ not ready")
        lines = (await screen.until("▲ no snapshot")).splitlines()
        assert lines[2].startswith("▲ the source is not connected")
        assert lines[3].startswith("▲ no snapshot for 400 s")

    watching(scripted.place, play)


def test_a_rung_of_the_ladder_is_shown_with_its_reason(scripted, watching):
    async def play(screen):
        scripted.status |= {"rule": "tbptt", "fallback_level": 1, "fallback_reason": "unsound"}
        await screen.until("tbptt · level 1: unsound credit")

    watching(scripted.place, play)


def test_percentiles_are_of_the_ticks_since_the_screen_began(scripted, watching):
    for _ in range(1000):
        scripted.metrics.tick_seconds.observe(0.5)  # long ago

    async def play(screen):
        await screen.until("● ready")
        await asyncio.sleep(3 * 0.05)
        for _ in range(100):
            scripted.metrics.tick_seconds.observe(0.002)  # between 1 and 2.5 ms
        await screen.until("p50 1.75 ms")

    watching(scripted.place, play)


def test_the_newest_letter_is_the_first(scripted, watching):
    scripted.status["letters"] = [
        {"id": "a:1", "stage": "decode", "issue": "x", "reason": "an old one"},
        {"id": "a:2", "stage": "learn", "issue": "x", "reason": "a new one"},
    ]

    async def play(screen):
        await screen.until("a new one")
        lines = screen.lines()
        first = next(n for n, line in enumerate(lines) if "Dead letters" in line)
        assert re.search(r"learn +a new one +a:2", lines[first + 1])
        assert re.search(r"decode +an old one +a:1", lines[first + 2])

    watching(scripted.place, play)


def test_letters_come_from_the_file_where_the_daemon_tells_none(scripted, watching, tmp_path):
    path = tmp_path / "dead_letters.jsonl"
    letters = [{"id": f"a:{n}", "stage": "decode", "reason": f"reason {n}"} for n in range(2000)]
    path.write_text("".join(json.dumps(letter) + "\n" for letter in letters) + '{"half')

    async def play(screen):
        await screen.until("reason 1999")

    watching(scripted.place, play, letters=path)


def test_a_file_of_letters_that_cannot_be_read_is_said(scripted, watching, tmp_path):
    path: Path = tmp_path / ("x" * 300)

    async def play(screen):
        await screen.until("File name too long")

    watching(scripted.place, play, letters=path)


def test_a_paused_display_stands_still_until_it_goes_on(scripted, watching):
    async def play(screen):
        await screen.until("applied 56,789")
        await screen.press("p")
        await screen.until("‖ display paused")
        scripted.metrics.events_applied = 60_000
        n = len(scripted.asked)
        while len(scripted.asked) < n + 8:  # it is asked on
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert "applied 56,789" in screen.text()
        await screen.press("p")
        await screen.until("applied 60,000")

    watching(scripted.place, play)


def test_reset_scales_forgets_a_spike(scripted, watching):
    scripted.status["events_per_s"] = 9_000.0

    async def play(screen):
        await screen.until(" 10k ")
        scripted.status["events_per_s"] = 90.0
        text = await screen.until("second  90")
        assert " 10k " in text  # still in sight
        await asyncio.sleep(0.2)
        await screen.press("r")
        await screen.until(" 100 ")

    watching(scripted.place, play)


def test_help_opens_and_closes(scripted, watching):
    async def play(screen):
        await screen.until("● ready")
        await screen.press("h")
        await screen.until("the daemon does not notice")
        await screen.press("h")
        await screen.until("the daemon does not notice", is_there=False)

    watching(scripted.place, play)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_a_key_leaves_and_nothing_is_asked_any_more(scripted, watching, key, until):
    async def play(screen):
        await screen.until("● ready")
        await screen.press(key)

    watching(scripted.place, play)
    until(lambda: "top" not in {thread.name for thread in threading.enumerate()})
    n = len(scripted.asked)  # the question under way has been answered
    time.sleep(0.25)  # for five more
    assert len(scripted.asked) == n


def test_a_daemon_that_comes_back_is_found_again(scripted, watching):
    ahead_s = 0.0

    async def play(screen):
        nonlocal ahead_s
        await screen.until("applied 56,789")
        scripted.server.close()
        ahead_s = 70.0
        await screen.until("✕ nobody listens there")
        text = await screen.until("✕ no answer for 1 min")
        assert "applied 56,789" in text  # what was known, in muted ink
        again = type(scripted)(scripted.server.port)
        with again.server:
            ahead_s = 0.0
            await screen.until("● ready")

    watching(scripted.place, play, clock=lambda: time.monotonic() + ahead_s)


def test_before_any_answer_nothing_is_made_up(watching):
    async def play(screen):
        text = await screen.until("nobody listens there")
        assert re.search(r"✕ no answer for \d+ s", text)
        rows = text.splitlines()[3:-1]  # below the head and the reason, above the keys
        words = {word for line in rows for word in line.split() if word.isalpha()}
        titles = "Loss Events per second Lag Tick Learning Keeping Events Dead letters"
        assert words == set(titles.split())

    watching(parse("127.0.0.1:1"), play)
