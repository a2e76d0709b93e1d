"""What one process writes another reads whole or not at all, and nothing of it outlives both."""

from __future__ import annotations

import mmap
import os
import stat
import subprocess
import sys
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
    assert os.fstat(writer.descriptor).st_blocks * 512 < 12e6  # what was outgrown is given back


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


def test_a_process_that_writes_all_the_time_is_read_whole(writer: Writer, reader: Reader) -> None:
    """Another process reads while this one writes, each message a run of one byte."""
    code = (
        "import os, sys; from stream_rnn.readers.region import *\n"
        "reader, n = Reader(int(sys.argv[1])), 0\n"
        "while n < 400:\n"
        "    try:\n"
        "        n, body = reader.read()\n"
        "    except Torn:\n"
        "        continue\n"
        "    assert bytes(body) == bytes([n % 251]) * (200_000 + n), n\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(writer.descriptor)], pass_fds=[writer.descriptor]
    ) as process:
        while process.poll() is None:
            n = writer.n + 1
            writer.write([bytes([n % 251]) * (200_000 + n)])
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
