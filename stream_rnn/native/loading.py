"""Finds and loads the library; mirrors its structures (source/abi.hpp), field by field.

It is looked for once per process. Where there is none, `find` gives None, `describe` says why, and
the twin in torch does the work. `STREAM_RNN_NATIVE` in the environment: "off" never uses it; the
name of an instruction set ("avx2") uses that one instead of the best.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stream_rnn.native.build import built_path
from stream_rnn.native.columns import Columns

_I, _D, _P = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class Observation(ctypes.Structure):
    """One tick of a credit rule: what is constant, what the rule keeps, the tick, the results."""

    _fields_ = (
        *((name, _I) for name in ("rule", "B", "K", "G", "N", "M", "rank", "chunks")),
        *((name, _I) for name in ("window", "every", "pays")),
        *((name, _P) for name in ("u", "A", "J_h", "carries", "drives", "owed", "newest")),
        *((name, _P) for name in ("begins", "W_h")),
        ("W_stride", _I),
        *((name, _P) for name in ("drive", "carry", "input", "q", "live", "signs")),
        *((name, _P) for name in ("gradient", "healthy", "norm", "variance", "work")),
        ("threads", _I),
    )


class Parameter(ctypes.Structure):
    """One tensor that is learned, what its update keeps, and its gradient."""

    _fields_ = (
        ("size", _I),
        *((name, _P) for name in ("value", "first", "second", "gradient", "mean", "lam")),
    )


class Step(ctypes.Structure):
    """An update of up to three parameters."""

    _fields_ = (
        ("kind", _I),
        *((name, _D) for name in ("lr", "clip", "momentum", "beta1", "beta2", "eps", "kappa")),
        ("alpha", _D),
        ("beta", _D),
        ("parameters", Parameter * 3),
        *((name, _P) for name in ("count", "norm")),
    )


class Elementwise(ctypes.Structure):
    """Units that see no other unit's state; `units` 0: the recurrence is dense."""

    _fields_ = (("units", _I), ("Q", _I), ("influence", _P))


class Layer(ctypes.Structure):
    """Without recurrence, above element-wise units; `kind` 0: there is none."""

    _fields_ = (("kind", _I), ("N", _I), ("W", _I))


class LeastSquares(ctypes.Structure):
    """A read-out that owns its update; `C` null: it learns by gradients."""

    _fields_ = (
        *((name, _D) for name in ("forgetting", "prior", "reach")),
        *((name, _P) for name in ("C", "size")),
    )


class Plan(ctypes.Structure):
    """A learner whose parts are all shipped ones: what does not change from tick to tick."""

    _fields_ = (
        ("credit", Observation),
        ("elementwise", Elementwise),
        ("layer", Layer),
        ("squares", LeastSquares),
        *((name, _I) for name in ("cell", "loss", "I", "P", "Q", "horizon", "blind")),
        ("tau", _D),
        *((name, _P) for name in ("s", "ahead", "waiting", "count", "owed", "fixed")),
        ("n_fixed", _I),
        ("recurrent", Step),
        ("readout", Step),
        ("work", _P),
    )


class Tick(ctypes.Structure):
    """One tick of a plan, or the first of several, and where its outcome goes."""

    _fields_ = (
        *((name, _P) for name in ("x", "y", "live", "scored", "weight", "signs")),
        *((name, _I) for name in ("n_signs", "frozen", "peeks", "pays", "slot")),
        *((name, _P) for name in ("prediction", "loss")),
        *((name, _P) for name in ("learned", "rejected", "restarted", "updated")),
    )


class Library:
    """The loaded library with the kernels of one instruction set.

    Attributes:
        variant: its name, e.g. "avx512".
        runs: the names of all instruction sets it has that this processor runs, best first.
        path: the file.
        columns: features and scores of many events.
    """

    def __init__(self, path: Path, wanted: str | None = None) -> None:
        dll = ctypes.CDLL(str(path))
        dll.srn_variants.restype = dll.srn_runs_here.restype = ctypes.c_int64
        dll.srn_variant_name.restype = ctypes.c_char_p
        for name in ("srn_variant_name", "srn_runs_here"):
            getattr(dll, name).argtypes = (_I,)
        names = [dll.srn_variant_name(i).decode() for i in range(dll.srn_variants())]
        runs = [i for i, name in enumerate(names) if dll.srn_runs_here(i)]
        chosen = [i for i in runs if wanted in (None, names[i])]
        if not chosen:
            raise OSError(
                f"it has {names}, of which this processor runs {[names[i] for i in runs]}"
            )
        self.path = path
        self.runs = tuple(names[i] for i in runs)
        self.variant: str = names[chosen[0]]
        self._index = chosen[0]
        self._dll = dll
        self.columns = Columns(dll)
        dll.srn_work_bytes.restype = ctypes.c_int64
        dll.srn_work_bytes.argtypes = (_I, ctypes.POINTER(Observation))
        dll.srn_plan_bytes.restype = ctypes.c_int64
        dll.srn_plan_bytes.argtypes = (_I, ctypes.POINTER(Plan))
        dll.srn_observe.restype, dll.srn_ticks.restype = None, ctypes.c_int64
        dll.srn_observe.argtypes = (_I, ctypes.POINTER(Observation))
        dll.srn_ticks.argtypes = (_I, ctypes.POINTER(Plan), ctypes.POINTER(Tick), _I)
        dll.srn_multiply_often.restype = dll.srn_negate_often.restype = None
        dll.srn_multiply_often.argtypes = (_I,) * 5 + (_P,) * 3
        dll.srn_negate_often.argtypes = (_I, _I, _I, _P)

    def work_bytes(self, observation: Observation) -> int:
        """Size of the work space `observe` needs."""
        return int(self._dll.srn_work_bytes(self._index, observation))

    def observe(self, observation: Observation) -> None:
        """One tick of KF or OK over a Linearization. Every pointer must be valid."""
        self._dll.srn_observe(self._index, observation)

    def plan_bytes(self, plan: Plan) -> int:
        """Size of the work space `tick` needs."""
        return int(self._dll.srn_plan_bytes(self._index, plan))

    def ticks(self, plan: Plan, first: Tick, n: int = 1) -> int:
        """Up to `n` whole ticks, the rows of which follow those of the first.

        Ends after one that the loop must hear of at once: credit that restarted, an update that was
        refused. Returns how many there were. Every pointer must be valid.
        """
        return int(self._dll.srn_ticks(self._index, plan, first, n))

    def multiply_often(
        self, times: int, shape: tuple[int, int, int], a: int, b: int, o: int
    ) -> None:
        """For measurements: so many times the product of which a push of the influence consists.

        Args:
            times: how often.
            shape: rows and depth of `a`, panels of `PANEL` columns of `b` and the result.
            a: address of (rows, depth) numbers.
            b: of (panels, depth, PANEL).
            o: of (panels, rows, PANEL), which receive the result.
        """
        self._dll.srn_multiply_often(self._index, times, *shape, a, b, o)

    def negate_often(self, times: int, n: int, x: int) -> None:
        """For measurements: so many times read and write the n numbers at x."""
        self._dll.srn_negate_often(self._index, times, n, x)


PANEL = 32
"""Columns that are pushed together (source/simd.hpp)."""

_found: Library | None = None
_why: str | None = None  # why there is none; None: not looked yet, or there is one
_is_off = False


def find() -> Library | None:
    """The library if it was built, may be trusted, runs here and is not switched off."""
    global _found, _why  # noqa: PLW0603
    if _is_off:
        return None
    if _found is None and _why is None:
        wanted = os.environ.get("STREAM_RNN_NATIVE") or None
        path = built_path()
        try:
            if wanted == "off":
                _why = "switched off by STREAM_RNN_NATIVE"
            elif not path.is_file():
                _why = "not built (python -m stream_rnn.native builds it)"
            elif not _is_private(path):
                _why = f"{path} or its folder may be changed by others; it is not loaded"
            else:
                _found = Library(path, wanted)
        except (OSError, AttributeError) as error:  # no library, or not ours
            _why = f"{path} cannot be used: {error}"
    return _found


def describe() -> str:
    """What computes, in a few words for the banner."""
    library = find()
    if library is not None:
        return f"native kernels ({library.variant})"
    return f"no native kernels: {'switched off' if _is_off else _why}"


def path_name() -> str:
    """Names the execution path in a checkpoint: results are bit-identical on the same one only."""
    library = find()
    return "torch" if library is None else f"native-{library.variant}"


@contextmanager
def switched_off() -> Iterator[None]:
    """Only the twin in torch computes inside, in the whole process."""
    global _is_off  # noqa: PLW0603
    before, _is_off = _is_off, True
    try:
        yield
    finally:
        _is_off = before


def forget() -> None:
    """Look anew at the next `find`; rules that use the library already keep it."""
    global _found, _why  # noqa: PLW0603
    _found = _why = None


def _is_private(path: Path) -> bool:
    """Whether nobody but its owner, who must be us or root, can change what would be executed."""
    if not hasattr(os, "getuid"):
        return True
    for each in (path, path.parent):
        status = each.stat()
        if status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022:
            return False
    return True
