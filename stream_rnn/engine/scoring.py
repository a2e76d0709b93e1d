"""What ticks predicted: published with its event, kept until it falls due, and scored then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from stream_rnn.columns import Array
from stream_rnn.engine.block import Item
from stream_rnn.engine.laid import Laid, Stretch, Turn
from stream_rnn.engine.lines import Lines
from stream_rnn.engine.pending import Pending, Scored
from stream_rnn.tasks import Step, Task


class Scoring:
    """From the learner's rows back to events.

    Axes: T ticks, B lanes, P outputs.

    Args:
        task: turns outputs into predictions and scores them.
        lines: names predictions.
        on_scored: told of events, in order, and of the prediction that each settled: None where
            none fell due, or it had no target.
    """

    def __init__(
        self,
        task: Task,
        lines: Lines,
        on_scored: Callable[[Sequence[Item], Sequence[Scored | None]], None],
    ) -> None:
        self._task = task
        self._lines = lines
        self._on_scored = on_scored
        self._pending = Pending(task)

    def take(
        self, laid: Sequence[Laid], t: int, step: int, predictions_TBP: Array, rejected_TB: Array
    ) -> int:
        """Some ticks of those laid out were learned; returns `step` with them.

        Args:
            laid: what was laid out, from tick 0 on.
            t: the first one that was learned now.
            step: ticks learned before.
            predictions_TBP: of these ticks.
            rejected_TB: whose step was taken back.
        """
        end, place = t + len(rejected_TB), 0
        for each in laid:
            first, last = max(t, place), min(end, place + each.ticks)
            if first < last:
                rows = slice(first - t, last - t)
                part = range(first - place, last - place)
                if isinstance(each, Turn):
                    self._turn(each, step, predictions_TBP[rows][0], rejected_TB[rows][0])
                else:
                    self._stretch(each, part, step, predictions_TBP[rows], rejected_TB[rows])
                step += len(part)
            place += each.ticks
        return step

    def reset_lane(self, lane: int) -> None:
        """What waits there is never scored."""
        self._pending.reset_lane(lane)

    def state_dict(self) -> dict[str, Any]:
        """The predictions that wait."""
        return self._pending.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; raises ValueError on another model's."""
        self._pending.load_state_dict(state)

    def _turn(self, turn: Turn, step: int, outputs_BP: Array, rejected_B: Array) -> None:
        for item in turn.items:
            outputs, is_rejected = outputs_BP[item.lane].tolist(), rejected_B[item.lane]
            self._one(item, turn.i, item.steps[turn.i], step + 1, outputs, is_rejected)

    def _stretch(
        self, stretch: Stretch, part: range, step: int, predictions_TBP: Array, rejected_TB: Array
    ) -> None:
        items, lanes = stretch.items[part.start : part.stop], stretch.lanes[part.start : part.stop]
        places = np.arange(len(part)), np.asarray(lanes)
        outputs_TP = predictions_TBP[places]
        rejected_T = rejected_TB[places]
        if rejected_T.any():
            for k, item in enumerate(items):
                its = stretch.steps.step(part[k])
                self._one(item, 0, its, step + k + 1, outputs_TP[k].tolist(), rejected_T[k])
            return
        steps = stretch.steps.part(part.start, part.stop)
        natural = self._task.natural_many(outputs_TP, steps)
        names = self._lines.ids_of([item.event for item in items])
        settled = self._pending.settle_many(lanes, names, natural, steps.targets)
        published = self._task.publish_many(natural, steps)
        for item, item.id, item.prediction, item.step, scored in zip(
            items, names, published, range(step + 1, step + 1 + len(part)), settled, strict=True
        ):
            if scored is not None:
                item.scored = (scored,)
        self._on_scored(items, settled)

    def _one(
        self, item: Item, i: int, its: Step, step: int, outputs: list[float], is_rejected: bool
    ) -> None:
        """Keep the prediction of an event's step i, and score the one that fell due."""
        item.step = step
        if is_rejected:
            item.rejected = True
            return
        natural = self._task.natural(outputs, its)
        name = item.id = self._lines.id_of(item.event)
        if i == len(item.steps or (its,)) - 1:
            item.prediction = self._task.publish(natural, its)
        else:
            name += f"#{i}"
        scored = self._pending.settle(item.lane, name, natural, its.target)
        if scored is not None:
            item.scored += (scored,)
            self._on_scored((item,), (scored,))
