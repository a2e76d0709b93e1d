"""Per-lane tensors (leading axis B): selecting whole lanes, and starting them anew."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def implies(these_B: Tensor, those_B: Tensor) -> Tensor:
    """(B,) bool: in `those_B`, or not in `these_B`; one operation."""
    return these_B <= those_B


def without(these_B: Tensor, those_B: Tensor) -> Tensor:
    """(B,) bool: in `these_B` and not in `those_B`; one operation."""
    return these_B > those_B


def rows(mask_B: Tensor, tensor: Tensor) -> Tensor:
    """`mask_B` shaped to select whole lanes of `tensor`."""
    return mask_B.view(-1, *([1] * (tensor.dim() - 1)))


def zero_lanes(lane_state: Mapping[str, Tensor], lanes_B: Tensor) -> None:
    """Zero the marked lanes (bool) of every tensor, in place; for use within a tick.

    The same operations whichever lanes are marked: nothing waits for a device, and a tick may be
    recorded. They go through all lanes.
    """
    for state in lane_state.values():
        # a credit rule may still be on another device than the caller, before its first tick
        state.masked_fill_(rows(lanes_B, state).to(state.device), 0)


def reset_lanes(lane_state: Mapping[str, Tensor], lanes_B: Tensor) -> None:
    """As `zero_lanes`, between two ticks: on a processor it touches the marked lanes alone.

    Where thousands of keys share lanes, one of them begins anew with nearly every event.
    """
    if lanes_B.device.type != "cpu":
        zero_lanes(lane_state, lanes_B)
        return
    marked = lanes_B.nonzero()[:, 0]
    for state in lane_state.values():
        state.index_fill_(0, marked.to(state.device), 0)
