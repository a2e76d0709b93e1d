"""A ladder of credit rules of which one is in use: `Ok -> Tbptt -> ...`.

It never reads a clock and decides nothing: `health.Governor` does and calls `move`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.credit.base import Credit
from stream_rnn.linearization import Linearization


class Fallback(Credit):
    """Rung 0 is the primary. A switch keeps W and the hidden state; the new rung starts from zero.

    What the rung that is left still owes (`flush`) is added to the next gradient.
    """

    def __init__(self, rungs: Sequence[Credit]) -> None:
        if not rungs:
            raise ValueError("a fallback ladder needs at least one rung")
        cells = {id(rung.cell) for rung in rungs}
        lanes = {rung.n_lanes for rung in rungs}
        if len(cells) != 1 or len(lanes) != 1:
            raise ValueError("all rungs of a fallback ladder must share one cell and lane count")
        super().__init__(rungs[0].cell, rungs[0].n_lanes)
        self.rungs = tuple(rungs)
        self.level = 0
        self._owed_ZM: Tensor | None = None

    @property
    def active(self) -> Credit:
        """The rung in use."""
        return self.rungs[self.level]

    @property
    def owes_from_before(self) -> bool:
        """Whether the next gradient holds what a rung that was left still owed."""
        return self._owed_ZM is not None

    def move(self, level: int) -> None:
        """Switch to rung `level` (0 is the primary); between two ticks only."""
        if not 0 <= level < len(self.rungs):
            raise ValueError(f"level must be in 0..{len(self.rungs) - 1}, got {level}")
        if level == self.level:
            return
        owed_ZM = self.active.flush()
        if owed_ZM is not None:
            self._owed_ZM = owed_ZM if self._owed_ZM is None else self._owed_ZM + owed_ZM
        self.level = level
        # its influence belongs to a trajectory that went on without it
        self.active.reset(torch.ones(self.n_lanes, dtype=torch.bool))

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self.active.observe(lin, q_BS, live_B)

    @override
    def gradient(self) -> Tensor | None:
        gradient_ZM = self.active.gradient()
        if gradient_ZM is not None and self._owed_ZM is not None:
            gradient_ZM = gradient_ZM + self._owed_ZM.to(gradient_ZM)  # a resumed one is elsewhere
            self._owed_ZM = None
        return gradient_ZM

    @override
    def flush(self) -> Tensor | None:
        owed_ZM, self._owed_ZM = self._owed_ZM, None
        more_ZM = self.active.flush()
        if owed_ZM is None or more_ZM is None:
            return more_ZM if owed_ZM is None else owed_ZM
        return owed_ZM + more_ZM

    @override
    def healthy(self) -> Tensor:
        return self.active.healthy()

    @override
    def report(self) -> dict[str, Tensor]:
        return self.active.report()

    @property
    def lane_state(self) -> dict[str, Tensor]:
        """Every rung's, by flat names."""
        return {
            f"{i}.{name}": tensor
            for i, rung in enumerate(self.rungs)
            for name, tensor in rung.lane_state.items()
        }

    @lane_state.setter
    def lane_state(self, value: dict[str, Tensor]) -> None:
        if value:
            raise AttributeError("the lane state of a ladder is that of its rungs")

    @override
    def state_dict(self) -> dict[str, Tensor]:
        state = {
            f"{i}.{name}": tensor
            for i, rung in enumerate(self.rungs)
            for name, tensor in rung.state_dict().items()
        }
        state["level"] = torch.tensor(self.level)
        if self._owed_ZM is not None:
            state["owed_ZM"] = self._owed_ZM
        return state

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if "level" not in state:
            raise ValueError("credit state 'level' is missing")
        level = int(state["level"])
        if not 0 <= level < len(self.rungs):
            raise ValueError(f"level must be in 0..{len(self.rungs) - 1}, got {level}")
        for i, rung in enumerate(self.rungs):
            prefix = f"{i}."
            rung.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
        self.level = level
        owed_ZM = state.get("owed_ZM")
        self._owed_ZM = None if owed_ZM is None else owed_ZM.clone()
