"""The page of metrics as numbers; what is not one of ours, or no number, is passed over."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

MOST_SERIES = 5_000
MOST_LINE_CHARS = 2_000
_LABEL = re.compile(r'([a-z_]{1,40})="((?:[^"\\]|\\.)*)"')
_OURS = ("stream_rnn_", "process_")

Labels = dict[str, str]


class Series:
    """The samples of one page.

    Args:
        page: in Prometheus' text format, from anybody.
    """

    def __init__(self, page: bytes) -> None:
        self._samples: dict[str, list[tuple[Labels, float]]] = {}
        samples = _samples(page.decode("utf-8", "replace"))
        for name, labels, value in itertools.islice(samples, MOST_SERIES):
            self._samples.setdefault(name, []).append((labels, value))

    def __bool__(self) -> bool:
        """Whether a daemon of ours wrote it."""
        return any(name.startswith("stream_rnn_") for name in self._samples)

    def one(self, name: str) -> float | None:
        """The value of `stream_rnn_<name>`, labels or not; None if it is missing or unknown."""
        values = [value for _, value in self.all(name)]
        return values[0] if values and not math.isnan(values[0]) else None

    def process(self, name: str) -> float | None:
        """The value of `process_<name>`."""
        values = [value for _, value in self._samples.get(f"process_{name}", ())]
        return values[0] if values and math.isfinite(values[0]) else None

    def total(self, name: str) -> float | None:
        """The sum over all labels; None if there is no such series."""
        values = [value for _, value in self.all(name) if not math.isnan(value)]
        return sum(values) if values else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """Value by a label's value, known ones only."""
        every = ((labels.get(label, ""), value) for labels, value in self.all(name))
        return {each: value for each, value in every if not math.isnan(value)}

    def all(self, name: str) -> list[tuple[Labels, float]]:
        """Every sample of `stream_rnn_<name>`."""
        return self._samples.get(f"stream_rnn_{name}", [])

    def buckets(self, name: str) -> list[tuple[float, float]]:
        """A histogram: upper bounds, rising, with how many observations came up to each."""
        found = []
        for labels, count in self.all(f"{name}_bucket"):
            bound = _number(labels.get("le", ""))
            if bound is not None and not math.isnan(bound) and math.isfinite(count):
                found.append((bound, count))
        return sorted(found)


def quantile(
    before: list[tuple[float, float]], now: list[tuple[float, float]], share: float
) -> float | None:
    """The value that `share` of the observations between two readings stayed below.

    Interpolated within its bucket; beyond the last finite bound, that bound. None without any
    observation, or if the buckets are not the same ones.
    """
    old = dict(before)
    if not now or [bound for bound, _ in before] not in ([], [bound for bound, _ in now]):
        return None
    counts = [(bound, count - old.get(bound, 0.0)) for bound, count in now]
    n = counts[-1][1]
    if not n > 0.0:
        return None
    lower = below = 0.0
    for bound, count in counts:
        if count >= share * n:
            if math.isinf(bound):
                return lower
            inside = count - below
            return lower + (bound - lower) * ((share * n - below) / inside if inside > 0 else 1.0)
        lower, below = bound, count
    return None


def _samples(text: str) -> Iterator[tuple[str, Labels, float]]:
    for line in text.splitlines():
        if not line.startswith(_OURS) or len(line) > MOST_LINE_CHARS:
            continue
        left, _, written = line.rpartition(" ")
        value = _number(written)
        name, _, inside = left.partition("{")
        if value is not None and name.replace("_", "").isalnum():
            yield name, dict(_LABEL.findall(inside)), value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
