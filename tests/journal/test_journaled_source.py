"""Written down, flushed, acknowledged, learned: in this order, whatever happens in between."""

from __future__ import annotations

import itertools
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.journal.source import JournaledSource
from stream_rnn.spi import Batch, EndOfStream, Event, Guarantee, NotConnected, SettingError
from stream_rnn.testing import ScriptedSource, check_source

Make = Callable[..., JournaledSource]
Drained = Callable[..., list[Event]]
DATA = [b"event %d" % i for i in range(10)]


def inner(source: JournaledSource) -> ScriptedSource:
    assert isinstance(source.inner, ScriptedSource)
    return source.inner


def positions(events: list[Event]) -> list[int | str]:
    return [event.position for event in events]


@pytest.mark.parametrize("guarantee", list(Guarantee))
def test_any_source_behind_a_journal_keeps_the_contract_of_one_that_rewinds(
    tmp_path: Path, guarantee: Guarantee
) -> None:
    check_source(
        lambda: JournaledSource(ScriptedSource(DATA, guarantee), tmp_path / "journal", fsync_ms=0),
        expected=DATA,
        slack_s=30.0,
    )


def test_an_event_comes_out_as_it_came_and_says_where_from(make: Make, drained: Drained) -> None:
    event = Event("topic-7", "0010", b"\x00\xff", "kéy\ud800", 1.5, {"trace": "abc"})
    source = make([event])
    source.open(None)
    (got,) = drained(source)
    origin = {"origin_partition": "topic-7", "origin_position": "0010"}
    assert got == Event("journal", 1, b"\x00\xff", "kéy\\ud800", 1.5, {"trace": "abc", **origin})


def test_nothing_is_acknowledged_before_it_is_on_disk(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(DATA, fsync_every=4)
    acked_at_fsync: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        acked_at_fsync.append(len(inner(source).acked))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    source.open(None)
    acked_at_fsync.clear()
    batch = source.poll(10, 0.0)
    assert inner(source).acked == [{"script": 3}, {"script": 7}, {"script": 9}]
    assert acked_at_fsync[-3:] == [0, 1, 2]  # each group's flush came before its acknowledgment
    assert len(batch.events) == 10


def test_a_crash_before_the_acknowledgment_delivers_nothing_twice(
    make: Make, drained: Drained
) -> None:
    source = make(DATA)
    source.open(None)
    drained(source)
    source = make(DATA, Guarantee.FIRE_AND_FORGET)  # delivers them all again
    source.open({"journal": 6})
    assert positions(drained(source)) == [7, 8, 9, 10]
    assert source.counters()["journal_doubles"] == 10
    assert inner(source).acked[-1] == {"script": 9}  # else they would come for ever


def test_the_source_is_opened_where_the_journal_ends(make: Make, drained: Drained) -> None:
    source = make(DATA[:4])
    source.open(None)
    drained(source)
    source = make(DATA, Guarantee.REPLAYABLE)
    source.open({"journal": 1})
    assert inner(source).opened == [{"script": 3}]
    got = drained(source)
    assert positions(got) == list(range(2, 11))
    assert source.counters()["journal_doubles"] == 0


def test_what_a_source_says_of_its_position_is_kept_where_events_do_not_tell(
    make: Make, drained: Drained
) -> None:
    class Rotating(ScriptedSource):
        def poll(self, max_events: int, timeout_s: float) -> Batch:
            return Batch(super().poll(max_events, timeout_s).events, {"script": 2, "next": 0})

    source = make([])
    source.inner = source._intake._source = Rotating(DATA[:3], Guarantee.ACKABLE)
    source.open(None)
    drained(source)
    source = make([], Guarantee.REPLAYABLE)
    source.open(None)
    assert inner(source).opened == [{"script": 2, "next": 0}]


def test_a_broken_connection_waits_until_the_journal_is_learned(make: Make) -> None:
    source = make([*DATA[:5], NotConnected("gone"), *DATA[5:]])
    source.open(None)
    assert positions(list(source.poll(5, 0.0).events)) == [1, 2, 3, 4, 5]
    with pytest.raises(NotConnected, match="gone"):
        source.poll(3, 0.0)
    source.open({"journal": 5})
    assert positions(list(source.poll(9, 0.0).events)) == [6, 7, 8, 9, 10]


def test_a_connection_that_breaks_while_much_is_left_is_made_anew_behind_it(make: Make) -> None:
    source = make([*DATA[:5], NotConnected("gone"), *DATA[5:]])
    source.open(None)
    got = [positions(list(source.poll(3, 0.0).events)) for _ in range(4)]
    assert got == [[1, 2, 3], [4, 5], [6, 7, 8], [9, 10]]
    assert inner(source).opened == [None, {"script": 4}]


def test_a_source_that_is_away_at_the_start_does_not_keep_the_journal_from_being_learned(
    tmp_path: Path, make: Make, drained: Drained
) -> None:
    class Away(ScriptedSource):
        def open(self, resume: Any) -> None:
            raise NotConnected("not there")

    source = make(DATA)
    source.open(None)
    drained(source)
    source.close()
    away = JournaledSource(Away([]), tmp_path / "journal")
    away.open({"journal": 4})
    assert positions(list(away.poll(99, 0.0).events)) == [5, 6, 7, 8, 9, 10]
    with pytest.raises(NotConnected, match="not there"):
        away.poll(99, 0.0)
    with pytest.raises(NotConnected, match="not there"):
        away.open({"journal": 10})
    away.close()


def test_the_end_of_the_stream_comes_behind_the_last_event(make: Make) -> None:
    source = make([*DATA, EndOfStream()])
    source.open(None)
    got = [source.poll(4, 0.0).events for _ in range(3)]
    assert [len(events) for events in got] == [4, 4, 2]
    for _ in range(2):
        with pytest.raises(EndOfStream):
            source.poll(4, 0.0)


def test_a_pushing_source_is_written_down_ahead_of_the_learner(make: Make) -> None:
    source = make([b"x"] * 100, Guarantee.FIRE_AND_FORGET)
    source.open(None)
    source.poll(5, 0.0)
    source.poll(5, 0.0)
    assert source.backlog >= 90
    assert source.lag() is not None


def test_a_group_waits_for_more_until_it_is_old_enough(tmp_path: Path) -> None:
    now = itertools.count(0.0, 0.001)  # every look at the clock takes a millisecond
    source = JournaledSource(
        ScriptedSource([b"a", b"b"]), tmp_path / "j", fsync_ms=50, clock=lambda: next(now)
    )
    flushes: list[float] = []
    source.on_fsync(flushes.append)
    source.open(None)
    began = next(now)
    assert len(source.poll(9, 10.0).events) == 2
    assert next(now) - began < 0.2  # not the ten seconds that a poll may wait for its first event
    assert len(flushes) == 1
    source.close()


def test_what_waits_is_written_down_before_it_can_be_learned(make: Make) -> None:
    data = [b"event %d" % i for i in range(100)]
    source = make(data, Guarantee.FIRE_AND_FORGET, fsync_every=10)
    source.open(None)
    assert positions(source.poll(10, 0.0).events) == list(range(1, 11))
    assert source.backlog == 30
    source.poll(10, 0.0)
    assert source.backlog == 60


# Retention ----------------------------------------------------------------------------------------


def full_of(make: Make, n: int = 12, **settings: Any) -> JournaledSource:
    """Segments of two or three events."""
    source = make([b"x" * 1500] * n, segment_bytes=4096, fsync_every=1, **({"keep": 3} | settings))
    source.open(None)
    return source


def test_the_events_of_the_kept_snapshots_stay(make: Make, drained: Drained) -> None:
    source = full_of(make, keep=3)
    drained(source)
    n_before = source.n_segments
    source.ack({"journal": 8})
    source.ack({"journal": 10})
    assert source.n_segments == n_before  # an older snapshot may be among those kept
    source.ack({"journal": 12})
    assert source.n_segments < n_before
    source = make([])
    source.open({"journal": 8})
    assert positions(drained(source)) == [9, 10, 11, 12]


def test_a_journal_keeps_to_its_size_where_no_event_comes_to_a_step(
    make: Make, drained: Drained
) -> None:
    source = full_of(make, n=60, keep=3, max_bytes=4 * 4096)
    source.saved_step = lambda: 0  # all of them are refused
    got = positions(drained(source, 1))
    for _ in range(100):
        source.ack({"journal": got[-1]})
        got += positions(source.poll(1, 0.0).events)
        assert source.size_bytes < 8 * 4096
    assert got == list(range(1, 61))


def test_a_full_journal_holds_the_source_back_until_a_snapshot_makes_room(
    make: Make, drained: Drained
) -> None:
    source = full_of(make, n=60, keep=1, max_bytes=4 * 4096)
    got = positions(drained(source, 1))
    assert 8 <= len(got) < 30
    assert source.wants_snapshot()
    assert source.poll(9, 0.0).events == []
    assert source.size_bytes < 5 * 4096
    while len(got) < 60:
        source.ack({"journal": got[-1]})
        more = positions(drained(source, 1))
        assert more, "an acknowledgment makes room"
        assert source.size_bytes < 6 * 4096
        got += more
    assert got == list(range(1, 61))  # nothing was dropped


def test_a_full_journal_goes_on_where_everything_is_in_the_snapshot(
    make: Make, drained: Drained
) -> None:
    source = full_of(make, n=60, keep=3, max_bytes=4 * 4096)
    got = positions(drained(source, 1))
    more = [Event("script", n, b"y") for n in range(100, 105)]
    source = make(more, segment_bytes=4096, max_bytes=4 * 4096)  # a restart forgets three acks
    source.open({"journal": got[-1]})
    assert len(source.poll(9, 0.0).events) == 5


def test_a_snapshot_older_than_the_journal_is_refused_with_the_size_of_the_gap(
    make: Make, drained: Drained
) -> None:
    source = full_of(make, keep=1)
    drained(source)
    source.ack({"journal": 9})
    first = source._journal.oldest
    assert first > 4
    source = make([], keep=1)
    text = f"ends with event 2, the journal begins with event {first}: {first - 3} events are gone"
    with pytest.raises(SettingError, match=re.escape(text)):
        source.open({"journal": 2})
    source = make([], on_gap="earliest")
    source.open({"journal": 2})
    assert positions(drained(source)) == list(range(first, 13))
    assert source.counters()["journal_gap_events"] == first - 3
    source = make([Event("script", 99, b"new")], on_gap="latest")
    source.open({"journal": 2})
    assert positions(drained(source)) == [13]


def test_a_snapshot_newer_than_the_journal_is_refused(make: Make, drained: Drained) -> None:
    source = make(DATA)
    source.open(None)
    drained(source)
    source = make([])
    with pytest.raises(SettingError, match="ends with event 10, the snapshot has learned event 11"):
        source.open({"journal": 11})
    source = make([Event("script", 99, b"new")], Guarantee.FIRE_AND_FORGET, on_gap="latest")
    source.open({"journal": 11})
    assert positions(drained(source)) == [12]
    source = make([])
    source.open({"journal": 12})  # and from then on it is the journal of that run
    assert drained(source) == []


def test_a_deleted_journal_is_noticed(make: Make) -> None:
    with pytest.raises(SettingError, match="ends with event 0, the snapshot has learned event 5"):
        make(DATA).open({"journal": 5})


def test_a_state_from_before_the_journal_goes_on_where_its_source_stood(
    make: Make, drained: Drained
) -> None:
    for _ in range(2):  # the second time, nothing of the journal is in a snapshot yet
        source = make(DATA, Guarantee.REPLAYABLE)
        source.open({"script": 6})
        assert [event.data for event in drained(source)] == DATA[7:]
    with pytest.raises(SettingError, match="was taken without this journal"):
        make(DATA, Guarantee.REPLAYABLE).open({"script": 4})


# The disk -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Any:
    """Limits how long a file may become: a write that goes further is cut, then fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(n_bytes: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes or before[1], before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("guarantee", list(Guarantee))
def test_a_full_disk_acknowledges_nothing_and_loses_nothing(
    make: Make, drained: Drained, small_disk: Any, tmp_path: Path, guarantee: Guarantee
) -> None:
    source = make([b"y" * 300] * 40, guarantee, fsync_every=20)
    source.open(None)
    first = list(source.poll(5, 0.0).events)
    (path,) = (tmp_path / "journal").glob("*.journal")
    n_acks, size = len(inner(source).acked), path.stat().st_size
    small_disk(size + 700)
    for _ in range(3):  # what is written down is learned meanwhile
        first += source.poll(5, 0.0).events
    with pytest.raises(NotConnected, match="the journal cannot be written"):
        source.poll(5, 0.0)
    assert path.stat().st_size == size + 700  # a torso
    small_disk(size)
    with pytest.raises(NotConnected, match="nothing was acknowledged"):
        source.open({"journal": 20})
    assert path.stat().st_size == size  # cut off
    assert len(inner(source).acked) == n_acks
    small_disk(0)
    source.open({"journal": 20})
    assert len(inner(source).opened) == 1  # it never was away: opening it anew might lose events
    # ahead of what is learned it had tried once more, unless the source can rewind
    tries = 2 if guarantee is Guarantee.REPLAYABLE else 3
    got = positions(first + drained(source))
    assert got == list(range(1, 41))
    assert source.counters()["journal_write_failures"] == tries
    source = make([])
    source.open(None)
    assert positions(drained(source)) == got  # on disk, and sound


def test_a_journal_has_one_writer(make: Make, tmp_path: Path) -> None:
    source = make(DATA)
    source.open(None)
    code = (
        "import sys; from pathlib import Path\n"
        "from stream_rnn.testing import ScriptedSource\n"
        "from stream_rnn.journal.source import JournaledSource\n"
        "JournaledSource(ScriptedSource([]), Path(sys.argv[1])).open(None)"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "journal")]
    other = subprocess.run(run, capture_output=True, text=True, check=False)
    assert f"in use by process {os.getpid()}" in other.stderr
    assert "SettingError" in other.stderr


def test_looking_at_a_journal_changes_nothing(make: Make, drained: Drained, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    source = make(DATA)
    assert source.check(None)[0].text.endswith("new")
    assert not folder.exists()
    source.open(None)
    drained(source)
    (path,) = folder.glob("*.journal")
    with path.open("ab") as file:
        file.write(b"torn")
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    other = JournaledSource(ScriptedSource(DATA), folder)  # while the first one holds the folder
    finding = other.check({"journal": 7})[0]
    assert finding.ok
    assert "3 events are in no snapshot" in finding.text
    other.rehearse({"journal": 7})
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
    assert not other.check({"journal": 99})[0].ok
