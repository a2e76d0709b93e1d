"""What a task makes of events for the learner: one step, or those of a run of events at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from stream_rnn.columns import Array

Scale = tuple[float, float]


class Step(NamedTuple):
    """One step of one lane; a tuple, as one is made per event.

    Attributes:
        x: I inputs.
        y: what the learner is taught (standardized values or a class number); None: no target.
        target: the same in the stream's units, for scoring.
        scales: (mean, std) of each target as known BEFORE anything the prediction must not know.
        known: classes, of those learned as they come, that the prediction may know of.
        weight: of the loss that `y` settles, 0..1.
    """

    x: list[float]
    y: list[float] | None
    target: list[float] | int | None
    scales: tuple[Scale, ...] = ()
    known: int = 0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of T events, one each, as columns of float64; `steps.step(t)` is one of them.

    Attributes:
        x_TI: inputs.
        y_TQ: what the learner is taught; rows without it are 0.
        taught_T: which rows of `y_TQ` there are.
        targets: in the stream's units, for scoring; None where an event has none.
        mean_TQ: of each target's scale; no columns where targets have none.
        std_TQ: likewise.
        known: classes that each prediction may know of; None: 0.
        weight_T: of the losses; None: 1.
    """

    x_TI: Array
    y_TQ: Array
    taught_T: Array
    targets: list[list[float]] | list[int] | list[list[float] | int | None]
    mean_TQ: Array
    std_TQ: Array
    known: list[int] | None = None
    weight_T: Array | None = None

    @classmethod
    def of(cls, steps: Sequence[Step], n_inputs: int) -> Steps:
        """The columns of single steps; `n_inputs` is I, also where there are none."""
        taught = [step.y is not None for step in steps]
        width = len(next((step.y for step in steps if step.y is not None), (0.0,)))
        nothing = [0.0] * width
        scales = np.array([step.scales for step in steps], dtype=np.float64)
        scales = scales.reshape(len(steps), len(steps[0].scales) if steps else 0, 2)
        return cls(
            np.array([step.x for step in steps], dtype=np.float64).reshape(len(steps), n_inputs),
            np.array(
                [nothing if step.y is None else step.y for step in steps], dtype=np.float64
            ).reshape(len(steps), width),
            np.array(taught, dtype=np.bool_),
            [step.target for step in steps],
            scales[:, :, 0],
            scales[:, :, 1],
            [step.known for step in steps],
            np.array([step.weight for step in steps], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, start: int, end: int) -> Steps:
        """Those from `start` up to `end`; shares their numbers."""
        part = slice(start, end)
        return replace(
            self,
            x_TI=self.x_TI[part],
            y_TQ=self.y_TQ[part],
            taught_T=self.taught_T[part],
            targets=self.targets[part],
            mean_TQ=self.mean_TQ[part],
            std_TQ=self.std_TQ[part],
            known=None if self.known is None else self.known[part],
            weight_T=None if self.weight_T is None else self.weight_T[part],
        )

    def step(self, t: int) -> Step:
        """The step at place t, as the task's `steps` gives it."""
        return Step(
            self.x_TI[t].tolist(),
            self.y_TQ[t].tolist() if self.taught_T[t] else None,
            self.targets[t],
            tuple(zip(self.mean_TQ[t].tolist(), self.std_TQ[t].tolist(), strict=True)),
            0 if self.known is None else self.known[t],
            1.0 if self.weight_T is None else float(self.weight_T[t]),
        )
