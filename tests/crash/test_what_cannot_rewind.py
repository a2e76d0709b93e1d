"""At most once, as the banner says: lost is what was not durable, nothing else, and counted."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.storm.place import Place, differences, first_of_each_id
from benchmarks.storm.stream import event
from stream_rnn.checkpoint.faults import JOURNAL_STAGES

pytestmark = pytest.mark.slow
Make = Callable[..., Place]
Until = Callable[[Callable[[], object], str], None]

N_EVENTS = 150
SELDOM = '[state]\ndir = "state"\nevery_events = 64\n'
LINES = [event(n) + b"\n" for n in range(1, N_EVENTS + 1)]


class Pipe:
    """Standard input that outlives the daemons that read it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR)

    def put(self, lines: list[bytes]) -> None:
        os.write(self._descriptor, b"".join(lines))

    def left(self) -> int:
        """Bytes that nobody has read."""
        (n,) = struct.unpack("i", fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4)))
        return int(n)

    def wait_until_read(self) -> None:
        until = time.monotonic() + 300
        while self.left():
            assert time.monotonic() < until, "nobody reads"
            time.sleep(0.005)

    def end(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path / "pipe")
    yield pipe
    pipe.end()


def learned_from(make: Make, tmp_path: Path, kind: str, lines: list[bytes]) -> Place:
    """An undisturbed run over these lines."""
    path = tmp_path / "survivors"
    path.write_bytes(b"".join(lines))
    place = make("calm", kind)
    assert place.daemon(stdin=path).wait() == 0, place.log()
    return place


@pytest.mark.parametrize("stage", JOURNAL_STAGES)
def test_behind_a_journal_only_what_was_not_written_down_is_lost(
    stage: str, make: Make, pipe: Pipe, tmp_path: Path
) -> None:
    more = "segment_bytes = 4096\n" if stage == "journal_rotate" else ""
    place = make("killed", "stdin+journal", more=more)
    first = place.daemon(f"{stage}:2", pipe.path)
    pipe.put(LINES[:100])
    assert first.wait() == -signal.SIGKILL, place.log()
    assert pipe.left() == 0
    second = place.daemon(stdin=pipe.path)
    pipe.put(LINES[100:])
    pipe.wait_until_read()
    pipe.end()
    assert second.wait() == 0, place.log()

    kept = [each.data + b"\n" for each in place.journaled()]

    n_safe = len(kept) - 50  # of the first hundred
    assert kept == LINES[:n_safe] + LINES[100:]
    assert 16 <= n_safe < 100
    assert "before the journal at most once" in place.log()
    calm = learned_from(make, tmp_path, "stdin+journal", kept)
    assert differences(place, calm) == []


def tensors(place: Place) -> dict[str, Any]:
    return {name: t.tolist() for name, t in place.newest().tensors.items()}


@pytest.mark.parametrize("fault", ["after_poll:6", "in_tick:77", "after_write:4", "after_ack:1"])
def test_without_one_what_was_read_and_is_in_no_snapshot_is_lost_and_nothing_else(
    fault: str, make: Make, pipe: Pipe, tmp_path: Path
) -> None:
    place = make("killed", "stdin")
    first = place.daemon(fault, pipe.path)
    pipe.put(LINES[:100])
    assert first.wait() == -signal.SIGKILL, place.log()
    saved = place.applied()
    second = place.daemon(stdin=pipe.path)
    pipe.put(LINES[100:])
    pipe.wait_until_read()
    pipe.end()
    assert second.wait() == 0, place.log()

    assert "at most once" in place.log()
    calm = learned_from(make, tmp_path, "stdin", LINES[:saved] + LINES[100:])
    assert tensors(place) == tensors(calm)


def test_the_id_of_a_lost_event_is_never_given_to_another_one(
    make: Make, pipe: Pipe, until: Until
) -> None:
    place = make("killed", "stdin", state=SELDOM)
    for fault, first, rest in (
        ("in_tick:100", LINES[:70], LINES[70:110]),
        ("in_tick:18", [], LINES[110:130]),
    ):
        daemon = place.daemon(fault, pipe.path)
        pipe.put(first)
        # the writer has all the time it needs: what comes after it is what is lost
        until(lambda: not first or place.applied() == 64, "a snapshot")  # noqa: B023
        pipe.put(rest)
        assert daemon.wait() == -signal.SIGKILL, place.log()
    assert place.applied() == 64
    told = len(place.lines())
    assert told > 64 + 16 - 2  # of both lives
    last = place.daemon(stdin=pipe.path)
    pipe.put(LINES[130:])
    pipe.wait_until_read()
    pipe.end()
    assert last.wait() == 0, place.log()

    lines = place.lines() + place.lines("letters.jsonl")
    kept, wrong = first_of_each_id(lines)

    assert wrong == []
    assert len(kept) == len(lines)
    assert len(place.lines()) == told + 19  # one of the last twenty cannot be used


def test_what_was_lost_is_counted(make: Make, pipe: Pipe) -> None:
    place = make("killed", "stdin", state=SELDOM)
    first = place.daemon("in_tick:90", pipe.path)
    pipe.put(LINES[:100])
    assert first.wait() == -signal.SIGKILL, place.log()
    saved = place.applied()
    second = place.daemon(stdin=pipe.path)
    pipe.put(LINES[100:])
    pipe.wait_until_read()
    pipe.end()
    assert second.wait() == 0, place.log()
    told = re.search(
        r"(\d+) events were learned after the newest snapshot and are lost", place.log()
    )
    assert told is not None
    assert int(told[1]) == 90 - saved  # the 50th event needs no tick
