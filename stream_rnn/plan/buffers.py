"""Where a recording finds the rows of its ticks, and puts what they give: memory that stays.

One operation takes, or puts, all tensors of a tick.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Buffers:
    """Several tensors of each of many ticks, side by side.

    Args:
        ticks: how many.
        like: whose device and type they have.
        shapes: of each of them, in a row.
    """

    def __init__(self, ticks: int, like: Tensor, *shapes: tuple[int, ...]) -> None:
        self._sizes = [math.prod(shape) for shape in shapes]
        self._shapes = shapes
        self._all = like.new_zeros(ticks, sum(self._sizes))
        parts = self._all.split_with_sizes(self._sizes, dim=1)
        self._each = [p.view(ticks, *shape) for p, shape in zip(parts, shapes, strict=True)]

    def load(self, *tensors: Tensor) -> None:
        """Those of the first ticks (leading axis T), as many as there are."""
        for mine, each in zip(self._each, tensors, strict=True):
            mine[: len(each)].copy_(each, non_blocking=True)

    def row(self, at: Tensor) -> list[Tensor]:
        """Those of the tick whose number the device knows."""
        parts = self._all.index_select(0, at)[0].split_with_sizes(self._sizes)
        return [p.view(shape) for p, shape in zip(parts, self._shapes, strict=True)]

    def put(self, at: Tensor, *tensors: Tensor) -> None:
        """Those of that tick, which they become."""
        row = torch.cat([tensor.flatten() for tensor in tensors])
        self._all.index_copy_(0, at, row[None])

    def copies(self, n: int) -> list[Tensor]:
        """Each one's first `n` ticks."""
        return [each[:n].clone() for each in self._each]
