"""Events -> predictions: decode, lay out ticks, step the learner, score what fell due.

Nothing here reads a clock that influences anything, opens a connection or writes a file. A *block*
is what one tick takes in: with `batching = "event"` one event, else several events of different
lanes. Nothing that learns is touched before a block closes, so an open block can be dropped at any
time and will come again.

Longer than most: the whole way of an event through one tick can be read in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from torch import Tensor

from stream_rnn.engine.attempts import Attempts, Unwatched
from stream_rnn.engine.block import Item, OpenBlock
from stream_rnn.engine.frames import Frames, Tick, moved, tick_of
from stream_rnn.engine.lines import Lines
from stream_rnn.engine.pending import Pending, Scored
from stream_rnn.features.saved import count
from stream_rnn.features.values import BadEvent
from stream_rnn.lanes import Batching, Lanes
from stream_rnn.learner import Learner
from stream_rnn.scores import Drift
from stream_rnn.spi import Codec, DecodeError, Event, Position, Record
from stream_rnn.tasks import Step, Task

STAGES = ("decode", "features", "step", "emit")
MOST_WARM_UP = 64  # steps, however far ahead is forecast


@dataclass(slots=True)
class Counts:
    """Plain numbers of this process, for metrics.

    `unsound_in_a_row` counts the events that the learner itself refused since it last took one: a
    long row means that the model has diverged, not that the events are bad.
    """

    applied: int = 0
    unsound_in_a_row: int = 0
    predictions: int = 0
    scored: int = 0
    replayed: int = 0
    rejected: dict[str, int] = field(
        default_factory=lambda: {"decode": 0, "features": 0, "learn": 0, "poison": 0}
    )
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


@dataclass(slots=True)
class _Run:
    """One event while its steps are learned."""

    item: Item
    lane: int
    steps: list[Step]
    prediction: Any = None
    scored: list[Scored] = field(default_factory=list)
    rejected: bool = False


class Engine:
    """One stream's way through the model.

    Args:
        codec: bytes -> record.
        task: record -> steps and back.
        lanes: key -> lane.
        learner: stepped once per tick, from the thread that calls `feed`.
        batching: when a block closes: after each "event"; after `block` events or when a lane would
            come twice ("log"); that, or at the end of a poll ("time", not reproducible).
        block: events at most in a block.
        source: name that prefixes ids, "" for a single source.
        keep_bytes: of the original payload in a dead letter.
        replayed_until: ordinal up to which events were possibly emitted before.
        attempts: told of each event before and after it is attempted; knows which ones not to.
        on_event: told of each event, in order: the stage that refused it, or None.
        on_tick: told of each tick, between two of them; may move the fallback ladder.
        on_score: told of each scored prediction: the prediction, its target and its loss.
        drift: watches the losses, or None.
    """

    def __init__(
        self,
        codec: Codec,
        task: Task,
        lanes: Lanes,
        learner: Learner,
        *,
        batching: Batching = "event",
        block: int | None = None,
        source: str = "",
        keep_bytes: int = 4096,
        replayed_until: int = 0,
        attempts: Attempts | None = None,
        on_event: Callable[[str | None], None] = lambda refused: None,
        on_tick: Callable[[Tick], None] = lambda tick: None,
        on_score: Callable[[list[float], list[float] | int, float], None] | None = None,
        drift: Drift | None = None,
    ) -> None:
        self.codec = codec
        self.task = task
        self.lanes = lanes
        self.learner = learner
        self.batching = batching
        self.replayed_until = replayed_until
        self.attempts: Attempts = Unwatched() if attempts is None else attempts
        self.on_event = on_event
        self.on_tick = on_tick
        self.on_score = on_score
        self.drift = drift
        self.probe_update = False  # ask for `update_ratio` of the next tick
        self.update_ratio: float | None = None
        self.counts = Counts()
        self.step = 0  # ticks learned in the whole life of the model
        self.ordinal = 0  # events attempted in the whole life of the model
        self.positions: dict[str, int | str] = {}
        self.outputs: list[Record] = []
        self.letters: list[Record] = []
        size = 1 if batching == "event" else min(block or lanes.capacity, lanes.capacity)
        self._open = OpenBlock(size)
        self._pending = Pending(task)
        self._lines = Lines(task, source, keep_bytes)
        self._frames = Frames(learner, lanes.capacity, task.inputs, task.weight is not None)

    @property
    def at_boundary(self) -> bool:
        """Whether no block is open: a snapshot taken now is exactly `positions`."""
        return not len(self._open)

    @property
    def fed(self) -> int:
        """Events taken in the whole life of the model, those of the open block included."""
        return self.ordinal + len(self._open)

    def last_fed(self, partition: str) -> int | str | None:
        """Position of the partition's newest event, be it in the open block."""
        position = self._open.positions.get(partition)
        return self.positions.get(partition) if position is None else position

    @property
    def block_size(self) -> int:
        """Events in a block, at most."""
        return self._open.size

    def feed(self, event: Event) -> None:
        """Take one event; may close a block."""
        start = perf_counter()
        ordinal = self.fed + 1
        item = self._decoded(ordinal, event)
        self.counts.seconds["decode"] += perf_counter() - start
        is_alone = self.attempts.is_alone(ordinal)
        if is_alone or not self._open.has_room_for(item):
            self.close_block()
        self._open.add(item)
        if is_alone or self._open.is_full:
            self.close_block()

    def _decoded(self, ordinal: int, event: Event) -> Item:
        item = Item(event)
        reason = self.attempts.poison(ordinal, event)
        if reason is not None:
            item.letter = self._lines.letter(event, "poison", "killed", reason)
            return item
        self.attempts.decoding(ordinal, event)
        try:
            item.record = self.codec.decode(event.data)
            item.key = self.lanes.key_of(event, item.record)
            item.ends = self.lanes.ends(item.record)
        except DecodeError as error:
            item.letter = self._lines.letter(event, "decode", "undecodable", str(error))
        except BadEvent as error:
            item.letter = self._refused(event, error)
        if self._open.size > 1:
            self.attempts.decoded()
        return item

    def pass_over(self, n: int, positions: Position) -> None:
        """Take `n` events as applied that were shed before they got here.

        Args:
            n: how many; each counts as an ordinal, so that those of other events do not depend on
                what was shed.
            positions: the newest one of each partition.
        """
        self.close_block()
        self.ordinal += n
        self.positions.update(positions)
        self.task.features.pass_over(n)

    def warm_up(self) -> None:
        """Try every path of a tick on made-up events and take it back, bit for bit.

        What is broken for every event, e.g. a native library, shows here, where no event is to
        blame. Not while a block is open.
        """
        learner, frames = self.learner, self._frames
        kept = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
        frames.clear()
        frames.put_zeros(0)
        for _ in range(min(learner.horizon, MOST_WARM_UP) + 1):
            learner.step(frames.frame()).prediction_BP.tolist()  # sync: an assertion shows now
        frames.clear()
        learner.load_state_dict(kept)

    def end_of_poll(self) -> None:
        """The source had nothing more for now."""
        if self.batching == "time":
            self.close_block()

    def drop_open_block(self) -> None:
        """Forget events that no tick has taken in; they are not in `positions`."""
        self._open.take()

    def close_block(self) -> None:
        """Run the open block through the learner."""
        block = self._open.take()
        if not block:
            return
        runs: list[_Run] = []
        start = perf_counter()
        self.attempts.learning(self.ordinal + 1, len(block), block[0].event)
        self.ordinal += len(block)
        for item in block:
            if item.record is not None and item.letter is None:
                try:
                    runs.append(self._prepare(item, item.record))
                except BadEvent as error:
                    item.letter = self._refused(item.event, error)
        self.counts.seconds["features"] += perf_counter() - start
        for i in range(max([len(run.steps) for run in runs], default=0)):
            self._tick([run for run in runs if len(run.steps) > i], i)
        self._end_episodes(block)
        start = perf_counter()
        self._finish(block, runs)
        self.attempts.done(self.ordinal)
        self.counts.seconds["emit"] += perf_counter() - start

    # One block ------------------------------------------------------------------------------------

    def _prepare(self, item: Item, record: Record) -> _Run:
        if self.lanes.find(item.key) is None:
            self.task.check(record)  # what cannot be used takes no lane from another key
        lane, anew = self.lanes.assign(item.key)
        if anew:
            self._reset_lane(lane)
        return _Run(item, lane, self.task.steps(record, lane))

    def _refused(self, event: Event, error: BadEvent) -> Record:
        self.task.features.count(error.issue)
        return self._lines.letter(event, "features", error.issue, str(error))

    def _reset_lane(self, lane: int) -> None:
        self.learner.reset(self._frames.only(lane))
        self.task.reset_lane(lane)
        self._pending.reset_lane(lane)

    def _end_episodes(self, block: Sequence[Item]) -> None:
        """Start the lanes anew whose episode ended, also where the last event is of no use."""
        for item in block:
            lane = self.lanes.find(item.key) if item.ends else None
            if lane is None:
                continue
            lanes_B = self._frames.only(lane)
            self._pay(lanes_B)
            self.learner.reset(lanes_B)
            self.task.end_episode(lane)
            self._pending.reset_lane(lane)

    def pay(self) -> None:
        """Between two ticks: let every lane's update-locked window pay now what it owes."""
        self._pay(self._frames.every())

    def _pay(self, lanes_B: Tensor) -> None:
        start = perf_counter()
        paid = self.learner.pay(lanes_B)
        if paid is not None:
            self.on_tick(tick_of(paid, perf_counter() - start, paid=True))

    def _tick(self, runs: Sequence[_Run], i: int) -> None:
        """Step i of each run: one pass of the learner."""
        start = perf_counter()
        self._frames.clear()
        for run in runs:
            step = run.steps[i]
            self._frames.put(run.lane, step.x, step.y, step.weight)
        frame = self._frames.frame()
        before = [p.clone() for p in self.learner.parameters()] if self.probe_update else []
        outcome = self.learner.step(frame)
        if self.probe_update:
            self.update_ratio = moved(before, self.learner.parameters())
            self.probe_update = False
        predictions = outcome.prediction_BP.tolist()  # sync: the predictions are published
        rejected = outcome.rejected_B.tolist()
        self.step += 1
        seconds = perf_counter() - start
        self.counts.seconds["step"] += seconds
        for run in runs:
            if rejected[run.lane]:
                run.rejected = True
            else:
                self._score(run, i, predictions[run.lane])
        self.on_tick(tick_of(outcome, seconds))

    def _score(self, run: _Run, i: int, outputs: list[float]) -> None:
        """Keep the prediction made at this step, and score the one that fell due."""
        step = run.steps[i]
        natural = self.task.natural(outputs, step)
        name = self._lines.id_of(run.item.event)
        if i == len(run.steps) - 1:
            run.prediction = self.task.publish(natural, step)
        else:
            name += f"#{i}"
        scored = self._pending.settle(run.lane, name, natural, step.target)
        if scored is None:
            return
        self.counts.scored += 1
        run.scored.append(scored)
        if self.drift is not None:
            self.drift.update(scored.loss)
        if self.on_score is not None:
            self.on_score(scored.prediction, scored.target, scored.loss)

    def _finish(self, block: Sequence[Item], runs: Sequence[_Run]) -> None:
        """Predictions, dead letters and positions, in the order of the events."""
        by_event = {id(run.item): run for run in runs}
        first = self.ordinal - len(block) + 1
        for ordinal, item in enumerate(block, first):
            run = by_event.get(id(item))
            if run is not None and run.rejected:
                reason = "the step came out non-finite or absurd; nothing was learned from it"
                item.letter = self._lines.letter(item.event, "learn", "unsound", reason)
                self.counts.unsound_in_a_row += 1
            if item.letter is not None:
                self.counts.rejected[item.letter["stage"]] += 1
                self.letters.append(item.letter)
            elif run is not None:
                self.counts.unsound_in_a_row = 0
                replayed = ordinal <= self.replayed_until
                line = self._lines.prediction(
                    item.event,
                    item.key,
                    run.prediction,
                    run.scored,
                    step=self.step,
                    replayed=replayed,
                )
                self.outputs.append(line)
                self.counts.applied += 1
                self.counts.predictions += 1
                self.counts.replayed += replayed
            self.positions[item.event.partition] = item.event.position
            self.on_event(None if item.letter is None else item.letter["stage"])

    # State ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything on the host that influences the future: plain values, JSON-able."""
        return {
            "step": self.step,
            "ordinal": self.ordinal,
            "task": self.task.state_dict(),
            "lanes": self.lanes.state_dict(),
            "pending": self._pending.state_dict(),
            "drift": None if self.drift is None else self.drift.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; raises ValueError or KeyError on another model's."""
        self.step, self.ordinal = (count(state[name], name) for name in ("step", "ordinal"))
        self.task.load_state_dict(state["task"])
        self.lanes.load_state_dict(state["lanes"])
        self._pending.load_state_dict(state["pending"])
        if self.drift is not None and state["drift"] is not None:
            self.drift.load_state_dict(state["drift"])
