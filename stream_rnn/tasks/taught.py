"""What a run of events teaches: numeric targets in their scales, by the native library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stream_rnn.columns import Array, at, places, used
from stream_rnn.features.scaler import Scales
from stream_rnn.native.columns import Columns, Targets


class Taught:
    """The targets of the events of a run; computed when made, and `scales` take it by `commit`.

    Args:
        library: computes.
        scales: of the targets.
        kind: LEVEL, CHANGE or OWN.
        clip: standardized values are held within +- this.
        lanes: of each event.
        value_TQ: what the scales learn, in the stream's units.
        known_T: which events have it.
        previous: of OWN: the newest targets of the lanes that have any.

    Attributes:
        n: how many events were taken; the one after them is refused.
        mean_TQ, std_TQ: the scales a prediction is made in.
        y_TQ, taught_T: as in `Steps`.
        previous_TQ: of OWN: the lane's newest target before each, standardized; 0: none.
    """

    def __init__(
        self,
        library: Columns,
        scales: Scales,
        kind: int,
        clip: float,
        lanes: Sequence[int],
        value_TQ: Array,
        known_T: Array,
        previous: Mapping[int, list[float]] | None = None,
    ) -> None:
        T, Q = len(lanes), value_TQ.shape[1]
        value_TQ = np.ascontiguousarray(value_TQ)
        self._scales = scales
        self._slot_T, self._slots = scales.places(lanes)
        self._table = scales.packed(self._slots)
        self.mean_TQ, self.std_TQ, self.y_TQ, self.previous_TQ = np.zeros((4, T, Q))
        self.taught_T = np.zeros(T, dtype=np.bool_)
        lane_T, newest_LQ, has_newest_L = None, None, None
        if previous is not None:
            lane_T, different = places(lanes)
            nothing = [0.0] * Q
            newest_LQ = np.array([previous.get(lane, nothing) for lane in different])
            has_newest_L = np.array([lane in previous for lane in different])
        self.n = library.targets(
            Targets(
                *(T, Q, kind, Q, scales.scaling(clip)),
                *(at(self._table), at(self._slot_T), at(lane_T), at(value_TQ), at(known_T)),
                *(at(self.mean_TQ), at(self.std_TQ), at(self.y_TQ), at(self.taught_T)),
                *(at(newest_LQ), at(has_newest_L), at(self.previous_TQ)),
            )
        )

    def commit(self) -> None:
        """The events count from here on."""
        self._scales.take(self._slots[: used(self._slot_T, self.n)], self._table)
