"""The datasets that come with River, as streams of JSON records."""

from __future__ import annotations

import datetime
import difflib
import inspect
from typing import Any

import msgspec
from typing_extensions import override

from stream_rnn.spi import (
    Batch,
    EndOfStream,
    Event,
    Guarantee,
    Lag,
    NotConnected,
    Position,
    Record,
    SettingError,
    Source,
)

TARGETS = {
    "AirlinePassengers": "passengers",
    "ChickWeights": "weight",
    "ImageSegments": "category",
    "Phishing": "is_phishing",
    "SP500Stocks": "next_day_return",
    "Shuttle": "anomaly",
    "TrumpApproval": "five_thirty_eight",
    "WaterFlow": "Flow",  # the file says "Water flow [l/s]", which is awkward in a configuration
}
"""Dataset -> the name its target gets; "target" for the others. Named targets keep their names."""


class RiverSource(Source):
    """Row by row through a dataset that is bundled with River; nothing is downloaded.

    A record holds the features and the target (see `TARGETS`), with dates as ISO 8601 text, e.g.
    `{"Time": "2022-03-20T11:00:00+01:00", "Flow": 100.59}` for WaterFlow. Positions are row
    numbers, from 1, and go on counting through repetitions.

    Args:
        dataset: the name of a class in `river.datasets`, e.g. "WaterFlow".
        repeat: how often to go through it; 0 = without end.
    """

    guarantee = Guarantee.REPLAYABLE

    def __init__(self, dataset: str = "WaterFlow", repeat: int = 1) -> None:
        if repeat < 0:
            raise SettingError(f"repeat: must be at least 0 (0 = without end), got {repeat}")
        bundled = _bundled()
        if dataset not in bundled:
            close = difflib.get_close_matches(dataset, bundled, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise SettingError(
                f"dataset: {dataset!r} does not come with River (others would have to be "
                f"downloaded); {hint}Bundled: {', '.join(bundled)}"
            )
        self._name = dataset
        self._class = bundled[dataset]
        self._target = TARGETS.get(dataset, "target")
        self._repeat = repeat
        self._rows: list[bytes] | None = None
        self._position = 0

    @override
    def open(self, resume: Position | None) -> None:
        # All rows at once, a few megabytes at most: River closes a dataset's file only behind its
        # last row, and a list can be taken up anywhere at no cost.
        encode = msgspec.json.Encoder().encode
        self._rows = [encode(self._record(x, y)) for x, y in self._class()]
        position = (resume or {}).get(self._name, 0)
        if not (isinstance(position, int) and position >= 0):
            raise SettingError(
                f"the resume position {str(position)[:40]!r} counts no rows: the snapshot is of "
                "another source; give this one its own [state] dir, or start with --fresh"
            )
        self._position = position

    def _record(self, x: Record, y: object) -> Record:
        targets = y if isinstance(y, dict) else {self._target: y}
        return {name: _plain(value) for name, value in (x | targets).items()}

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if self._rows is None:
            raise NotConnected(f"the dataset {self._name} is not open")
        n_rows, first = len(self._rows), self._position
        last = first + max_events
        if self._repeat:
            last = min(last, self._repeat * n_rows)
            if first >= last:
                raise EndOfStream(f"end of the dataset {self._name}")
        events = [
            Event(self._name, row + 1, self._rows[row % n_rows]) for row in range(first, last)
        ]
        self._position = last
        return Batch(events, {self._name: last})

    @override
    def lag(self) -> Lag | None:
        if self._rows is None or not self._repeat:
            return None
        return Lag(events=max(0, self._repeat * len(self._rows) - self._position))

    @override
    def describe(self) -> str:
        turns = {0: ", without end", 1: ""}.get(self._repeat, f", {self._repeat} times")
        return f"River's dataset {self._name}{turns}"

    @override
    def close(self) -> None:
        self._rows = None


def _bundled() -> dict[str, type[Any]]:
    """Name -> class of the datasets that stand in River's package."""
    # Imported here, as it costs 0.6 s and most configurations name another source.
    from river import datasets
    from river.datasets.base import FileDataset, RemoteDataset

    return {
        name: value
        for name, value in inspect.getmembers(datasets, inspect.isclass)
        if issubclass(value, FileDataset) and not issubclass(value, RemoteDataset)
    }


def _plain(value: object) -> object:
    """What JSON can carry: dates as ISO 8601, numpy's scalars as Python's."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    item = getattr(value, "item", None)
    return item() if callable(item) else value
