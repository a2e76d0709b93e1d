"""Per-lane tensors (leading axis B): selecting whole lanes, and starting them anew."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def rows(mask_B: Tensor, tensor: Tensor) -> Tensor:
    """`mask_B` shaped to select whole lanes of `tensor`."""
    return mask_B.view(-1, *([1] * (tensor.dim() - 1)))


def reset_lanes(lane_state: Mapping[str, Tensor], lanes_B: Tensor) -> None:
    """Zero the marked lanes (bool) of every tensor, in place."""
    for state in lane_state.values():
        # a credit rule may still be on another device than the caller, before its first tick
        state.masked_fill_(rows(lanes_B, state).to(state.device), 0)
