from __future__ import annotations

import contextlib
import logging
import os
import signal
import struct
import subprocess
import sys
import timeit
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.checkpoint.attempt import Attempt, AttemptMark
from stream_rnn.checkpoint.quarantine import Quarantine
from stream_rnn.runtime.attempts import Attempts
from stream_rnn.spi import Event


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "attempt"


def marked(path: Path, *ordinals: int) -> None:
    mark = AttemptMark(path)
    mark.open()
    for ordinal in ordinals:
        mark.reach(ordinal)
    mark.close()


def value_of(path: Path) -> int:
    mark = AttemptMark(path)
    mark.open()
    mark.close()
    return mark.value


def test_a_missing_file_reads_as_zero(path: Path) -> None:
    assert value_of(path) == 0


@pytest.mark.parametrize("ordinal", [1, 2**32, 2**64 - 1])
def test_the_last_mark_is_read_at_the_next_open(path: Path, ordinal: int) -> None:
    marked(path, 1, ordinal)

    assert value_of(path) == ordinal


def test_value_stays_what_was_found_while_marks_go_on(path: Path) -> None:
    marked(path, 7)
    mark = AttemptMark(path)
    mark.open()

    mark.reach(8)

    assert mark.value == 7
    mark.close()


def test_repeating_events_never_lowers_the_mark(path: Path) -> None:
    marked(path, 150)

    marked(path, 101, 102)

    assert value_of(path) == 150


@pytest.mark.parametrize("length", [1, 8, 15, 17, 95, 97, 4096])
def test_a_file_of_another_length_reads_as_zero_with_a_warning(
    path: Path, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    marked(path, 2**63 + 12345)
    path.write_bytes((path.read_bytes() * 64)[:length])

    assert value_of(path) == 0

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text


def test_a_flipped_bit_never_changes_what_was_possibly_emitted_or_attempted(path: Path) -> None:
    mark = AttemptMark(path)
    mark.open()
    mark.reach(99)
    mark.begin(100, 8, 2**63 + 17)
    mark.close()
    content = path.read_bytes()
    for bit in range(10 * 64):
        if 64 <= bit < 128:  # the number of the process: a wrong one counts a death less
            continue
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = AttemptMark(path)
        found.open()
        found.close()
        assert found.value in (99, 0)
        assert found.died_in in (None, Attempt(100, 8, 2**63 + 17)), bit


def test_the_mark_of_an_older_version_is_understood(path: Path) -> None:
    path.write_bytes(struct.pack("<QQ", 150, 150 ^ 0x5EED_A77E_3A12_97C5))

    assert value_of(path) == 150


# Attempts -------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for kill -9 between two stores."""


class Stores:
    """Words that are stored until the process is killed before the store number `n`."""

    def __init__(self, words: Any, n: int) -> None:
        self.words, self.n = words, n

    def __setitem__(self, place: int, value: int) -> None:
        if self.n == 0:
            raise Killed
        self.n -= 1
        self.words[place] = value

    def release(self) -> None:
        self.words.release()


def killed_before(path: Path, n: int) -> AttemptMark:
    """The mark after a run over events 11 and 12 that ended before its store number `n`."""
    path.unlink(missing_ok=True)
    mark = AttemptMark(path)
    mark.open()
    mark.forget()
    words = mark._words
    mark._words = Stores(words, n)  # type: ignore[assignment]
    with contextlib.suppress(Killed):
        for ordinal in (11, 12):
            mark.begin(ordinal, 1, ordinal * 7)
            mark.reach(ordinal)
            mark.done(ordinal)
    mark.close()
    found = AttemptMark(path)
    found.open()
    found.close()
    return found


def test_killed_between_any_two_stores_the_mark_tells_the_truth(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []
    for n in range(25):
        found = killed_before(path, n)
        assert found.died_in in (None, Attempt(11, 1, 77), Attempt(12, 1, 84))
        seen.append((found.died_in.first if found.died_in else None, found.value, found.reached))
    assert list(dict.fromkeys(seen)) == [
        (None, 0, 0),
        (11, 0, 0),
        (11, 11, 0),
        (None, 11, 11),
        (12, 11, 11),
        (12, 12, 11),
        (None, 12, 12),
    ]
    assert "torn" not in caplog.text


def test_what_was_attempted_stays_until_it_is_forgotten(path: Path) -> None:
    mark = AttemptMark(path)
    mark.open()
    mark.forget()
    mark.begin(5, 3, 9)
    mark.close()
    for _ in range(2):
        found = AttemptMark(path)
        found.open()
        assert (found.run, found.died_in) == (1, Attempt(5, 3, 9))
        found.close()
    found.open()
    found.forget()
    found.close()
    again = AttemptMark(path)
    again.open()
    assert (again.run, again.died_in) == (2, None)
    again.close()


def test_marking_an_event_costs_less_than_a_microsecond(path: Path) -> None:
    mark = AttemptMark(path)
    mark.open()
    attempts = Attempts(mark, Quarantine(path.parent), counts=True, keep=3)
    attempts.open(1)
    event = Event("events.jsonl:0123456789ab", 123_456_789, b"x" * 100)

    def run() -> None:
        for ordinal in range(1, 1001):
            attempts.poison(ordinal, event)
            attempts.decoding(ordinal, event)
            attempts.is_alone(ordinal)
            attempts.learning(ordinal, 1, event)
            attempts.done(ordinal)

    best_us = min(timeit.repeat(run, number=1, repeat=20)) * 1e3
    mark.close()
    assert best_us < 5.0  # measured: see docs/adr/020; the bound leaves room for busy machines


def test_a_file_of_zeros_is_not_a_mark(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(bytes(16))

    assert value_of(path) == 0

    assert "torn" in caplog.text


def test_a_torn_mark_is_usable_again_after_open(path: Path) -> None:
    path.write_bytes(b"torn")

    marked(path, 5)

    assert value_of(path) == 5


def test_a_link_out_of_the_folder_is_not_followed(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "precious"
    elsewhere.write_text("untouched")
    path.symlink_to(elsewhere)

    with pytest.raises(OSError, match="attempt"):
        AttemptMark(path).open()

    assert elsewhere.read_text() == "untouched"


def test_the_mark_survives_kill_9(path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from stream_rnn.checkpoint.attempt import AttemptMark\n"
        "mark = AttemptMark(Path(sys.argv[1])); mark.open()\n"
        "for ordinal in range(1, 1001): mark.reach(ordinal)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[1]
    killed = subprocess.run(
        [sys.executable, "-c", script, path],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
        timeout=300,
    )

    assert killed.returncode == -signal.SIGKILL
    assert value_of(path) == 1000
