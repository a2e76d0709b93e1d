"""The classification: the class of an event from its other fields."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from stream_rnn.features.encoder import Features
from stream_rnn.features.saved import count
from stream_rnn.features.values import category
from stream_rnn.spi import Record
from stream_rnn.tasks.base import require_no_leak, require_no_target
from stream_rnn.tasks.steps import Step
from stream_rnn.tasks.symbols import Symbols


class Classification(Symbols):
    """Predict the class in the event itself from its other fields.

    An event without a target is predicted and not learned from.

    Args:
        features: what the network sees; must not contain the target.
        target: the field with the class.
        classes: all classes; an unknown one is dead-lettered. None: learned as they come.
        max_classes: room for classes learned as they come.
        previous_target: whether the previous class of the lane is an input.
        weight: field with the weight of the event's loss, 0..1; where missing, 1. The rest goes to
            a pull towards no preference.
        lanes: streams.
        warmup: targets that the cumulative scores leave out.
    """

    def __init__(
        self,
        features: Features,
        target: str,
        classes: list[str | int | bool] | None = None,
        max_classes: int = 16,
        previous_target: bool = True,
        weight: str | None = None,
        *,
        lanes: int = 1,
        warmup: int = 0,
    ) -> None:
        vocabulary = None if classes is None else [str(c) for c in classes]
        super().__init__(features, vocabulary, max_classes, 0, lanes, warmup, weight)
        require_no_target(weight, (target,))
        require_no_leak(features, (target,))
        features.expect(target)
        self.target = target
        self._use_previous = previous_target
        self._previous = self.remember(
            "previous", int, lambda index: count(index, "a class", self.room - 1)
        )
        self.inputs = features.width + (self.room if previous_target else 0)

    @override
    def check(self, record: Record) -> None:
        self._known(record)
        super().check(record)

    @override
    def objection(self, records: Sequence[Record]) -> str:
        given = [record for record in records if record.get(self.target) is not None]
        n = len({category(record, self.target) for record in given}.union(self.symbols))
        if n <= self.room:
            return ""
        return (
            f"{n} classes in the target {self.target!r}, and room for {self.room}: events with "
            "others would be refused; raise [task] max_classes, or, if it is a number, let "
            'kind = "regression" or "forecast" predict it'
        )

    def _known(self, record: Record) -> tuple[str, int] | tuple[None, None]:
        """The class and its number, if the event has one."""
        if record.get(self.target) is None:
            return None, None
        symbol = category(record, self.target)
        return symbol, self._index(symbol, self.target)

    @override
    def steps(self, record: Record, lane: int) -> list[Step]:
        symbol, index = self._known(record)
        weight = self._weight_of(record)
        x = self.features.encode(record, lane)
        known = len(self.symbols)  # without this event's own
        if self._use_previous:
            x += self._one_hot(self._previous.get(lane))
        if index is None or symbol is None:
            return [Step(x, None, None, known=known)]
        self._admit(index, symbol)
        self._previous[lane] = index
        return [Step(x, [float(index)], index, known=known, weight=weight)]

    @override
    def input_names(self) -> list[str]:
        previous = self._labels("previous class") if self._use_previous else []
        return super().input_names() + previous

    @override
    def describe(self) -> str:
        classes = ", ".join(self.symbols[:5]) if self._fixed else f"up to {self.room}, as they come"
        return f"classification of {self.target} ({classes})"
