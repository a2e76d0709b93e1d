"""What one process writes another reads whole or not at all, and nothing of it outlives both."""

from __future__ import annotations

import mmap
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from stream_rnn.readers import region
from stream_rnn.readers.region import LIVE, Reader, Torn, Writer, to_read


@pytest.fixture
def writer() -> Iterator[Writer]:
    with closing(Writer("test")) as made:
        yield made


@pytest.fixture
def reader(writer: Writer) -> Iterator[Reader]:
    descriptor = to_read(writer.descriptor)
    with closing(Reader(descriptor)) as made:
        yield made
    os.close(descriptor)


def test_the_newest_message_is_read_with_its_number(writer: Writer, reader: Reader) -> None:
    for i in range(5):
        writer.write([b"message ", b"%d" % i])
        assert reader.newest == i + 1
        assert reader.read() == (i + 1, b"message %d" % i)
    assert reader.read() == (5, b"message 4")


def test_before_the_first_message_there_is_none(reader: Reader) -> None:
    assert reader.newest == 0
    with pytest.raises(Torn):
        reader.read()


def test_messages_may_grow_and_shrink(writer: Writer, reader: Reader) -> None:
    for size in (1, 10_000, 10, 1_000_000, 0, 3_000_000, 5):
        writer.write([b"x" * size, b"y"])
        assert reader.read()[1] == b"x" * size + b"y"
    assert os.fstat(writer.descriptor).st_blocks * 512 < 5e6  # what was outgrown is given back


def test_a_slot_that_is_written_anew_meanwhile_is_not_read(writer: Writer, reader: Reader) -> None:
    writer.write([b"one"])
    base = region._SLOTS + 1 % 2 * region._WORDS
    writer.words[base + region._BEGUN] = 3
    with pytest.raises(Torn):
        reader.read()


def test_half_of_a_message_is_not_read(writer: Writer, reader: Reader) -> None:
    writer.write([b"one, two"])
    slot = writer._maps[1]
    assert slot is not None
    slot[3:4] = b"!"
    with pytest.raises(Torn):
        reader.read()


READS = """
import sys, time
from stream_rnn.readers.region import Reader, Torn

class Slow(Reader):  # so slow that it is overtaken
    def _copy(self, offset, length):
        first = super()._copy(offset, length // 2)
        time.sleep(0.002)
        return first + super()._copy(offset + length // 2, length - length // 2)

reader, seen = Slow(int(sys.argv[1])), 0
until = time.monotonic() + 1.0
while not seen or time.monotonic() < until:
    try:
        n, body = reader.read()
    except Torn:
        continue
    assert bytes(body) == bytes([n % 251]) * (20_000 + n % 7), n
    seen += 1
"""


def test_a_process_that_is_overtaken_reads_no_mixture(writer: Writer) -> None:
    """Each message is a run of one byte."""
    command = [sys.executable, "-c", READS, str(writer.descriptor)]
    with subprocess.Popen(command, pass_fds=[writer.descriptor]) as process:
        while process.poll() is None:
            n = writer.n + 1
            writer.write([bytes([n % 251]) * (20_000 + n % 7)])
            time.sleep(0.0 if n % 50 else 0.02)
    assert process.returncode == 0


def test_who_reads_cannot_write_or_cut_it_off(writer: Writer) -> None:
    descriptor = to_read(writer.descriptor)
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, region.PAGE)
    with pytest.raises(OSError, match=r"not permitted|Invalid"):
        os.ftruncate(descriptor, 0)
    with pytest.raises(PermissionError):  # not even who writes: it would kill who reads
        os.ftruncate(writer.descriptor, 0)
    os.close(descriptor)


def test_the_memory_has_no_name_and_is_its_owners_alone(writer: Writer) -> None:
    found = os.fstat(writer.descriptor)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_nlink == 0


def test_a_word_is_seen_at_once(writer: Writer, reader: Reader) -> None:
    writer.words[LIVE] = 2**63
    assert reader.words[LIVE] == 2**63
