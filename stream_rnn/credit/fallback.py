"""A ladder of credit rules of which one is in use: `Ok -> Tbptt -> ...`.

It never reads a clock and decides nothing: `health.Governor` does, and the ladder calls `move`.
Letters as everywhere: B lanes, S state, Z rows of W, M its columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Credit
from stream_rnn.linearization import Linearization
from stream_rnn.saved import counted


class Still(Credit):
    """No credit: nothing is observed, nothing is owed, and the gradient is zero.

    Zero rather than None: an update-locked layer would make the others of a stack save up their
    gradients for as long as W stands still. The learner makes no update by it (`teaches`).
    """

    def __init__(self, cell: Cell, n_lanes: int) -> None:
        super().__init__(cell, n_lanes)
        self._zero_ZM = torch.zeros(cell.weight_shape)

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        zero_ZM = self._zero_ZM
        if zero_ZM.device != q_BS.device or zero_ZM.dtype != q_BS.dtype:
            self._zero_ZM = q_BS.new_zeros(zero_ZM.shape)
        self._healthy_B = torch.ones_like(live_B)

    @override
    def gradient(self) -> Tensor:
        return self._zero_ZM


class Fallback(Credit):
    """Rung 0 is the primary; one past the last rung there is no credit, for W stands still.

    A switch keeps W and the hidden state; the new rung starts from zero. What the rung that is left
    still owes (`flush`) is added to the next gradient. If the update of that tick is refused,
    `settle` says so and the debt waits for the next one: it is paid once, or still owed.
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
        self._still = Still(self.cell, self.n_lanes)
        self._owed_ZM: Tensor | None = None
        self._handed_ZM: Tensor | None = None  # in the newest gradient; its update may be refused

    @property
    def active(self) -> Credit:
        """The rung in use."""
        return (*self.rungs, self._still)[self.level]

    @property
    def owes_from_before(self) -> bool:
        """Whether the next gradient holds what a rung that was left still owed."""
        return self._owed_ZM is not None

    def move(self, level: int) -> None:
        """Switch to rung `level`, between two ticks only.

        0 is the primary; `len(rungs)` is for when W stands still: nothing is observed, and what is
        owed waits. W does not move meanwhile, so that the debt grows no older.
        """
        self._require(level)
        if level == self.level:
            return
        self._handed_ZM = None  # nobody said that it was refused
        owed_ZM = self.flush()
        if owed_ZM is not None:
            # a debt that is no number would make every gradient unsound that it is added to
            is_sound = torch.linalg.vector_norm(owed_ZM) < math.inf
            self._owed_ZM = torch.where(is_sound, owed_ZM, 0.0)
        self.level = level
        self.switches += 1
        # its influence belongs to a trajectory that went on without it
        self.active.reset(torch.ones(self.n_lanes, dtype=torch.bool))

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self.active.observe(lin, q_BS, live_B)

    @override
    def gradient(self) -> Tensor | None:
        gradient_ZM = self.active.gradient()
        if gradient_ZM is None or self._owed_ZM is None:
            return gradient_ZM
        if self.level < len(self.rungs):
            self._handed_ZM = self._owed_ZM.to(gradient_ZM)  # a resumed one is elsewhere
            self._owed_ZM = None
            gradient_ZM = gradient_ZM + self._handed_ZM
        return gradient_ZM

    @override
    def settle(self, updated: Tensor) -> None:
        # whether it was made is known to the device only: a debt that was paid goes on as zeros
        # until the next switch
        if self._handed_ZM is not None:
            self._owed_ZM = torch.where(updated, 0.0, self._handed_ZM)
            self._handed_ZM = None

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

    def noise(self) -> float | None:
        """Variance share of the newest reduction; None where the rule in use has none.

        Synchronizes the device, so read it by schedule.
        """
        noise = self.report().get("noise")
        return None if noise is None else float(noise)

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
        level = counted(state, "level", 2**62)
        self._require(level)
        for i, rung in enumerate(self.rungs):
            prefix = f"{i}."
            rung.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
        self.level = level
        owed_ZM = state.get("owed_ZM")
        if owed_ZM is not None and owed_ZM.shape != self.cell.weight_shape:
            raise ValueError(
                f"credit state 'owed_ZM': expected {self.cell.weight_shape}, "
                f"got {tuple(owed_ZM.shape)}"
            )
        self._owed_ZM = None if owed_ZM is None else owed_ZM.clone()
        self._handed_ZM = None

    def _require(self, level: int) -> None:
        if not 0 <= level <= len(self.rungs):
            raise ValueError(f"level must be in 0..{len(self.rungs)}, got {level}")
