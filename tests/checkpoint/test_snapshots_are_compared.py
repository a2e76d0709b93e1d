"""Two snapshots of thousands of lanes are told apart on one screen, those of a few lane by lane."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stream_rnn.checkpoint.compare import MOST_LANES, host_changes
from stream_rnn.checkpoint.snapshot import Loaded, Snapshot
from stream_rnn.checkpoint.store import Store


def changes(
    store: Store, snapshot: Callable[..., Snapshot], one: dict[str, Any], other: dict[str, Any]
) -> list[tuple[str, str]]:
    loaded: list[Loaded] = []
    for step, state in enumerate((one, other), 1):
        store.save(replace(snapshot(step), host=json.dumps({"past": state}).encode()))
        newest = store.newest()
        assert newest is not None
        loaded.append(newest)
    return list(host_changes(*loaded))


def test_few_lanes_are_named(store: Store, snapshot: Callable[..., Snapshot]) -> None:
    one = {str(lane): [0.0] for lane in range(1000)}
    other = one | {"7": [1.0], "1000": [0.0]}
    assert changes(store, snapshot, one, other) == [
        ("past.1000", "only in B"),
        ("past.7", "changed"),
    ]


def test_many_lanes_are_counted(store: Store, snapshot: Callable[..., Snapshot]) -> None:
    one = {str(lane): [0.0] for lane in range(1000)}
    other = one | {str(lane): [1.0] for lane in range(990, 991 + MOST_LANES)}
    expected = f"changed in {MOST_LANES + 1} of {991 + MOST_LANES} lanes"
    assert changes(store, snapshot, one, other) == [("past", expected)]


def test_fields_are_named_however_many_differ(
    store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    one = {f"field {i}": 0 for i in range(50)}
    other = {f"field {i}": 1 for i in range(50)}
    assert len(changes(store, snapshot, one, other)) == 50
