"""A run of forecasts judged at once by the native library, bit for bit as one by one.

Sums and memories are packed into rows of numbers before a run and unpacked after it: at rest the
objects in Python are the truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from msgspec.structs import astuple

from stream_rnn.columns import Array, at, behind, filled, places, rows
from stream_rnn.native.columns import ABSOLUTE, GAUSSIAN, QUANTILE, SQUARED, Columns, Judgment
from stream_rnn.scores.base import ABSURD
from stream_rnn.scores.losses import Absolute, Gaussian, LossFn, Quantile, Squared
from stream_rnn.scores.numeric import ERRORS_FOR_STD, SMALLEST_STD, NumericScores
from stream_rnn.scores.numeric_baselines import NumericBaselines
from stream_rnn.scores.sums import NumericSums, Pair

KINDS: dict[type[LossFn], int] = {
    Squared: SQUARED,
    Absolute: ABSOLUTE,
    Quantile: QUANTILE,
    Gaussian: GAUSSIAN,
}
LOG_2PI = math.log(2 * math.pi)

Sums = tuple[list[NumericSums], list[NumericSums], Mapping[str, list[Pair]]]
"""Of the model, fading, and of the baselines' pairs."""


def judge(
    library: Columns,
    scores: NumericScores,
    sums: Sums,
    lanes: Sequence[int],
    predictions: Sequence[Sequence[float] | None],
    targets: Sequence[Sequence[float]],
) -> list[float | None] | None:
    """What `scores.update` returns for each, which takes them all.

    None, and nothing changed: something is unusual, and they must be looked at one by one.
    """
    T, Q, kind = len(targets), len(scores.names), KINDS.get(type(scores.loss))
    P = 2 * Q if scores.loss.needs_std else Q
    if kind is None or not len(lanes) == len(predictions) == T:
        return None
    if min(lanes) < 0 or max(lanes) >= scores.baselines.n_lanes:
        return None
    target_TQ = rows(targets, Q)
    if target_TQ is None or not (np.abs(target_TQ) < ABSURD).all():  # NaN is not
        return None
    prediction_TP, due_T = filled(predictions, P)
    if prediction_TP is None:
        return None
    baselines = _KnownTargets(scores.baselines, lanes, target_TQ)
    packed = _PackedSums(*sums)
    losses_TQ, scored_T = np.zeros((T, Q)), np.zeros(T, dtype=np.bool_)
    row, model = packed.table.strides[0], packed.table.ctypes.data
    scores.rejected += library.judge(
        Judgment(
            *(T, Q, P, len(scores.baselines.names), kind),
            *(getattr(scores.loss, "tau", 0.0), scores.fading, ABSURD, ABSURD * ABSURD),
            *(SMALLEST_STD, LOG_2PI, ERRORS_FOR_STD, max(scores.warmup - scores.seen, 0)),
            *(model, model + Q * row, model + 2 * Q * row),
            *(at(packed.errors), at(packed.squared_errors)),
            *(at(baselines.lane_T), at(baselines.n_L), at(baselines.sums_LQ)),
            *(at(baselines.newest_LQ), at(prediction_TP), at(due_T), at(target_TQ)),
            *(at(baselines.known_TQ), at(baselines.has_known_T)),
            *(at(baselines.season_TQ), at(baselines.has_season_T)),
            *(at(losses_TQ), at(scored_T)),
        )
    )
    scores.seen += T
    baselines.unpack()
    packed.unpack()
    means: list[float | None] = (
        (losses_TQ[:, 0] + 0.0).tolist()  # as a sum that begins with 0: no -0
        if Q == 1
        else [sum(losses) / Q for losses in losses_TQ.tolist()]
    )
    if scored_T.all():
        return means
    return [loss if s else None for loss, s in zip(means, scored_T.tolist(), strict=True)]


class _KnownTargets:
    """What the baselines know during T targets of L lanes.

    The targets are in the lanes' memories once it is made; the sums follow by `unpack`.

    Attributes:
        lane_T: which lane each target belongs to; None: all to the first.
        n_L: targets in the sums.
        sums_LQ: of the targets that are known.
        newest_LQ: what persistence says next, where `n_L` is not 0.
        known_TQ: the target that becomes known with each one.
        has_known_T: where there is one.
        season_TQ: the seasonal forecasts; None: without.
        has_season_T: likewise.
    """

    def __init__(self, baselines: NumericBaselines, lanes: Sequence[int], target_TQ: Array) -> None:
        lag, season_lag, Q = baselines.lag, baselines.season_lag, baselines.n_targets
        self.lane_T, different = places(lanes)
        self._memories = memories = [baselines.memory(lane) for lane in different]
        self.n_L = np.array([memory.n for memory in memories], dtype=np.int64)
        self.sums_LQ = np.array([memory.sums for memory in memories], dtype=np.float64)
        nothing = (0.0,) * Q
        newest = [memory.past[-lag] if memory.n else nothing for memory in memories]
        self.newest_LQ = np.array(newest, dtype=np.float64)
        backs = [back for back in (lag - 1, season_lag) if back]
        found = behind(
            [memory.past for memory in memories],
            None if self.lane_T is None else self.lane_T.tolist(),
            list(map(tuple, target_TQ.tolist())),
            backs,
        )
        self.known_TQ: Array | None = target_TQ
        self.has_known_T = np.ones(len(lanes), dtype=np.bool_)
        self.season_TQ: Array | None = None
        self.has_season_T: Array | None = None
        for back, column in zip(backs, found, strict=True):
            found_TQ, there_T = filled(column, Q)
            if back == lag - 1:
                self.known_TQ, self.has_known_T = found_TQ, there_T
            if back == season_lag:
                self.season_TQ, self.has_season_T = found_TQ, there_T

    def unpack(self) -> None:
        """The memories take the sums back."""
        lanes = zip(self._memories, self.n_L.tolist(), self.sums_LQ.tolist(), strict=True)
        for memory, n, sums in lanes:
            memory.n, memory.sums = n, sums


class _PackedSums:
    """All sums of a task's scores as rows of numbers.

    Attributes:
        table: (2Q + 3NQ, 7): the model's, the fading ones, the pairs'.
        errors: (N, Q) of the pairs.
        squared_errors: (N, Q).
    """

    def __init__(
        self,
        model: list[NumericSums],
        recent: list[NumericSums],
        pairs: Mapping[str, list[Pair]],
    ) -> None:
        self._model, self._recent = model, recent
        self._pairs = list(chain.from_iterable(pairs.values()))
        packed = [*map(astuple, model), *map(astuple, recent)]
        for pair in self._pairs:
            packed += (astuple(pair.model), astuple(pair.baseline), astuple(pair.recent))
        self.table = np.array(packed, dtype=np.float64)
        self.errors = np.array([pair.errors for pair in self._pairs], dtype=np.int64)
        self.squared_errors = np.array([p.squared_errors for p in self._pairs], dtype=np.float64)

    def unpack(self) -> None:
        """Put them back, changed."""
        sums = [NumericSums(*row) for row in self.table.tolist()]
        width = len(self._model)
        self._model[:], self._recent[:] = sums[:width], sums[width : 2 * width]
        errors, squared = self.errors.tolist(), self.squared_errors.tolist()
        for i, pair in enumerate(self._pairs):
            at = 2 * width + 3 * i
            pair.model, pair.baseline, pair.recent = sums[at : at + 3]
            pair.errors, pair.squared_errors = errors[i], squared[i]
