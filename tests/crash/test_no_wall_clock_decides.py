"""Clocks of walls are set back, by people and by NTP: they may be shown, and decide nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READS = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime"}
OF = {"time", "datetime", "date"}
SHOWN_ONLY = {
    "stream_rnn/runtime/watch.py": "a gauge",
    "stream_rnn/runtime/loop.py": "a histogram of the delay of events",
    "stream_rnn/runtime/outputs.py": "when a dead letter was written",
    "stream_rnn/runtime/showing.py": "a stamp for the live page",
    "stream_rnn/runtime/control.py": "since when a pause lasts",
    "stream_rnn/top/screen.py": "what a screen shows",
    "stream_rnn/checkpoint/snapshot.py": "`created`, for people",
    "stream_rnn/checkpoint/owner.py": "the name of a folder moved aside, made unique",
    "stream_rnn/checkpoint/rollback.py": "the name of a folder moved aside, made unique",
    "stream_rnn/http/rendering.py": "the Date of an answer",
    "connectors/host.py": "a field of its records: what is measured",
}


def wall_clocks(text: str) -> Iterator[int]:
    """Lines that ask what time it is."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in READS and node.value.id in OF:
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (node.lineno for name in node.names if name.name in READS)


@pytest.mark.parametrize("text", ["time.time()", "from time import time", "datetime.now(UTC)"])
def test_a_wall_clock_is_recognized(text: str) -> None:
    assert list(wall_clocks(text)) == [1]


def test_only_what_is_shown_asks_a_wall_clock() -> None:
    files = [*(ROOT / "stream_rnn").rglob("*.py"), *(ROOT / "connectors").rglob("*.py")]
    asking = {
        path.relative_to(ROOT).as_posix() for path in files if any(wall_clocks(path.read_text()))
    }
    assert asking == set(SHOWN_ONLY), (
        "the wall clock may jump: use time.monotonic, or say here what is shown of it"
    )
