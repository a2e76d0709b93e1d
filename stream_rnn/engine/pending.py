"""Predictions wait here for what they predicted, and are scored when it comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stream_rnn.features.per_lane import PerLane
from stream_rnn.features.saved import items, row
from stream_rnn.tasks import Task


class Scored(msgspec.Struct, frozen=True):
    """A prediction that fell due; made by the million, so not a dataclass.

    Attributes:
        id: of the prediction, not of the event that settled it.
        prediction: in the units of the stream, as is the target.
        target: what came.
        loss: the task's.
    """

    id: str
    prediction: list[float]
    target: list[float] | int
    loss: float


class Pending:
    """The predictions of each lane that are not yet due, oldest first.

    Args:
        task: scores them; its horizon says for how many of the lane's steps they wait.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._waiting: PerLane[deque[tuple[str, list[float]]]] = PerLane(
            saved=list,
            restored=self._restored,
        )

    def _restored(self, queue: object) -> deque[tuple[str, list[float]]]:
        place, width = "predictions not yet due", self._task.natural_width
        waiting: deque[tuple[str, list[float]]] = deque()
        for pair in items(queue, place, most=self._task.horizon):
            name, prediction = items(pair, place, 2, 2)
            waiting.append((str(name), row(prediction, place, width)))
        return waiting

    def settle(
        self, lane: int, name: str, prediction: list[float], target: list[float] | int | None
    ) -> Scored | None:
        """One step of a lane: score what fell due, keep what is new.

        Args:
            lane: where the step was made.
            name: id of the new prediction.
            prediction: the new one, in the units of the stream.
            target: of this step; None: unknown, and what fell due is never scored.
        """
        due: tuple[str, list[float]] | None
        if self._task.horizon == 0:
            due = (name, prediction)
        else:
            waiting = self._waiting.get(lane)
            if waiting is None:
                waiting = self._waiting[lane] = deque()
            due = waiting.popleft() if len(waiting) >= self._task.horizon else None
            waiting.append((name, prediction))
        if target is None:
            return None
        # without a prediction too: the baselines learn the target
        loss = self._task.score(lane, None if due is None else due[1], target)
        return None if due is None or loss is None else Scored(*due, target, loss)

    def settle_many(
        self,
        lanes: Sequence[int],
        names: Sequence[str],
        predictions: Sequence[list[float]],
        targets: Sequence[list[float] | int | None],
    ) -> list[Scored | None]:
        """`settle` of several steps, in order and bit for bit; what the learner refused left out.

        Args:
            lanes: where each step was made.
            names: ids of the new predictions.
            predictions: the new ones.
            targets: of these steps.
        """
        due = self._due(lanes, names, predictions)
        known = [t for t, target in enumerate(targets) if target is not None]
        if len(known) == len(targets):
            losses = self._task.score_many(lanes, [old and old[1] for old in due], targets)
        else:
            losses = [None] * len(targets)
            scored = self._task.score_many(
                [lanes[t] for t in known],
                [old and old[1] for old in map(due.__getitem__, known)],
                [targets[t] for t in known],
            )
            for t, loss in zip(known, scored, strict=True):
                losses[t] = loss
        return [
            None if old is None or loss is None or target is None else Scored(*old, target, loss)
            for old, target, loss in zip(due, targets, losses, strict=True)
        ]

    def _due(
        self, lanes: Sequence[int], names: Sequence[str], predictions: Sequence[list[float]]
    ) -> Sequence[tuple[str, list[float]] | None]:
        """What falls due at each step; the new ones wait."""
        fresh = list(zip(names, predictions, strict=True))
        horizon = self._task.horizon
        if not horizon:
            return fresh
        due: list[tuple[str, list[float]] | None] = []
        first = self._waiting.get(lanes[0]) if lanes else None
        if first is not None and len(first) <= horizon and lanes.count(lanes[0]) == len(lanes):
            early = max(min(horizon - len(first), len(fresh)), 0)
            first.extend(fresh)
            due = [None] * early
            due += [first.popleft() for _ in range(len(fresh) - early)]
            return due
        for lane, new in zip(lanes, fresh, strict=True):
            waiting = self._waiting.get(lane)
            if waiting is None:
                waiting = self._waiting[lane] = deque()
            due.append(waiting.popleft() if len(waiting) >= horizon else None)
            waiting.append(new)
        return due

    def reset_lane(self, lane: int) -> None:
        """Another key takes the lane."""
        self._waiting.pop(lane, None)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able."""
        return self._waiting.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self._waiting.load_state_dict(state)
