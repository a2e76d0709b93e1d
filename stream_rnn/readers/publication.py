"""A copy of what a prediction is made from, as it was between two events; it never changes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stream_rnn.engine.engine import Engine
from stream_rnn.lanes import Lanes
from stream_rnn.tasks import Task

SHARE = 0.05  # of the learner's time that copying may take, at most


@dataclass(frozen=True, slots=True)
class Publication:
    """Shared by all readers; who works with it copies what changes.

    Attributes:
        parameters: the recurrence's and the read-out's, on the host.
        hidden: the states that predict, leading axis B, on the host.
        task: scales, categories and the past of every lane; no scores.
        lanes: key -> lane.
        step: ticks learned.
        ordinal: events attempted.
        at: when, on the clock of who published it.
    """

    parameters: list[Tensor]
    hidden: list[Tensor]
    task: Task
    lanes: Lanes
    step: int
    ordinal: int
    at: float


def publish(engine: Engine, at: float) -> Publication:
    """Copy; on the thread that feeds the engine, between two events. Reads, changes nothing."""
    learner = engine.learner
    return Publication(
        parameters=[_on_host(tensor) for tensor in learner.parameters()],
        hidden=[_on_host(t) for t in learner.recurrence.hidden(learner.horizon > 0)],
        task=engine.task.reading(),
        lanes=engine.lanes.copied(),
        step=engine.step,
        ordinal=engine.ordinal,
        at=at,
    )


def pause_s(publish_s: float, copy_s: float) -> float:
    """From the beginning of one copy to that of the next, at least."""
    return max(publish_s, copy_s / SHARE)


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)  # sync: on another device, it waits for the tick
