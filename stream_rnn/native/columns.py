"""Features and scores of a run of events: mirrors source/columns.hpp, field by field.

What these compute is, bit for bit, what the classes in Python do event by event. Those keep the
state; whoever calls packs it before a run and unpacks it after.
"""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

import numpy as np

_I, _D, _P = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p

Array = np.ndarray[Any, np.dtype[Any]]
K = TypeVar("K", bound=Hashable)

SCALER = np.dtype(
    [("n", "i8"), ("mean", "f8"), ("var", "f8"), ("std", "f8"), ("largest", "f8")], align=True
)
ISSUES = ("clipped", "missing", "wrong_type", "non_finite", "absurd")
"""What `Encoding.count` counts, in its order."""
FILLS = {"reject": 0, "previous": 1, "mean": 2}
LEVEL, CHANGE, OWN = 0, 1, 2
"""What a target is to its scale: a level, a change, or one that its prediction must not know."""
LOSSES = {"squared": 0, "absolute": 1, "quantile": 2, "gaussian": 3}


class Scaling(ctypes.Structure):
    """What all scales of a run share."""

    _fields_ = (("memory", _I), ("warm", _I), ("absurd", _D), ("clip", _D))


class Encoding(ctypes.Structure):
    """Numeric fields -> standardized columns."""

    _fields_ = (
        *((name, _I) for name in ("T", "F", "stride", "width")),
        ("scaling", Scaling),
        *((name, _I) for name in ("fill", "places", "clipped")),
        *((name, _P) for name in ("scalers", "slot", "lane", "strict", "value", "issue", "last")),
        *((name, _P) for name in ("x", "count", "first")),
    )


class Targets(ctypes.Structure):
    """Targets -> what the learner is taught, and the scales it was taught in."""

    _fields_ = (
        *((name, _I) for name in ("T", "Q", "kind", "width")),
        ("scaling", Scaling),
        *((name, _P) for name in ("scalers", "slot", "lane", "value", "known")),
        *((name, _P) for name in ("mean", "std", "y", "taught", "previous", "has_previous", "x")),
    )


class Judgment(ctypes.Structure):
    """Forecasts that fell due, their targets, and what the baselines say."""

    _fields_ = (
        *((name, _I) for name in ("T", "Q", "P", "N", "loss")),
        *((name, _D) for name in ("tau", "fading", "absurd", "most", "smallest_std", "log_2pi")),
        *((name, _I) for name in ("errors_for_std", "before")),
        *((name, _P) for name in ("model", "recent", "pairs", "lane", "n", "sums", "newest")),
        *((name, _P) for name in ("prediction", "due", "target", "known", "has_known")),
        *((name, _P) for name in ("season", "has_season", "losses", "scored")),
    )


class Columns:
    """The library's entries for runs; every pointer handed over must be valid."""

    def __init__(self, dll: ctypes.CDLL) -> None:
        self._encode, self._targets, self._judge = dll.srn_encode, dll.srn_targets, dll.srn_judge
        for entry, kind in (
            (self._encode, Encoding),
            (self._targets, Targets),
            (self._judge, Judgment),
        ):
            entry.restype, entry.argtypes = _I, (ctypes.POINTER(kind),)
        self._waves = dll.srn_waves
        self._waves.restype, self._waves.argtypes = None, (_P, _I, _P, _I, _I, _P, _I)

    def encode(self, encoding: Encoding) -> int:
        """How many events were taken; the one after them is refused, and nothing learned of it."""
        return int(self._encode(encoding))

    def targets(self, targets: Targets) -> int:
        """Likewise."""
        return int(self._targets(targets))

    def judge(self, judgment: Judgment) -> int:
        """How many forecasts were not scored: not finite, or absurd."""
        return int(self._judge(judgment))

    def waves(
        self, seconds_T: Array, lengths: Sequence[float], harmonics: int, x_TI: Array
    ) -> None:
        """Sine and cosine of each cycle and its harmonics, into the first columns of `x_TI`."""
        cycles = np.array(lengths)
        width = x_TI.strides[0] // x_TI.itemsize
        self._waves(
            *(seconds_T.ctypes.data, len(seconds_T), cycles.ctypes.data, len(cycles)),
            *(harmonics, x_TI.ctypes.data, width),
        )


def at(array: Array | None) -> int | None:
    """Where its numbers are, for a pointer; the array must live as long."""
    return None if array is None else array.ctypes.data


def places(keys: Sequence[K]) -> tuple[Array | None, list[K]]:
    """Which of the different keys, in the order they come, each one is; None: all the first."""
    if not keys or keys.count(keys[0]) == len(keys):
        return None, list(keys[:1])
    place: dict[K, int] = {}
    found = [place.setdefault(key, len(place)) for key in keys]
    return np.array(found, dtype=np.int64), list(place)


def used(place_T: Array | None, n: int) -> int:
    """How many different places the first n events have."""
    return min(n, 1) if place_T is None else int(place_T[:n].max(initial=-1)) + 1
