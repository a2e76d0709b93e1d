"""Torn, flipped, cut, deleted: the journal hands out what was written, or says what is gone."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_rnn.journal import records, segments
from stream_rnn.journal.source import JournaledSource
from stream_rnn.spi import Event, SettingError

Make = Callable[..., JournaledSource]
Drained = Callable[..., list[Event]]
DATA = [b"%d" % i * (1 + i % 5) for i in range(12)]


@pytest.fixture
def journal(make: Make, drained: Drained, tmp_path: Path) -> Path:
    """A folder with twelve events in one segment."""
    source = make(DATA)
    source.open(None)
    assert len(drained(source)) == len(DATA)
    source.close()
    return tmp_path / "journal"


def only_segment(journal: Path) -> Path:
    (path,) = journal.glob("*.journal")
    return path


def ends(path: Path) -> list[int]:
    """The offset behind each record, the head's first."""
    with path.open("rb") as file:
        segment = records.read_head(path, 1, file.fileno())
        place = segment, file.fileno(), segment.start, segment.size, 1
        return [segment.start, *(found.end for found in records.records(*place))]


def read_again(make: Make, drained: Drained, **settings: object) -> list[Event]:
    source = make([], **settings)
    source.open(None)
    return drained(source)


def test_every_flipped_bit_is_refused_or_skipped_never_handed_out(
    make: Make, drained: Drained, tmp_path: Path
) -> None:
    source = make(DATA[:3])
    source.open(None)
    drained(source)
    source.close()
    path, mark = only_segment(tmp_path / "journal"), tmp_path / "journal" / "durable"
    sound, known = path.read_bytes(), mark.read_bytes()
    chance = random.Random(3)
    for offset in range(len(sound)):  # head, markers, lengths, sequences, checksums, bodies
        flipped = bytearray(sound)
        flipped[offset] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        mark.write_bytes(known)
        with pytest.raises(SettingError, match=r"at byte \d+.*events that cannot be read: [123];"):
            make([]).open(None)
        got = read_again(make, drained, on_damage="skip")
        assert len(got) < 3
        assert all(event.data == DATA[int(event.position) - 1] for event in got)


def test_a_refusal_changes_nothing_on_disk(make: Make, journal: Path) -> None:
    path = only_segment(journal)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(SettingError):
        make([]).open(None)
    assert path.read_bytes() == damaged


def test_a_tail_torn_anywhere_is_cut_off_behind_the_last_whole_event(
    make: Make, drained: Drained, journal: Path
) -> None:
    path = only_segment(journal)
    sound, whole = path.read_bytes(), ends(path)
    for cut in range(whole[0], whole[4]):
        path.write_bytes(sound[:cut])
        (journal / "durable").unlink()  # nobody was told that more was flushed
        kept = sum(end <= cut for end in whole) - 1
        source = make([])
        source.open(None)
        assert source.counters()["journal_torn_tails"] == (cut not in whole)
        assert path.stat().st_size == whole[kept]
        assert [event.data for event in drained(source)] == DATA[:kept]


def test_zeros_of_a_power_cut_are_a_torn_tail(make: Make, drained: Drained, journal: Path) -> None:
    path = only_segment(journal)
    with path.open("ab") as file:
        file.write(bytes(5000))
    source = make([])
    source.open(None)
    assert len(drained(source)) == len(DATA)
    assert source.counters()["journal_torn_tails"] == 1
    assert path.stat().st_size == ends(path)[-1]


def test_a_cut_through_what_was_flushed_is_no_torn_tail(make: Make, journal: Path) -> None:
    path = only_segment(journal)
    os.truncate(path, ends(path)[9] + 3)
    with pytest.raises(SettingError, match="events that cannot be read: 3;"):
        make([]).open(None)


def test_numbers_of_lost_events_are_never_given_to_others(
    make: Make, drained: Drained, journal: Path
) -> None:
    path = only_segment(journal)
    os.truncate(path, ends(path)[9])
    new = [Event("script", n, b"new") for n in (100, 101)]
    source = make(new, on_damage="skip")
    source.open(None)
    got = drained(source)
    assert [event.position for event in got] == [*range(1, 10), 13, 14]
    assert source.counters()["journal_events_skipped"] == 3


def test_skipping_counts_each_event_that_cannot_be_read(
    make: Make, drained: Drained, journal: Path
) -> None:
    path = only_segment(journal)
    data, whole = bytearray(path.read_bytes()), ends(path)
    for n in (2, 3, 7):
        data[whole[n] - 1] ^= 0x10
    path.write_bytes(data)
    source = make([], on_damage="skip")
    source.open(None)
    assert [event.position for event in drained(source)] == [1, 4, 5, 6, 8, 9, 10, 11, 12]
    assert source.counters()["journal_events_skipped"] == 3


def test_a_missing_segment_is_damage(make: Make, drained: Drained, tmp_path: Path) -> None:
    source = make([b"x" * 1500] * 12, segment_bytes=4096, fsync_every=1)
    source.open(None)
    drained(source)
    paths = sorted((tmp_path / "journal").glob("*.journal"))
    assert len(paths) > 3
    paths[1].unlink()
    with pytest.raises(SettingError, match="events that cannot be read: 3;"):
        make([]).open(None)
    source = make([], on_damage="skip")
    source.open(None)
    assert [event.position for event in drained(source)] == [1, 2, 3, *range(7, 13)]


def test_damage_that_the_snapshot_has_left_behind_does_not_matter(
    make: Make, drained: Drained, tmp_path: Path
) -> None:
    source = make([b"x" * 1500] * 12, segment_bytes=4096, fsync_every=1)
    source.open(None)
    drained(source)
    first = min((tmp_path / "journal").glob("*.journal"))
    first.write_bytes(first.read_bytes()[:-1] + b"?")
    source = make([])
    source.open({"journal": 3})
    assert [event.position for event in drained(source)] == list(range(4, 13))


def test_a_payload_that_contains_a_record_is_a_payload(
    make: Make, drained: Drained, tmp_path: Path
) -> None:
    forged = records.record(records.EVENT, 2, records.event_body(Event("p", 2, b"evil")), 0)
    data = [b"honest", forged * 3, b"last"]
    source = make(data)
    source.open(None)
    drained(source)
    path = only_segment(tmp_path / "journal")
    flipped = bytearray(path.read_bytes())
    flipped[ends(path)[1] + 1] ^= 1  # the head of the record that carries the forged ones
    path.write_bytes(flipped)
    got = read_again(make, drained, on_damage="skip")
    assert [event.data for event in got] == [b"honest", b"last"]


def test_a_segment_that_is_a_link_is_refused(make: Make, journal: Path, tmp_path: Path) -> None:
    path = only_segment(journal)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingError, match=r"journal: .*; check the path"):
        make([]).open(None)


def test_an_interrupted_making_of_a_segment_is_cleaned_up(
    make: Make, drained: Drained, journal: Path
) -> None:
    for n_bytes in (0, 5, 20):
        torso = journal / f"{13:020d}.journal"
        torso.write_bytes(records.head(13, 7, {"script": 11})[:n_bytes])
        source = make(DATA)
        source.open({"journal": 10})
        assert not torso.exists()
        assert [event.position for event in drained(source)] == [11, 12]


def test_files_are_for_their_owner_only(journal: Path) -> None:
    assert journal.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in journal.iterdir()} == {0o600}


def test_a_torn_mark_is_none() -> None:
    assert segments.decode_mark(b"") == 0
    assert segments.decode_mark(bytes(16)) == 0
    assert segments.decode_mark(b"\x05" + bytes(15)) == 0
