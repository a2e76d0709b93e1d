import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.jsonl import JsonlSource
from stream_rnn.spi import EndOfStream, Event, Lag, NotConnected, Position, SettingError
from stream_rnn.testing import check_source

LINES = [b'{"n": %d}' % n for n in range(25)]


def _write(path: Path, *lines: bytes, end: bytes = b"\n") -> None:
    with path.open("ab") as file:
        file.write(b"\n".join(lines) + end)


def _all(source: JsonlSource, timeout_s: float = 0.0) -> list[Event]:
    """The events there are now; a file that is not followed ends before any timeout."""
    events: list[Event] = []
    try:
        while batch := source.poll(1000, timeout_s).events or source.poll(1000, 0.0).events:
            events.extend(batch)
    except EndOfStream:
        pass
    return events


def _data(source: JsonlSource, timeout_s: float = 0.0) -> list[bytes]:
    return [event.data for event in _all(source, timeout_s)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.mark.parametrize("follow", [False, True], ids=["to the end", "followed"])
def test_the_source_conforms(path: Path, follow: bool) -> None:
    _write(path, *LINES)
    check_source(lambda: JsonlSource(str(path), follow=follow), expected=LINES, slack_s=30.0)


def test_a_last_line_without_newline_is_an_event(path: Path) -> None:
    _write(path, *LINES, end=b"")
    check_source(lambda: JsonlSource(str(path)), expected=LINES, slack_s=30.0)


@given(
    lines=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=30),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
)
@settings(deadline=None, max_examples=50)
def test_any_lines_polled_in_any_sizes_are_the_lines_that_are_not_blank(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "f"
    path.write_bytes(b"\n".join(lines))
    got = []
    with JsonlSource(str(path)) as source:
        source.open(None)
        try:
            while True:
                for size in sizes:
                    got += [event.data for event in source.poll(size, 0.0).events]
        except EndOfStream:
            pass
    assert got == [line for line in lines if line.strip()]


def test_positions_are_the_offsets_of_line_ends(path: Path) -> None:
    path.write_bytes(b"ab\n\n  \nc\r\nd")
    with JsonlSource(str(path)) as source:
        source.open(None)
        assert [(e.position, e.data) for e in _all(source)] == [
            (3, b"ab"),
            (10, b"c\r"),
            (11, b"d"),
        ]


def test_a_line_longer_than_a_block_is_whole(path: Path) -> None:
    long = b"x" * 3_000_000
    _write(path, b"a", long, b"b")
    with JsonlSource(str(path)) as source:
        source.open(None)
        assert _data(source, timeout_s=300) == [b"a", long, b"b"]
        assert source.counters()["long_lines"] == 0


@pytest.mark.parametrize("size", [11, 700_000, 3_000_000])
def test_a_line_beyond_the_limit_is_cut_and_counted_and_the_next_one_is_whole(
    path: Path, size: int
) -> None:
    _write(path, b"first", b"x" * size, b"last")
    with JsonlSource(str(path), max_line_bytes=10) as source:
        source.open(None)
        events = _all(source, timeout_s=300)
        assert [event.data for event in events] == [b"first", b"x" * 10, b"last"]
        assert [event.position for event in events] == [6, 6 + size + 1, 6 + size + 1 + 5]
        assert source.counters()["long_lines"] == 1
    with JsonlSource(str(path), max_line_bytes=10) as source:
        source.open({events[1].partition: events[1].position})
        assert _data(source) == [b"last"]


def test_memory_is_bounded_by_the_limit_however_long_the_line(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(300_000_000)  # sparse: one line of zeros
    with JsonlSource(str(path), max_line_bytes=1000) as source:
        source.open(None)
        assert [len(data) for data in _data(source, timeout_s=300)] == [1000]


def test_an_unfinished_line_waits_when_followed(path: Path) -> None:
    _write(path, b"one", b"tw", end=b"")
    with JsonlSource(str(path), follow=True) as source:
        source.open(None)
        assert _data(source) == [b"one"]
        assert source.lag() == Lag(events=0)  # it is no event yet
        _write(path, b"o", b"three")
        assert _data(source) == [b"two", b"three"]
        assert source.lag() == Lag(events=0)


def test_what_lies_ahead_is_told_in_lines_as_long_as_those_read(path: Path) -> None:
    lines = [b"%09d" % i for i in range(100_000)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    with JsonlSource(str(path), follow=True) as source:
        assert source.lag() is None
        source.open(None)
        assert source.lag() is None
        resume = source.poll(1000, 9).resume
        assert source.lag() == Lag(events=99_000)
        assert len(_data(source)) == 99_000
        assert source.lag() == Lag(events=0)
        _write(path, b"another")
        assert source.lag() == Lag(events=0)  # nobody has looked again
    with JsonlSource(str(path), follow=True) as source:
        source.open(resume)
        source.poll(500, 9)
        assert source.lag() == Lag(events=98_501)


def test_the_name_of_a_file_does_not_change_as_it_grows(path: Path) -> None:
    _write(path, b"first", end=b"")
    with JsonlSource(str(path)) as source:
        source.open(None)
        resume = source.poll(10, 9).resume
    _write(path, b"", b"second")
    with JsonlSource(str(path)) as source:
        source.open(resume)
        (event,) = _all(source)
    assert event.data == b"second"
    assert [event.partition] == list(resume)


def test_the_first_line_must_be_complete_before_a_followed_file_has_a_name(path: Path) -> None:
    _write(path, b"fir", end=b"")
    with JsonlSource(str(path), follow=True) as source:
        source.open(None)
        assert not _all(source)
        _write(path, b"st")
        (event,) = _all(source)
    with JsonlSource(str(path), follow=True) as source:
        source.open({event.partition: event.position})
        assert not _all(source)


def test_a_rotated_file_is_read_to_its_end_before_the_new_one(path: Path) -> None:
    _write(path, b"a1", b"a2")
    with JsonlSource(str(path), follow=True) as source:
        source.open(None)
        assert _data(source) == [b"a1", b"a2"]
        old = path.rename(f"{path}.1")
        assert _data(source) == []
        _write(old, b"a3", b"a4 unfinished", end=b"")
        path.touch()
        assert _data(source) == [b"a3"]
        _write(path, b"b1")
        events = _all(source)
        assert [event.data for event in events] == [b"a4 unfinished", b"b1"]
        assert events[0].partition != events[1].partition
        assert source.counters()["rotations"] == 1


def test_a_rotated_file_with_the_same_first_line_is_a_new_partition(path: Path) -> None:
    _write(path, b"header", b"a", b"b")
    with JsonlSource(str(path), follow=True) as source:
        source.open(None)
        first = _all(source)
        path.rename(f"{path}.1")
        _write(path, b"header", b"c")
        second = _all(source)
    assert [event.data for event in second] == [b"header", b"c"]
    assert {e.partition for e in first}.isdisjoint(e.partition for e in second)
    _write(path, b"d")
    with JsonlSource(str(path), follow=True) as source:
        source.open({second[-1].partition: second[-1].position})
        (third,) = _all(source)
    assert (third.data, third.partition) == (b"d", second[-1].partition)


def test_a_truncated_file_starts_again_as_a_new_partition(path: Path) -> None:
    _write(path, b"same", b"a", b"b")
    with JsonlSource(str(path), follow=True) as source:
        source.open(None)
        first = _all(source)
        path.write_bytes(b"")
        assert not _all(source)
        _write(path, b"same")
        second = _all(source)
        assert source.counters()["truncations"] == 1
    assert [event.data for event in second] == [b"same"]
    assert second[0].partition not in {event.partition for event in first}


def test_a_file_truncated_and_grown_beyond_the_position_unseen_is_noticed(path: Path) -> None:
    _write(path, b"old")
    with JsonlSource(str(path), follow=True) as source:
        source.open(None)
        assert _data(source) == [b"old"]
        path.write_bytes(b"new file, longer\nthan the old one\n")
        assert _data(source) == [b"new file, longer", b"than the old one"]
        assert source.counters()["truncations"] == 1


def test_the_copy_that_copytruncate_leaves_is_read_to_its_end(path: Path) -> None:
    _write(path, b"a1", b"a2")
    with JsonlSource(str(path), follow=True) as source:
        source.open(None)
        assert _data(source) == [b"a1", b"a2"]
        _write(path, b"a3")
        Path(f"{path}.1").write_bytes(path.read_bytes())
        path.write_bytes(b"")
        assert _data(source) == [b"a3"]
        _write(path, b"b1")
        assert _data(source) == [b"b1"]


def _resume_after(path: Path, n: int) -> Position:
    with JsonlSource(str(path)) as source:
        source.open(None)
        return source.poll(n, 0.0).resume


@pytest.mark.parametrize("follow", [False, True], ids=["to the end", "followed"])
def test_the_rest_of_a_file_rotated_while_we_were_down_is_read_first(
    path: Path, follow: bool
) -> None:
    _write(path, b"a1", b"a2", b"a3")
    resume = _resume_after(path, 1)
    path.rename(f"{path}.1")
    _write(path, b"b1")
    with JsonlSource(str(path), follow=follow) as source:
        source.open(resume)
        assert _data(source) == [b"a2", b"a3", b"b1"]
        assert source.counters()["rotations"] == 1


def test_the_rest_of_a_rotated_file_is_read_though_the_new_one_is_not_there_yet(path: Path) -> None:
    _write(path, b"a1", b"a2")
    resume = _resume_after(path, 1)
    path.rename(f"{path}.1")
    with JsonlSource(str(path), follow=True) as source:
        source.open(resume)
        assert _data(source) == [b"a2"]
        _write(path, b"b1")
        assert _data(source) == [b"b1"]


def test_a_lost_rest_is_refused_with_both_sizes_and_the_remedy(path: Path) -> None:
    _write(path, b"a1", b"a2")
    resume = _resume_after(path, 1)
    path.unlink()
    _write(path, b"b1", b"b2", b"b3")
    with JsonlSource(str(path)) as source, pytest.raises(SettingError) as caught:
        source.open(resume)
    said = str(caught.value)
    assert re.search(r"^path: .* \(9 bytes, none of them read\) .* read up to byte 3", said)
    assert 'on_gap = "earliest"' in said


def test_a_file_shorter_than_the_position_is_refused_with_both_numbers(path: Path) -> None:
    _write(path, b"a1", b"a2", b"a3")
    resume = _resume_after(path, 3)
    path.write_bytes(b"a1\n")
    with JsonlSource(str(path)) as source, pytest.raises(SettingError) as caught:
        source.open(resume)
    said = str(caught.value)
    assert re.search(r"^path: .* holds 3 bytes, but was read up to byte 9", said)
    assert "6 bytes that were read are gone" in said


TRUNCATED, REPLACED = b"a1\n", b"b1\nb2\n"


@pytest.mark.parametrize("left", [TRUNCATED, REPLACED], ids=["truncated", "replaced"])
def test_on_gap_earliest_goes_on_with_the_first_line_there_is(path: Path, left: bytes) -> None:
    _write(path, b"a1", b"a2", b"a3")
    resume = _resume_after(path, 3)
    path.write_bytes(left)
    with JsonlSource(str(path), on_gap="earliest") as source:
        source.open(resume)
        assert _data(source) == left.splitlines()
        assert source.counters()["gaps"] == 1


@pytest.mark.parametrize("left", [TRUNCATED, REPLACED], ids=["truncated", "replaced"])
def test_on_gap_latest_goes_on_with_the_next_line_that_comes(path: Path, left: bytes) -> None:
    _write(path, b"a1", b"a2", b"a3")
    resume = _resume_after(path, 3)
    path.write_bytes(left)
    with JsonlSource(str(path), follow=True, on_gap="latest") as source:
        source.open(resume)
        first = source.poll(10, 0.0)
        assert first.events == ()
        _write(path, b"new")
        (event,) = source.poll(10, 1.0).events
        assert event.data == b"new"
        assert event.partition not in resume  # positions never run backwards in a partition
        assert source.counters()["gaps"] == 1
    with JsonlSource(str(path), follow=True) as again:  # nothing came between the two starts
        again.open(first.resume)
        assert _data(again) == [b"new"]


def test_a_rotation_that_was_followed_is_no_gap(path: Path) -> None:
    _write(path, b"a1")
    with JsonlSource(str(path), follow=True) as source:
        source.open(None)
        assert _data(source) == [b"a1"]
        path.rename(f"{path}.1")
        _write(path, b"b1")
        assert _data(source) == [b"b1"]
        resume = source.poll(1, 0.0).resume
        assert source.counters()["gaps"] == 0
    Path(f"{path}.1").unlink()
    with JsonlSource(str(path), follow=True) as source:
        source.open(resume)
        assert _data(source) == []
        assert source.counters()["gaps"] == 0


def test_an_inode_used_again_for_other_content_is_not_taken_for_the_old_file(path: Path) -> None:
    _write(path, b"a1", b"a2")
    resume = _resume_after(path, 1)
    path.write_bytes(b"b1\nb2\n")  # same inode
    with JsonlSource(str(path), on_gap="earliest") as source:
        source.open(resume)
        assert _data(source) == [b"b1", b"b2"]


def test_a_copy_of_the_file_is_the_same_stream(path: Path, tmp_path: Path) -> None:
    _write(path, b"a1", b"a2")
    resume = _resume_after(path, 1)
    copy = tmp_path / "restored" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    with JsonlSource(str(copy)) as source:
        source.open(resume)
        assert _data(source) == [b"a2"]


def test_positions_of_other_partitions_do_not_disturb(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write(path, b"a1")
    with JsonlSource(str(path)) as source:
        source.open({"other.jsonl:0123456789ab": 7})
        assert _data(source) == [b"a1"]
    assert "starting at its beginning" in caplog.text


def test_a_missing_file_is_waited_for_when_followed_and_refused_otherwise(path: Path) -> None:
    with JsonlSource(str(path)) as source, pytest.raises(SettingError, match=r"^path: there is no"):
        source.open(None)
    with JsonlSource(str(path), follow=True) as source:
        with pytest.raises(NotConnected, match="does not exist yet"):
            source.open(None)
        _write(path, b"a")
        source.open(None)
        assert _data(source) == [b"a"]


def test_a_folder_and_a_pipe_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with JsonlSource(str(path)) as source, pytest.raises(SettingError, match=r"^path: "):
            source.open(None)


def test_an_empty_file_ends_at_once(path: Path) -> None:
    path.touch()
    with JsonlSource(str(path)) as source:
        source.open(None)
        with pytest.raises(EndOfStream):
            source.poll(1, 0.0)


def test_check_tells_where_the_position_stands_in_the_file(path: Path) -> None:
    _write(path, b"a1", b"a2")
    source = JsonlSource(str(path))
    resume = _resume_after(path, 2)
    assert [f.text for f in source.check(resume) if f.ok][1] == "the resume position is byte 6 of 6"
    path.write_bytes(b"a1\n")
    assert [finding.ok for finding in source.check(resume)] == [True, False]
    path.unlink()
    assert [finding.ok for finding in source.check(resume)] == [False]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [({"path": ""}, "path: expected"), ({"path": "f", "max_line_bytes": 0}, "max_line_bytes: ")],
    ids=["path", "max_line_bytes"],
)
def test_wrong_settings_are_named(settings_: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        JsonlSource(**settings_)  # type: ignore[arg-type]


def test_reading_a_source_that_is_not_open_says_so(path: Path) -> None:
    with pytest.raises(NotConnected, match="is not open"):
        JsonlSource(str(path)).poll(1, 0.0)
