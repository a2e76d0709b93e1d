"""Daemons to be killed, and folders for them; what they share is in benchmarks/storm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.storm.daemons import Nursery
from benchmarks.storm.place import Kind, Place, undisturbed
from benchmarks.storm.stream import write_events

N_EVENTS = 150


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="session")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "events.jsonl"
    write_events(path, 1, N_EVENTS)
    return path


@pytest.fixture
def make(tmp_path: Path, events: Path, nursery: Nursery) -> Iterator[Callable[..., Place]]:
    """Makes places under `tmp_path`, by the name of a folder and a kind of source."""
    made: list[Place] = []

    def make(name: str, kind: Kind, stream: Path | None = None, **settings: Any) -> Place:
        made.append(Place.make(tmp_path / name, kind, stream or events, nursery, **settings))
        return made[-1]

    yield make
    for place in made:
        place.clear()


@pytest.fixture(scope="session")
def calm(
    tmp_path_factory: pytest.TempPathFactory, events: Path, nursery: Nursery
) -> Callable[[Kind], Place]:
    """The undisturbed run of each kind of source, made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("calm"), dict[Kind, Place]()

    def calm(kind: Kind) -> Place:
        if kind not in made:
            made[kind] = Place.make(folder / kind, kind, events, nursery)
            undisturbed(made[kind], N_EVENTS)
        return made[kind]

    return calm
