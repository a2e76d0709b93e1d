"""Events -> predictions: decode, lay out ticks, step the learner, score what fell due.

Nothing here reads a clock that influences anything, opens a connection or writes a file. A *block*
is what one tick takes in: with `batching = "event"` one event, else several events of different
lanes. Nothing that learns is touched before a block closes, so an open block can be dropped at any
time and will come again.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch

from stream_rnn.features import MAX_CHARS, BadEvent
from stream_rnn.lanes import Lanes
from stream_rnn.learner import Frame, Learner, Outcome
from stream_rnn.prequential import Drift
from stream_rnn.spi import Codec, DecodeError, Event, Record
from stream_rnn.tasks import Step, Task

Batching = Literal["event", "log", "time"]
STAGES = ("decode", "features", "step", "emit")


@dataclass(frozen=True, slots=True)
class Tick:
    """What the runtime is told of each tick.

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


@dataclass(slots=True)
class Counts:
    """Plain numbers of this process, for metrics."""

    applied: int = 0
    predictions: int = 0
    scored: int = 0
    replayed: int = 0
    rejected: dict[str, int] = field(
        default_factory=lambda: {"decode": 0, "features": 0, "learn": 0}
    )
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


@dataclass(slots=True)
class _Open:
    """One event of the open block."""

    event: Event
    record: Record | None = None
    key: str | None = None
    letter: Record | None = None


@dataclass(slots=True)
class _Run:
    """One event while its steps are learned."""

    open: _Open
    lane: int
    steps: list[Step]
    prediction: Any = None
    losses: list[float] = field(default_factory=list)
    scored_id: str | None = None
    scored_target: list[float] | int | None = None
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
        mark: told the ordinal of each event before it is attempted.
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
        mark: Callable[[int], None] = lambda ordinal: None,
        on_tick: Callable[[Tick], None] = lambda tick: None,
        on_score: Callable[[list[float], list[float] | int, float], None] | None = None,
        drift: Drift | None = None,
    ) -> None:
        self.codec = codec
        self.task = task
        self.lanes = lanes
        self.learner = learner
        self.batching = batching
        self.block = 1 if batching == "event" else min(block or lanes.capacity, lanes.capacity)
        self.source = source
        self.keep_bytes = keep_bytes
        self.replayed_until = replayed_until
        self.mark = mark
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
        self._open: list[_Open] = []
        self._open_positions: dict[str, int | str] = {}
        self._keys: set[str | None] = set()
        self._pending: dict[int, deque[tuple[str, list[float]]]] = {}

        B, I = lanes.capacity, task.inputs  # noqa: E741 - the legend's letters
        parameter = learner.head.V_PF
        self._device, dtype = parameter.device, parameter.dtype
        pin = self._device.type == "cuda"
        self._x = torch.zeros(B, I, dtype=dtype, pin_memory=pin)
        n_targets = learner.head.loss_function.n_targets
        self._y = torch.zeros(B, n_targets, dtype=dtype, pin_memory=pin)
        self._live = torch.zeros(B, dtype=torch.bool, pin_memory=pin)
        self._scored = torch.zeros(B, dtype=torch.bool, pin_memory=pin)
        self._x_np: np.ndarray[Any, Any] = self._x.numpy()
        self._y_np: np.ndarray[Any, Any] = self._y.numpy()
        self._live_np: np.ndarray[Any, Any] = self._live.numpy()
        self._scored_np: np.ndarray[Any, Any] = self._scored.numpy()

    @property
    def at_boundary(self) -> bool:
        """Whether no block is open: a snapshot taken now is exactly `positions`."""
        return not self._open

    @property
    def fed(self) -> int:
        """Events taken in the whole life of the model, those of the open block included."""
        return self.ordinal + len(self._open)

    def last_fed(self, partition: str) -> int | str | None:
        """Position of the partition's newest event, be it in the open block."""
        position = self._open_positions.get(partition)
        return self.positions.get(partition) if position is None else position

    def feed(self, event: Event) -> None:
        """Take one event; may close a block."""
        start = perf_counter()
        item = _Open(event)
        try:
            item.record = self.codec.decode(event.data)
            item.key = self.lanes.key_of(event, item.record)
        except DecodeError as error:
            item.letter = self._letter(event, "decode", "undecodable", str(error))
        except BadEvent as error:
            item.letter = self._letter(event, "features", error.issue, str(error))
        self.counts.seconds["decode"] += perf_counter() - start
        if item.letter is None:
            if item.key in self._keys:
                self.close_block()
            self._keys.add(item.key)
        self._open.append(item)
        self._open_positions[event.partition] = event.position
        if len(self._open) >= self.block:
            self.close_block()

    def end_of_poll(self) -> None:
        """The source had nothing more for now."""
        if self.batching == "time":
            self.close_block()

    def drop_open_block(self) -> None:
        """Forget events that no tick has taken in; they are not in `positions`."""
        self._open.clear()
        self._open_positions.clear()
        self._keys.clear()

    def close_block(self) -> None:
        """Run the open block through the learner."""
        block, self._open = self._open, []
        self._open_positions.clear()
        self._keys.clear()
        runs: list[_Run] = []
        start = perf_counter()
        for item in block:
            self.ordinal += 1
            self.mark(self.ordinal)
            if item.record is not None and item.letter is None:
                try:
                    runs.append(self._prepare(item, item.record))
                except BadEvent as error:
                    text = str(error)
                    item.letter = self._letter(item.event, "features", error.issue, text)
        self.counts.seconds["features"] += perf_counter() - start
        for i in range(max((len(run.steps) for run in runs), default=0)):
            self._tick([run for run in runs if len(run.steps) > i], i)
        start = perf_counter()
        self._finish(block, runs)
        self.counts.seconds["emit"] += perf_counter() - start

    # One block ------------------------------------------------------------------------------------

    def _prepare(self, item: _Open, record: Record) -> _Run:
        lane, anew = self.lanes.assign(item.key)
        if anew:
            self._reset_lane(lane)
        return _Run(item, lane, self.task.steps(record, lane))

    def _reset_lane(self, lane: int) -> None:
        lanes_B = torch.zeros(self.lanes.capacity, dtype=torch.bool)
        lanes_B[lane] = True
        self.learner.reset(lanes_B.to(self._device))
        self.task.reset_lane(lane)
        self._pending.pop(lane, None)

    def _tick(self, runs: Sequence[_Run], i: int) -> None:
        """Step i of each run: one pass of the learner."""
        start = perf_counter()
        self._live_np.fill(False)
        self._scored_np.fill(False)
        for run in runs:
            step = run.steps[i]
            self._x_np[run.lane] = step.x
            self._live_np[run.lane] = True
            if step.y is not None:
                self._y_np[run.lane] = step.y
                self._scored_np[run.lane] = True
        frame = Frame(self._x, self._y, self._live, self._scored)
        if self._device.type != "cpu":
            device = self._device
            frame = Frame(
                *(
                    t.to(device, non_blocking=True)
                    for t in (self._x, self._y, self._live, self._scored)
                )
            )
        before = [p.clone() for p in self.learner.parameters()] if self.probe_update else []
        outcome = self.learner.step(frame)
        if self.probe_update:
            self.update_ratio = _moved(before, self.learner.parameters())
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
        self.on_tick(_tick_of(outcome, seconds))

    def _score(self, run: _Run, i: int, outputs: list[float]) -> None:
        """Score the prediction that fell due at this step, and keep the new one."""
        step = run.steps[i]
        natural = self.task.natural(outputs, step)
        last = i == len(run.steps) - 1
        this_id = self._id(run.open.event) + ("" if last else f"#{i}")
        due: tuple[str, list[float]] | None
        if self.task.horizon == 0:
            due = (this_id, natural)
        else:
            pending = self._pending.setdefault(run.lane, deque())
            due = pending.popleft() if len(pending) >= self.task.horizon else None
            pending.append((this_id, natural))
        if last:
            run.prediction = self.task.publish(natural, step)
        if step.target is None:
            return
        loss = self.task.score(run.lane, None if due is None else due[1], step.target)
        if due is not None and loss is not None:
            self.counts.scored += 1
            run.losses.append(loss)
            if self.drift is not None:
                self.drift.update(loss)
            if self.on_score is not None:
                self.on_score(due[1], step.target, loss)
            run.scored_id, run.scored_target = due[0], step.target

    def _finish(self, block: Sequence[_Open], runs: Sequence[_Run]) -> None:
        """Predictions, dead letters and positions, in the order of the events."""
        by_event = {id(run.open): run for run in runs}
        first = self.ordinal - len(block) + 1
        for ordinal, item in enumerate(block, first):
            run = by_event.get(id(item))
            if run is not None and run.rejected:
                reason = "the step came out non-finite or absurd; nothing was learned from it"
                item.letter = self._letter(item.event, "learn", "unsound", reason)
            if item.letter is not None:
                self.counts.rejected[item.letter["stage"]] += 1
                self.letters.append(item.letter)
            elif run is not None:
                self.counts.applied += 1
                replayed = ordinal <= self.replayed_until
                self.counts.replayed += replayed
                self.outputs.append(self._output(run, replayed))
                self.counts.predictions += 1
            self.positions[item.event.partition] = item.event.position

    def _output(self, run: _Run, replayed: bool) -> Record:
        event = run.open.event
        scored = None
        if run.scored_id is not None and run.scored_target is not None:
            scored = {
                "id": run.scored_id,
                "target": self.task.publish_target(run.scored_target),
                "loss": sum(run.losses) / len(run.losses),
            }
            if len(run.losses) > 1:
                scored["n"] = len(run.losses)
        return {
            "id": self._id(event),
            "key": run.open.key,
            "partition": event.partition,
            "position": event.position,
            "prediction": run.prediction,
            "step": self.step,
            "replayed": replayed,
            "scored": scored,
        }

    def _id(self, event: Event) -> str:
        name = f"{event.partition}:{event.position}"
        return f"{self.source}/{name}" if self.source else name

    def _letter(self, event: Event, stage: str, issue: str, reason: str) -> Record:
        kept = event.data[: self.keep_bytes]
        return {
            "id": self._id(event),
            "partition": event.partition,
            "position": event.position,
            "stage": stage,
            "issue": issue,
            "reason": reason,
            "key": None if event.key is None else event.key[:MAX_CHARS],
            "timestamp": event.timestamp,
            "size_bytes": len(event.data),
            "sha256": hashlib.sha256(event.data).hexdigest(),
            "data_base64": base64.b64encode(kept).decode("ascii"),
        }

    # State ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything on the host that influences the future: plain values, JSON-able."""
        return {
            "step": self.step,
            "ordinal": self.ordinal,
            "task": self.task.state_dict(),
            "lanes": self.lanes.state_dict(),
            "pending": {str(lane): list(queue) for lane, queue in self._pending.items()},
            "drift": None if self.drift is None else self.drift.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; raises ValueError or KeyError on another model's."""
        self.step, self.ordinal = int(state["step"]), int(state["ordinal"])
        self.task.load_state_dict(state["task"])
        self.lanes.load_state_dict(state["lanes"])
        self._pending = {
            int(lane): deque((str(name), [float(v) for v in values]) for name, values in queue)
            for lane, queue in state["pending"].items()
        }
        if self.drift is not None and state["drift"] is not None:
            self.drift.load_state_dict(state["drift"])


@contextmanager
def numerics() -> Iterator[None]:
    """The numeric contract of the thread that learns: denormal numbers, which are slow, are 0.

    It is a mode of the processor, which other work on the thread must get back as it was.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _moved(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    """|after - before| / |after| over all parameters."""
    moved = sum(float((b - a).square().sum()) for a, b in zip(before, after, strict=True))
    size = sum(float(b.square().sum()) for b in after)
    return (moved / size) ** 0.5 if size else 0.0


def _tick_of(outcome: Outcome, seconds: float) -> Tick:
    learned = int(outcome.learned_B.sum())
    restarted = int(outcome.restarted_B.sum())
    refused = False
    if outcome.updated is not None and learned and not restarted:
        refused = not bool(outcome.updated)
    return Tick(seconds, learned, restarted, refused, locked=outcome.updated is None)
