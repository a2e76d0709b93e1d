"""A task: turns a record into steps for the learner, and its numbers into the stream's units.

It owns the prequential scores, and what it remembers of each lane. All state is plain Python and
part of every snapshot.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from stream_rnn.columns import Array
from stream_rnn.features.encoder import Features
from stream_rnn.features.per_lane import PerLane
from stream_rnn.features.scaler import Scales
from stream_rnn.features.values import BadEvent, number
from stream_rnn.scores import ClassScores, NumericScores
from stream_rnn.spi import Record
from stream_rnn.tasks.steps import Step, Steps

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Objective:
    """What the head must be built for.

    Attributes:
        kind: "squared", "quantile", "gaussian", "cross_entropy" or "bernoulli".
        size: targets, or classes for "cross_entropy".
        tau: of "quantile"; 0.5 is L1.
    """

    kind: str
    size: int
    tau: float = 0.5


class Task(ABC):
    """Base of all tasks.

    Args:
        features: what the network sees; built and handed in by the composition root.
        weight: the field with the weight of an event's loss, 0..1; None: no weights.

    Attributes:
        horizon: k, events ahead; 0: the target stands in the event itself.
        inputs: I.
        objective: what the head learns.
        scores: prequential scores beside baselines.
        baseline: the baseline shown first.
    """

    baseline: ClassVar[str] = "persistence"
    horizon: int
    inputs: int
    objective: Objective
    scores: NumericScores | ClassScores

    def __init__(self, features: Features, weight: str | None = None) -> None:
        self.features = features
        self.weight = weight
        features.expect(weight)
        self._memories: dict[str, PerLane[Any]] = {}

    def remember(
        self,
        name: str,
        saved: Callable[[T], Any],
        restored: Callable[[Any], T],
        copied: Callable[[T], T] | None = None,
    ) -> PerLane[T]:
        """Room for one value per lane, reset and saved (under `name`) by the base."""
        memory = PerLane(saved, restored, copied)
        self._memories[name] = memory
        return memory

    def check(self, record: Record) -> None:
        """Raise BadEvent if `steps` would in a lane that starts anew. Changes nothing.

        Asked before a new key is given a lane, so that an event that cannot be used takes none.
        """
        self._weight_of(record)
        self.features.require(record)

    def objection(self, records: Sequence[Record]) -> str:
        """Why records that pass `check` one by one cannot all be used, "" if they can."""
        return ""

    def _weight_of(self, record: Record) -> float:
        """The weight of the event's loss, 1 where it has none; raises BadEvent."""
        if self.weight is None or record.get(self.weight) is None:
            return 1.0
        value = number(record, self.weight)
        if not 0 <= value <= 1:
            raise BadEvent(
                "absurd",
                f"field {self.weight!r}: expected a loss weight in 0..1 ([task] weight), got "
                f"{value:g}; scale it, or leave it out for 1",
            )
        return value

    @abstractmethod
    def steps(self, record: Record, lane: int) -> list[Step]:
        """The steps of one event; raises BadEvent before anything is learned from it."""

    def steps_many(self, records: Sequence[Record], lanes: Sequence[int]) -> Steps:
        """The steps of the first of these events, bit for bit as `steps` makes them in turn.

        As many as take one step each. It ends before an event that `steps` refuses, or that takes
        several: nothing of that one is counted or learned, and it is `steps` that is asked next.
        No lane may start anew between them.

        Args:
            records: in order.
            lanes: of each.
        """
        made: list[Step] = []
        features = self.features
        for record, lane in zip(records, lanes, strict=True):
            issues = None if features.missing == "reject" else dict(features.issues)
            try:
                if self.n_steps(record) != 1:
                    break
                made += self.steps(record, lane)
            except BadEvent:
                if issues is not None:  # fields that were filled in before another was refused
                    features.issues = issues
                break
        return Steps.of(made, self.inputs)

    def n_steps(self, record: Record) -> int:
        """How many steps the event takes, without making them; raises BadEvent."""
        return 1

    @abstractmethod
    def natural(self, outputs: Sequence[float], step: Step) -> list[float]:
        """The head's activated outputs in the stream's units."""

    def natural_many(self, outputs_TP: Array, steps: Steps) -> list[list[float]]:
        """`natural` of each row; outputs of any kind of float."""
        rows = outputs_TP.tolist()
        return [self.natural(row, steps.step(t)) for t, row in enumerate(rows)]

    @abstractmethod
    def publish(self, natural: Sequence[float], step: Step) -> Any:
        """The prediction made at `step` as it stands in the JSON line."""

    def publish_many(self, natural: Sequence[Sequence[float]], steps: Steps) -> list[Any]:
        """`publish` of each."""
        return [self.publish(row, steps.step(t)) for t, row in enumerate(natural)]

    @abstractmethod
    def publish_target(self, target: list[float] | int) -> Any:
        """A target as it stands in the JSON line."""

    def publish_targets(self, targets: Sequence[Any]) -> list[Any]:
        """`publish_target` of each."""
        return list(map(self.publish_target, targets))

    @abstractmethod
    def score(
        self, lane: int, prediction: Sequence[float] | None, target: list[float] | int
    ) -> float | None:
        """Score the prediction that fell due; the baselines learn the target. Returns the loss."""

    def score_many(
        self,
        lanes: Sequence[int],
        predictions: Sequence[Sequence[float] | None],
        targets: Sequence[Any],
    ) -> list[float | None]:
        """`score` of each, in order and bit for bit."""
        return [
            self.score(lane, prediction, target)
            for lane, prediction, target in zip(lanes, predictions, targets, strict=True)
        ]

    def input_names(self) -> list[str]:
        """What each of the I inputs is: two models that agree on a name mean the same."""
        return self.features.names()

    @abstractmethod
    def output_names(self) -> list[str]:
        """What each output of the read-out is, likewise."""

    @property
    @abstractmethod
    def natural_width(self) -> int:
        """Numbers in a prediction in the stream's units."""

    @abstractmethod
    def describe(self) -> str:
        """One line for the banner."""

    def persist(self) -> dict[int, int]:
        """Output -> input it starts as a copy of (a forecast that begins as persistence)."""
        return {}

    def reset_lane(self, lane: int) -> None:
        """Another key takes the lane."""
        self.end_episode(lane)
        self.features.reset_lane(lane)

    def end_episode(self, lane: int) -> None:
        """The lane's next event has no past; what is known of its key's targets stays."""
        self.scores.reset_lane(lane)
        self.forget_episode(lane)

    def forget_episode(self, lane: int) -> None:
        """What `steps` remembers of the lane's past; no scores."""
        self.features.end_episode(lane)
        for memory in self._memories.values():
            memory.pop(lane, None)

    def reading(self, lane: int | None = None) -> Self:
        """A task that reads and publishes as this one does now, sharing nothing that changes.

        It has no scores: what scores an event, or starts a lane anew, cannot be asked of it.

        Args:
            lane: remember this lane only; None: all of them.
        """
        twin = copy.copy(self)
        vars(twin).pop("scores", None)  # whoever asks for them is told so by an error
        twin._memories = {}
        for name, value in vars(self).items():
            if isinstance(value, Features | PerLane | Scales):
                setattr(twin, name, value.copied(lane))
        for name, memory in self._memories.items():
            (attribute,) = (a for a, value in vars(self).items() if value is memory)
            twin._memories[name] = getattr(twin, attribute)
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able."""
        return {"scores": self.scores.state_dict(), **self.known()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.scores.load_state_dict(state["scores"])
        self.load_known(state)

    def known(self) -> dict[str, Any]:
        """The state without the scores: all that a prediction is made from; plain values."""
        return {
            "features": self.features.state_dict(),
            **{name: memory.state_dict() for name, memory in self._memories.items()},
        }

    def load_known(self, state: Mapping[str, Any]) -> None:
        """Take what `known` gave."""
        self.features.load_state_dict(state["features"])
        for name, memory in self._memories.items():
            memory.load_state_dict(state[name])


def require_no_target(weight: str | None, targets: Sequence[str]) -> None:
    """Raise ValueError if the weight of a loss is what is to be predicted."""
    if weight in targets:
        raise ValueError(f"weight = {weight!r} is the target; name the field with the loss weights")


def require_no_leak(features: Features, targets: Sequence[str]) -> None:
    """Raise ValueError if a target of the event itself is among its inputs."""
    inputs = {*features.numeric, *features.vocabularies}
    if features.calendar is not None:
        inputs.add(features.calendar.field)
    leaking = [name for name in targets if name in inputs]
    if leaking:
        raise ValueError(
            f"the target {leaking[0]!r} is among the features of its own prediction; remove it "
            "from [features] (the previous target is an input already)"
        )
