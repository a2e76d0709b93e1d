"""Features and scores of a run of events: mirrors source/columns.hpp, field by field.

What these compute is, bit for bit, what the classes in Python do event by event. Those keep the
state; whoever calls packs it before a run and unpacks it after.
"""

from __future__ import annotations

import ctypes

_I, _D, _P = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p

ISSUES = ("clipped", "missing", "wrong_type", "non_finite", "absurd")
"""What `Encoding.count` counts, in its order."""
FILLS = {"reject": 0, "previous": 1, "mean": 2}
LEVEL, CHANGE, OWN = 0, 1, 2
"""What a target is to its scale: a level, a change, or one that its prediction must not know."""
FEW = 8
"""Events, below which packing what is known costs more than a run saves."""
SQUARED, ABSOLUTE, QUANTILE, GAUSSIAN = range(4)


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
        *((name, _P) for name in ("model", "recent", "pairs", "errors", "squared_errors")),
        *((name, _P) for name in ("lane", "n", "sums", "newest")),
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
        self,
        seconds: int,
        n: int,
        lengths: int,
        n_cycles: int,
        *,
        harmonics: int,
        out: int,
        width: int,
    ) -> None:
        """Sine and cosine of each cycle and its harmonics.

        Args:
            seconds: where the times are, `n` doubles.
            n: rows.
            lengths: where the cycles' lengths are, seconds.
            n_cycles: of them.
            harmonics: of each.
            out: where the first row begins.
            width: doubles from one row to the next.
        """
        self._waves(seconds, n, lengths, n_cycles, harmonics, out, width)
