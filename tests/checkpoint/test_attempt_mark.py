from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stream_rnn.checkpoint.attempt import AttemptMark


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "attempt"


def marked(path: Path, *ordinals: int) -> None:
    mark = AttemptMark(path)
    mark.open()
    for ordinal in ordinals:
        mark.mark(ordinal)
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

    mark.mark(8)

    assert mark.value == 7
    mark.close()


def test_repeating_events_never_lowers_the_mark(path: Path) -> None:
    marked(path, 150)

    marked(path, 101, 102)

    assert value_of(path) == 150


@pytest.mark.parametrize("length", [1, 8, 15, 17, 4096])
def test_a_file_of_another_length_reads_as_zero_with_a_warning(
    path: Path, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    marked(path, 2**63 + 12345)
    path.write_bytes((path.read_bytes() * 256)[:length])

    assert value_of(path) == 0

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text


@pytest.mark.parametrize("bit", [0, 13, 63, 64, 100, 127])
def test_a_flipped_bit_reads_as_zero_with_a_warning(
    path: Path, bit: int, caplog: pytest.LogCaptureFixture
) -> None:
    marked(path, 99)
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)

    assert value_of(path) == 0

    assert "torn" in caplog.text


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
        "for ordinal in range(1, 1001): mark.mark(ordinal)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[1]
    killed = subprocess.run(
        [sys.executable, "-c", script, path],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
        timeout=60,
    )

    assert killed.returncode == -signal.SIGKILL
    assert value_of(path) == 1000
