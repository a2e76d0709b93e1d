"""Between host and device: the rows of a tick on their way in, what became of it on its way out.

Letters as everywhere: B lanes, I inputs, Q what the head is taught.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stream_rnn.frame import Frame, Outcome
from stream_rnn.learner import Learner

_mode = threading.local()


class Frames:
    """The frame of the coming tick: buffers made once, filled lane by lane.

    Args:
        learner: whose device and number type the frames have.
        n_lanes: B.
        n_inputs: I.
        weighted: whether losses have weights.
    """

    def __init__(
        self, learner: Learner, n_lanes: int, n_inputs: int, weighted: bool = False
    ) -> None:
        if weighted and learner.head.owns_update:
            raise ValueError(
                "weight: a read-out that owns its update takes no loss weights; use "
                'head_optimizer = { kind = "adam" }, or leave the weight out'
            )
        parameter = learner.head.V_PF
        self._device, dtype = parameter.device, parameter.dtype
        pin = self._device.type == "cuda"
        n_targets = learner.head.loss_function.n_targets
        self._host = Frame(
            torch.zeros(n_lanes, n_inputs, dtype=dtype, pin_memory=pin),
            torch.zeros(n_lanes, n_targets, dtype=dtype, pin_memory=pin),
            torch.zeros(n_lanes, dtype=torch.bool, pin_memory=pin),
            torch.zeros(n_lanes, dtype=torch.bool, pin_memory=pin),
            torch.ones(n_lanes, dtype=dtype, pin_memory=pin) if weighted else None,
        )
        # the same memory: numpy takes a list of numbers as a row, a tensor does not
        self._x_BI: np.ndarray[Any, Any] = self._host.x_BI.numpy()
        self._y_BQ: np.ndarray[Any, Any] = self._host.y_BQ.numpy()
        self._live_B: np.ndarray[Any, Any] = self._host.live_B.numpy()
        self._scored_B: np.ndarray[Any, Any] = self._host.scored_B.numpy()
        weight_B = self._host.weight_B
        self._weight_B = None if weight_B is None else weight_B.numpy()

    def clear(self) -> None:
        """No lane has an event."""
        self._live_B.fill(False)
        self._scored_B.fill(False)

    def put(
        self, lane: int, x: Sequence[float], y: Sequence[float] | None, weight: float = 1.0
    ) -> None:
        """The lane's event; without `y` nothing is learned from it."""
        self._x_BI[lane] = x
        self._live_B[lane] = True
        if y is not None:
            self._y_BQ[lane] = y
            self._scored_B[lane] = True
        if self._weight_B is not None:
            self._weight_B[lane] = weight

    def put_zeros(self, lane: int) -> None:
        """A made-up event of which something can be learned."""
        self.put(lane, [0.0] * self._x_BI.shape[1], [0.0] * self._y_BQ.shape[1])

    def frame(self) -> Frame:
        """What was put since `clear`, on the device; valid until the next `clear`."""
        if self._device.type == "cpu":
            return self._host
        host, weight_B = self._host, self._host.weight_B
        return Frame(
            self._there(host.x_BI),
            self._there(host.y_BQ),
            self._there(host.live_B),
            self._there(host.scored_B),
            None if weight_B is None else self._there(weight_B),
        )

    def _there(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def only(self, lane: int) -> Tensor:
        """A mask of that lane, on the device."""
        lanes_B = torch.zeros(len(self._live_B), dtype=torch.bool)
        lanes_B[lane] = True
        return lanes_B.to(self._device)

    def every(self) -> Tensor:
        """A mask of all lanes, on the device."""
        return torch.ones(len(self._live_B), dtype=torch.bool, device=self._device)


class Tick(NamedTuple):
    """What the runtime is told of each tick; a tuple, as one is made per event.

    Attributes:
        seconds: duration of the learner's step.
        learned: lanes whose loss entered the gradient.
        restarted: lanes whose influence restarted (bad credit).
        refused: whether a gradient was refused because it was not finite.
        locked: whether the parameters had to wait (only windows with `every` > 1).
    """

    seconds: float
    learned: int
    restarted: int
    refused: bool
    locked: bool = False


def tick_of(outcome: Outcome, seconds: float, *, paid: bool = False) -> Tick:
    """The outcome in numbers of the host; `paid`: it paid what was owed, without events."""
    # lists of a few flags: a sum on the device costs ten times as much
    learned = outcome.learned_B.tolist().count(True)
    restarted = outcome.restarted_B.tolist().count(True)
    refused = False
    if outcome.updated is not None and (learned or paid) and not restarted:
        refused = not bool(outcome.updated)
    return Tick(seconds, learned, restarted, refused, locked=outcome.updated is None)


def moved(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """|after - before| / |after| over all parameters."""
    change = sum(float((b - a).square().sum()) for a, b in zip(before, after, strict=True))
    size = sum(float(b.square().sum()) for b in after)
    return (change / size) ** 0.5 if size else 0.0


@contextmanager
def numerics() -> Iterator[None]:
    """The numeric contract of the thread that learns: denormal numbers, which are slow, are 0.

    It is a mode of the processor, which other work on the thread must get back as it was.
    """
    before = getattr(_mode, "flushes", False)  # a reader may ask on a thread that learns
    torch.set_flush_denormal(True)
    _mode.flushes = True
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
        _mode.flushes = before
