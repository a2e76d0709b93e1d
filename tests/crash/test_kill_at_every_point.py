"""Killed at each row of the table in docs/delivery.md and started again: nothing came of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.storm.place import Kind, Place, differences, finish
from stream_rnn.checkpoint.faults import JOURNAL_STAGES
from stream_rnn.checkpoint.snapshot import snapshots

pytestmark = pytest.mark.slow
Make = Callable[..., Place]
Calm = Callable[[Kind], Place]

N_EVENTS = 150
ROWS = {
    "before the first snapshot exists": "before_rename:1",
    "after a poll, before learning": "after_poll:3",
    "in the middle of learning": "in_tick:77",
    "after learning, before a snapshot": "after_write:3",
    "while the state is copied": "in_clone:30",
    "after the copy": "after_clone:2",
    "before anything is written": "before_write:2",
    "after the tensors are written": "after_tensors:2",
    "between tensors and manifest": "before_manifest:2",
    "between manifest and rename": "before_rename:2",
    "between rename and fsync of the folder": "after_rename:2",
    "after the durable snapshot, before the acknowledgment": "before_ack:2",
    "after the acknowledgment": "after_ack:1",
}
REPLAYABLE: list[Kind] = ["jsonl", "router", "router+journal"]


def killed_at(place: Place, fault: str, calm: Place) -> None:
    """Killed once, started again; must end as `calm` did."""
    daemon = place.daemon(fault)
    producer = None if place.kind == "jsonl" else place.producer()
    assert daemon.wait() == -signal.SIGKILL, place.log()
    there = snapshots(place.folder / "state")
    finish(place, place.daemon(), N_EVENTS, producer)
    start = f"resumes at step {place_step(there[0])}" if there else "fresh: no snapshot"
    assert start in place.log()
    assert list((place.folder / "state").glob(".tmp*")) == []
    assert differences(place, calm) == []


def place_step(path: Path) -> int:
    return int(path.name.removeprefix("step-").partition(".")[0])


@pytest.mark.parametrize("kind", REPLAYABLE)
@pytest.mark.parametrize("row", ROWS)
def test_a_kill_leaves_no_trace(row: str, kind: Kind, make: Make, calm: Calm) -> None:
    killed_at(make("killed", kind), ROWS[row], calm(kind))


@pytest.mark.parametrize("stage", JOURNAL_STAGES)
def test_a_kill_while_the_journal_is_written_leaves_no_trace(
    stage: str, make: Make, calm: Calm
) -> None:
    more = "segment_bytes = 4096\n" if stage == "journal_rotate" else ""
    killed_at(make("killed", "router+journal", more=more), f"{stage}:2", calm("router+journal"))
