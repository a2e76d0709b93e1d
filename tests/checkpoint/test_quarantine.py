"""Deaths counted across starts: three in a row in one event, and nothing else, is a verdict."""

import json
import random
from pathlib import Path

import pytest

from stream_rnn.checkpoint.attempt import Attempt, AttemptMark
from stream_rnn.checkpoint.quarantine import Quarantine, Suspect, after_death, identity_of
from stream_rnn.runtime.attempts import Attempts
from stream_rnn.spi import Event


def event(ordinal: int) -> Event:
    return Event("p", ordinal - 1, b"event %d" % ordinal)


class Process:
    """A start of the daemon over the events behind a snapshot, `block` to a tick."""

    def __init__(self, folder: Path, block: int = 1, counts: bool = True, keep: int = 2) -> None:
        self.mark = AttemptMark(folder / "attempt")
        self.mark.open()
        self.quarantine = Quarantine(folder)
        self.attempts = Attempts(self.mark, self.quarantine, counts=counts, keep=keep)
        self.attempts.open(block)
        self.block = block

    def learn(self, *ordinals: int, dies: bool = False) -> None:
        """One tick, which is the last thing the process does if it dies."""
        if self.block == 1:
            self.attempts.decoding(ordinals[0], event(ordinals[0]))
        self.attempts.learning(ordinals[0], len(ordinals), event(ordinals[0]))
        if dies:
            self.mark.close()
        else:
            self.attempts.done(ordinals[-1])

    def refuses(self, ordinal: int) -> bool:
        return self.attempts.poison(ordinal, event(ordinal)) is not None


def die_in(folder: Path, *ordinals: int, block: int = 1) -> None:
    Process(folder, block).learn(*ordinals, dies=True)


def verdicts(folder: Path) -> list[int]:
    process = Process(folder)
    process.mark.close()
    return [verdict.ordinal for verdict in process.quarantine.poison]


def test_three_deaths_in_a_row_in_one_event_are_a_verdict(tmp_path: Path) -> None:
    for _ in range(3):
        assert verdicts(tmp_path) == []
        die_in(tmp_path, 7)
    process = Process(tmp_path)
    assert process.refuses(7)
    assert not process.refuses(8)
    assert not process.refuses(6)


def test_a_death_in_nothing_neither_counts_nor_forgives(tmp_path: Path) -> None:
    die_in(tmp_path, 7)
    die_in(tmp_path, 7)
    for _ in range(5):  # killed at the start, in a poll or in a snapshot
        process = Process(tmp_path)
        process.learn(5)
        process.mark.close()
    assert verdicts(tmp_path) == []
    die_in(tmp_path, 7)
    assert verdicts(tmp_path) == [7]


@pytest.mark.parametrize("survived", [7, 8, 100])
def test_an_event_that_was_survived_in_between_is_innocent(tmp_path: Path, survived: int) -> None:
    die_in(tmp_path, 7)
    die_in(tmp_path, 7)
    process = Process(tmp_path)
    process.learn(survived)
    process.mark.close()
    die_in(tmp_path, 7)
    assert verdicts(tmp_path) == []


def test_a_death_elsewhere_in_between_begins_the_count_anew(tmp_path: Path) -> None:
    for ordinal in (7, 7, 5, 7, 7):
        die_in(tmp_path, ordinal)
        assert verdicts(tmp_path) == []


def test_another_event_at_the_same_ordinal_is_not_blamed(tmp_path: Path) -> None:
    for data in (b"a", b"b", b"c", b"d"):
        process = Process(tmp_path)
        process.attempts.decoding(7, Event("p", 7, data))
        process.mark.close()
    assert verdicts(tmp_path) == []


def test_the_verdict_is_on_disk_before_anything_goes_on_and_stays(tmp_path: Path) -> None:
    for _ in range(3):
        die_in(tmp_path, 7)
    process = Process(tmp_path)
    assert json.loads(process.quarantine.path.read_text())["poison"][0]["ordinal"] == 7
    assert process.refuses(7)
    process.mark.close()
    (kept,) = json.loads(process.quarantine.path.read_text())["poison"]
    assert (kept["partition"], kept["position"]) == ("p", 6)
    assert Process(tmp_path).refuses(7)


def test_a_verdict_is_forgotten_once_every_snapshot_kept_lies_beyond_it(tmp_path: Path) -> None:
    for _ in range(3):
        die_in(tmp_path, 7)
    process = Process(tmp_path, keep=2)
    process.attempts.forget_before(6)
    process.attempts.forget_before(8)
    assert process.refuses(7)
    process.attempts.forget_before(9)
    assert not process.refuses(7)
    process.mark.close()
    assert verdicts(tmp_path) == []


def test_a_block_is_repeated_as_it_was_before_it_is_fed_one_by_one(tmp_path: Path) -> None:
    block = tuple(range(9, 17))
    die_in(tmp_path, *block, block=8)
    process = Process(tmp_path, block=8)
    assert not any(map(process.attempts.is_alone, range(1, 30)))
    process.learn(*block, dies=True)
    process = Process(tmp_path, block=8)
    assert [n for n in range(1, 30) if process.attempts.is_alone(n)] == list(block)
    process.learn(12, dies=True)
    for _ in range(2):
        assert verdicts(tmp_path) == []
        process = Process(tmp_path, block=8)
        assert [n for n in range(1, 30) if process.attempts.is_alone(n)] == [12]
        process.learn(12, dies=True)
    assert verdicts(tmp_path) == [12]


def test_events_are_looked_at_together_but_for_suspects(tmp_path: Path) -> None:
    assert Process(tmp_path).attempts.together(1, 256) == 256
    die_in(tmp_path, *range(9, 17))
    attempts = Process(tmp_path).attempts
    assert attempts.together(1, 256) == 8
    assert attempts.together(1, 5) == 5
    assert [attempts.together(ordinal, 256) for ordinal in range(9, 17)] == [0] * 8
    assert attempts.together(17, 256) == 256


def test_where_an_event_may_be_poison_each_is_looked_at(tmp_path: Path) -> None:
    for _ in range(3):
        die_in(tmp_path, 7)
    assert Process(tmp_path).attempts.together(100, 256) == 0


def test_a_death_while_several_are_decoded_makes_all_of_them_suspects(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.attempts.decoding(9, event(9), 8)
    process.mark.close()
    attempts = Process(tmp_path).attempts
    assert [n for n in range(1, 30) if attempts.is_suspect(n)] == list(range(9, 17))


def test_a_stop_that_was_asked_for_is_not_held_against_the_event_at_hand(tmp_path: Path) -> None:
    for _ in range(5):
        process = Process(tmp_path)
        process.attempts.decoding(7, event(7))
        process.attempts.disarm()
        process.learn(7, dies=True)
    assert verdicts(tmp_path) == []


def test_where_events_do_not_come_again_no_death_is_counted(tmp_path: Path) -> None:
    for _ in range(5):
        Process(tmp_path, counts=False).learn(7, dies=True)
    assert not (tmp_path / "quarantine.json").exists()
    again = Process(tmp_path)
    assert again.mark.value == 7  # what was possibly emitted is known all the same


def test_no_death_is_counted_twice_though_its_count_was_interrupted(tmp_path: Path) -> None:
    die_in(tmp_path, 7)
    for _ in range(5):  # killed between writing the file and forgetting the mark
        mark = AttemptMark(tmp_path / "attempt")
        mark.open()
        quarantine = Quarantine(tmp_path)
        quarantine.open()
        quarantine.count(mark.run, mark.died_in, mark.reached)
        mark.close()
    suspect = quarantine.suspect
    assert suspect is not None
    assert suspect.deaths == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"poison": 7}', b'{"suspect": {"first": "x"}}', b"\xff" * 9, b"[" * 10**5],
)
def test_a_torn_file_is_told_and_stops_nothing(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "quarantine.json").write_bytes(content)
    assert verdicts(tmp_path) == []
    assert "quarantine.json" in caplog.text


def test_suspicion_narrows_to_what_all_deaths_have_in_common() -> None:
    suspect = after_death(None, Attempt(1, 8, 0))
    suspect = after_death(suspect, Attempt(5, 8, 0))
    assert suspect == Suspect(5, 8, deaths=2, alone=0, identity=0)
    assert after_death(suspect, Attempt(20, 1, 3)) == Suspect(20, 20, 1, 1, 3)


def test_deaths_in_a_run_and_then_in_a_block_of_it_are_counted_anew() -> None:
    """A run is first learned block by block, in the same bits; only then a block event by event."""
    suspect = after_death(after_death(None, Attempt(1, 64, 0)), Attempt(9, 8, 0))
    assert suspect == Suspect(9, 16, deaths=1, alone=0, identity=0)
    suspect = after_death(suspect, Attempt(9, 8, 0))
    assert suspect == Suspect(9, 16, deaths=2, alone=0, identity=0)
    assert after_death(suspect, Attempt(11, 1, 3)) == Suspect(11, 11, 3, 1, 3)


def test_random_deaths_blame_an_event_only_after_three_in_a_row(tmp_path: Path) -> None:
    chance, row, expected = random.Random(3), [0], []
    for _ in range(200):
        ordinal = chance.choice((7, 7, 7, 8))
        die_in(tmp_path, ordinal)
        row = [*row, ordinal] if row[-1] == ordinal else [ordinal]
        if len(row) == 3:
            expected.append(ordinal)
            row = [0]
        assert verdicts(tmp_path) == expected
    assert set(expected) == {7, 8}


def test_positions_of_any_kind_tell_events_apart() -> None:
    events = [Event("p", position, b"x") for position in (1, 2, "1-0", "2-0", "\udc80", 2**70 + 3)]
    assert len({identity_of(each) for each in events}) == len(events)
    assert all(0 <= identity_of(each) < 2**64 for each in events)
