"""Between host and device: the rows of ticks on their way in, what became of them on their way out.

Letters as everywhere: T ticks, B lanes, I inputs, Q what the head is taught.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stream_rnn.frame import Block, Frame, OnHost, Outcome
from stream_rnn.learner import Learner
from stream_rnn.tasks import Steps

_mode = threading.local()


class Frames:
    """The coming ticks: buffers made once, filled lane by lane.

    Args:
        learner: whose device and number type the frames have.
        n_lanes: B.
        n_inputs: I.
        weighted: whether losses have weights.
        ticks: T, for which there is room.
    """

    def __init__(
        self,
        learner: Learner,
        n_lanes: int,
        n_inputs: int,
        weighted: bool = False,
        ticks: int = 1,
    ) -> None:
        if weighted and learner.head.owns_update:
            raise ValueError(
                "weight: a read-out that owns its update takes no loss weights; use "
                'head_optimizer = { kind = "adam" }, or leave the weight out'
            )
        parameter = learner.head.V_PF
        self.ticks = ticks
        self._used = 0  # ticks, from the first one on, in which a lane may have an event
        self._device, dtype = parameter.device, parameter.dtype
        pin = self._device.type == "cuda"
        n_targets = learner.head.loss_function.n_targets
        shape = (ticks, n_lanes)
        self._host = Block(
            torch.zeros(*shape, n_inputs, dtype=dtype, pin_memory=pin),
            torch.zeros(*shape, n_targets, dtype=dtype, pin_memory=pin),
            torch.zeros(shape, dtype=torch.bool, pin_memory=pin),
            torch.zeros(shape, dtype=torch.bool, pin_memory=pin),
            torch.ones(shape, dtype=dtype, pin_memory=pin) if weighted else None,
        )
        self._first = self._host.frame(0)
        # the same memory: numpy takes a list of numbers as a row, a tensor does not
        self._x_TBI: np.ndarray[Any, Any] = self._host.x_TBI.numpy()
        self._y_TBQ: np.ndarray[Any, Any] = self._host.y_TBQ.numpy()
        self._live_TB: np.ndarray[Any, Any] = self._host.live_TB.numpy()
        self._scored_TB: np.ndarray[Any, Any] = self._host.scored_TB.numpy()
        weight_TB = self._host.weight_TB
        self._weight_TB = None if weight_TB is None else weight_TB.numpy()

    def clear(self) -> None:
        """No lane has an event in any tick."""
        self._live_TB[: self._used].fill(False)
        self._scored_TB[: self._used].fill(False)
        self._used = 0

    def put(
        self,
        t: int,
        lane: int,
        x: Sequence[float],
        y: Sequence[float] | None,
        weight: float = 1.0,
    ) -> None:
        """The lane's event in tick `t`; without `y` nothing is learned from it."""
        self._used = max(self._used, t + 1)
        self._x_TBI[t, lane] = x
        self._live_TB[t, lane] = True
        if y is not None:
            self._y_TBQ[t, lane] = y
            self._scored_TB[t, lane] = True
        if self._weight_TB is not None:
            self._weight_TB[t, lane] = weight

    def put_many(self, t: int, lanes: Sequence[int], steps: Steps) -> None:
        """An event in each tick from `t` on, of the lane given for it."""
        self._used = max(self._used, t + len(lanes))
        places = np.arange(t, t + len(lanes)), np.asarray(lanes)
        self._x_TBI[places] = steps.x_TI
        self._live_TB[places] = True
        taught_T = steps.taught_T
        self._scored_TB[places] = taught_T
        if taught_T.all():
            self._y_TBQ[places] = steps.y_TQ
        elif taught_T.any():
            ticks, lanes_T = places
            self._y_TBQ[ticks[taught_T], lanes_T[taught_T]] = steps.y_TQ[taught_T]
        if self._weight_TB is not None:
            self._weight_TB[places] = 1.0 if steps.weight_T is None else steps.weight_T

    def put_zeros(self, lane: int) -> None:
        """Made-up events in every tick, of which something can be learned."""
        x, y = [0.0] * self._x_TBI.shape[2], [0.0] * self._y_TBQ.shape[2]
        for t in range(self.ticks):
            self.put(t, lane, x, y)

    def frame(self) -> Frame:
        """The first tick, on the device; valid until the next `clear`."""
        return self._first if self._device.type == "cpu" else self.block(1).frame(0)

    def block(self, n: int) -> Block:
        """At least the first `n` ticks, on the device; valid until the next `clear`."""
        host = self._host
        if self._device.type == "cpu":
            return host  # the very same tensors each time: who knows their addresses may keep them
        weight_TB = host.weight_TB
        return Block(
            self._there(host.x_TBI[:n]),
            self._there(host.y_TBQ[:n]),
            self._there(host.live_TB[:n]),
            self._there(host.scored_TB[:n]),
            None if weight_TB is None else self._there(weight_TB[:n]),
        )

    def _there(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def only(self, lanes: Sequence[int]) -> Tensor:
        """A mask of these lanes, on the device."""
        lanes_B = torch.zeros(self._live_TB.shape[1], dtype=torch.bool)
        lanes_B.numpy()[lanes] = True
        return lanes_B.to(self._device)

    def every(self) -> Tensor:
        """A mask of all lanes, on the device."""
        return torch.ones(self._live_TB.shape[1], dtype=torch.bool, device=self._device)


class Tick(NamedTuple):
    """What the runtime is told of a tick, or of several calm ones; a tuple, as many are made.

    Attributes:
        seconds: duration of the learner's step; of one among several, their mean.
        learned: lanes whose loss entered the gradient.
        restarted: lanes whose influence restarted (bad credit).
        refused: whether a gradient was refused because it was not finite.
        locked: whether the parameters had to wait (only windows with `every` > 1).
        n: ticks it stands for: more than one only if nothing restarted and nothing was refused.
    """

    seconds: float
    learned: int
    restarted: int
    refused: bool
    locked: bool = False
    n: int = 1


def payment_of(outcome: Outcome, seconds: float) -> Tick:
    """A tick without events that paid what was owed, in numbers of the host."""
    restarted = int(outcome.restarted_B.sum())
    refused = outcome.updated is not None and not restarted and not bool(outcome.updated)
    return Tick(seconds, 0, restarted, refused, locked=outcome.updated is None)


def ticks_of(told: OnHost, seconds: float) -> tuple[Tick, ...]:
    """The outcomes of a run that took `seconds` in all: the calm ticks together, then the last."""
    n, updated_T = len(told.learned_TB), told.updated_T
    learned = len(told.learned_TB[-1].nonzero()[0])
    restarted = len(told.restarted_TB[-1].nonzero()[0])
    refused = updated_T is not None and learned > 0 and not restarted and not updated_T[-1]
    last = Tick(seconds / n, learned, restarted, refused, updated_T is None)
    if n == 1:
        return (last,)
    learned = int(np.count_nonzero(told.learned_TB[:-1]))
    return (last._replace(learned=learned, restarted=0, refused=False, n=n - 1), last)


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
