"""Taking saved tensors back, with a clear word when they do not fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def counted(state: Mapping[str, Tensor], name: str, most: int) -> int:
    """The whole number in 0..most of a state; raises ValueError naming what came instead."""
    tensor = state.get(name)
    if tensor is None:
        raise ValueError(f"state {name!r} is missing")
    if tensor.numel() != 1 or tensor.is_floating_point():
        raise ValueError(f"state {name!r}: expected one whole number, got {tuple(tensor.shape)}")
    value = int(tensor)
    if not 0 <= value <= most:
        raise ValueError(f"state {name!r}: expected 0..{most}, got {value}")
    return value


def take(mine: Tensor, state: Mapping[str, Tensor], name: str) -> None:
    """Copy `state[name]` into `mine`; raises ValueError naming what is missing or misshapen."""
    if name not in state:
        raise ValueError(f"state {name!r} is missing")
    theirs = state[name]
    if theirs.shape != mine.shape or theirs.dtype != mine.dtype:
        raise ValueError(
            f"state {name!r}: expected {mine.dtype} {tuple(mine.shape)}, "
            f"got {theirs.dtype} {tuple(theirs.shape)}"
        )
    mine.copy_(theirs)


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What stands under `prefix`, by the rest of its name."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
