"""What the learner sees of a recurrent network.

Axes: B lanes, I inputs, N numbers in h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor


class Recurrence(ABC):
    """Parameters shared by B lanes, each with a state of its own.

    One tick: `forward`, then either `learn` (which commits the new state of the live lanes) or
    nothing at all (the tick never happened).

    Attributes:
        lane_state: per-lane tensors, leading axis B, zero at the start and after a reset.
        n_inputs: I.
        width: N, the width of h that the read-out sees.
        n_lanes: B.
    """

    lane_state: dict[str, Tensor]
    n_inputs: int
    width: int
    n_lanes: int

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """The tensors an update moves, in place."""

    @abstractmethod
    def forward(self, x_BI: Tensor, live_B: Tensor) -> Tensor:
        """h_t (B, N) of every lane from the committed state; commits nothing yet."""

    @abstractmethod
    def learn(self, dL_dh_BN: Tensor, live_B: Tensor) -> tuple[list[Tensor] | None, Tensor]:
        """Commit the last `forward` for the live lanes and take dL/dh of this tick.

        Returns:
            Gradients, one for each of `parameters()`, summed over lanes, or None (update-locked);
            and dL/dx (B, I) at the same tick, for a layer below.
        """

    def settle(self, updated: Tensor) -> None:
        """Told whether the update by the newest gradients was made (bool, on the device).

        What was saved up for it and refused is still owed. Without this call it counts as made.
        """

    @abstractmethod
    def roll(self, x_BI: Tensor, live_B: Tensor) -> Tensor:
        """Advance the second state, the one that predicts ahead, with the newest parameters.

        Returns:
            Its h (B, N). Nothing is learned from it.
        """

    def hidden(self, is_ahead: bool) -> list[Tensor]:
        """The states (leading axis B) that `forward` advances, or `roll` if `is_ahead`; not copied.

        In a fixed order. Readers start from them; a recurrence that leaves this out has none.
        """
        raise NotImplementedError(f"{type(self).__name__} does not tell its `hidden` state")

    @abstractmethod
    def healthy(self) -> Tensor:
        """(B,) bool: whose credit was sound in the last `learn`."""

    def report(self) -> dict[str, Tensor]:
        """Scalars on the device for metrics, read by schedule."""
        return {}

    @abstractmethod
    def reset(self, lanes_B: Tensor) -> None:
        """Start the marked lanes (bool) anew; parameters stay."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything that influences the future, by flat names; parameters in their order."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave."""
