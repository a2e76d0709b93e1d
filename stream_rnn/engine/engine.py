"""Events -> predictions: decode, lay out ticks, step the learner, score what fell due.

Nothing here reads a clock that influences anything, opens a connection or writes a file. A *block*
is what one tick takes in: with `batching = "event"` one event, else several events of different
lanes. A *run* is several blocks that are learned together, in order and in the same bits as one by
one. Nothing that learns is touched before a run is complete, so what waits can be dropped at any
time and will come again.

Longer than most: the whole way of an event through one tick can be read in one place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from time import perf_counter
from typing import Any

from torch import Tensor

from stream_rnn.engine.attempts import Attempts, Unwatched
from stream_rnn.engine.block import NOWHERE, Item, OpenBlock
from stream_rnn.engine.frames import Frames, Tick, moved, payment_of, ticks_of
from stream_rnn.engine.laid import Laid, Stretch, Turn
from stream_rnn.engine.lines import Lines
from stream_rnn.engine.pending import Scored
from stream_rnn.engine.run import MOST_NUMBERS, Run, Waiting
from stream_rnn.engine.scoring import Scoring
from stream_rnn.features.saved import count
from stream_rnn.features.values import BadEvent
from stream_rnn.lanes import Batching, Lanes
from stream_rnn.learner import Learner
from stream_rnn.scores import Drift
from stream_rnn.spi import Codec, DecodeError, Event, Position, Record
from stream_rnn.tasks import Task

MANY = 4  # events: fewer are laid out one by one
NEWEST = 128  # scored predictions that are remembered, for who looks in later
STAGES = ("decode", "features", "step", "emit")
MOST_WARM_UP = 64  # steps, however far ahead is forecast

Unread = DecodeError | BadEvent


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
        on_events: told of events, in order: of each the stage that refused it, or None.
        on_tick: told of each tick, between two of them; may move the fallback ladder. Of several
            at once, all but the last of a piece of a run, if nothing happened in them.
        on_score: told of each scored prediction: the prediction, its target, its loss and the
            stream it is of ("": the only one). The task's scores are by then those of the end of
            the run.
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
        on_events: Callable[[Sequence[str | None]], None] = lambda refused: None,
        on_tick: Callable[[Tick], None] = lambda tick: None,
        on_score: Callable[[list[float], list[float] | int, float, str], None] | None = None,
        drift: Drift | None = None,
    ) -> None:
        self.codec = codec
        self.task = task
        self.lanes = lanes
        self.learner = learner
        self.batching = batching
        self.replayed_until = replayed_until
        self.attempts: Attempts = Unwatched() if attempts is None else attempts
        self.on_events = on_events
        self.on_tick = on_tick
        self.on_score = on_score
        self.drift = drift
        self.most_ticks: Callable[[], int] = lambda: 1  # that nobody must hear of one by one
        self.stops_every: int | None = None  # events: a run ends where their count is a multiple
        self.probe_update = False  # ask for `update_ratio` of the next tick
        self.update_ratio: float | None = None
        self.counts = Counts()
        self.step = 0  # ticks learned in the whole life of the model
        self.ordinal = 0  # events attempted in the whole life of the model
        self.positions: dict[str, int | str] = {}
        self.outputs: list[Record] = []
        self.letters: list[Record] = []
        self.newest_scored: deque[Scored] = deque(maxlen=NEWEST)
        size = 1 if batching == "event" else min(block or lanes.capacity, lanes.capacity)
        self._open = OpenBlock(size)
        self._lines = Lines(task, source, keep_bytes)
        self._scoring = Scoring(task, self._lines, self._note)
        self.learn_in_runs(1)
        self._laid: list[Laid] = []  # what the coming ticks are, in order
        self._n_laid = 0  # ticks
        self._laid_lanes: set[int] = set()
        self._anew: list[int] = []  # lanes that begin anew with the next tick

    def learn_in_runs(self, most: int) -> None:
        """Learn up to `most` blocks together from now on, where the learner takes several at once.

        Who asks for more than one calls `end_of_poll` whenever no event comes for now.
        """
        learner, lanes, task = self.learner, self.lanes, self.task
        numbers = lanes.capacity * max(task.inputs, learner.head.V_PF.shape[0])
        ticks = max(1, min(most, MOST_NUMBERS // numbers))
        self._waiting = Waiting(ticks, lambda: learner.takes_runs)
        weighted = task.weight is not None
        self._frames = Frames(learner, lanes.capacity, task.inputs, weighted, ticks)

    @property
    def at_boundary(self) -> bool:
        """Whether no event waits: a snapshot taken now is exactly `positions`."""
        return not self._waiting.events and not self._open.positions

    @property
    def fed(self) -> int:
        """Events taken in the whole life of the model, those that wait included."""
        return self.ordinal + self._waiting.events + len(self._open)

    def last_fed(self, partition: str) -> int | str | None:
        """Position of the partition's newest event, be it one that waits."""
        for positions in (self._open.positions, self._waiting.positions, self.positions):
            position = positions.get(partition)
            if position is not None:
                return position
        return None

    @property
    def block_size(self) -> int:
        """Events in a block, at most."""
        return self._open.size

    def feed_many(self, events: Sequence[Event], at: int = 0) -> int:
        """Take events from place `at` on, as many as come to a boundary together, at least one.

        Returns:
            The place behind them.
        """
        is_lone = len(events) == 1 and not self._waiting.events
        begins = not is_lone and self._waiting.begins()  # a run of one is begun at no cost
        first = self.fed + 1
        n = self._together(first, len(events) - at) if self._open.size == 1 else 0
        if not n:
            self._feed(events[at], begins)
            return at + 1
        start = perf_counter()
        events = events[at : at + n]
        self.attempts.decoding(first, events[0], n)
        items = self._read_together(events)
        if begins:
            self.attempts.decoded()
        self.counts.seconds["decode"] += perf_counter() - start
        positions = {event.partition: event.position for event in events[: len(items)]}
        is_complete = self._waiting.add(items, [1] * len(items), positions)
        self._wait(is_complete or items[-1].ends)
        return at + len(items)

    def _together(self, first: int, n: int) -> int:
        """How many of n events, from ordinal `first` on, may be decoded and wait together.

        0: the first one must be looked at by itself.
        """
        n = min(n, self._waiting.room)
        if self.stops_every is not None:
            n = min(n, self.stops_every - (first - 1) % self.stops_every)
        return self.attempts.together(first, n)

    def _read_together(self, events: Sequence[Event]) -> list[Item]:
        """Up to the last of an episode, whose lane starts anew behind it."""
        items: list[Item] = []
        if self.lanes.end is not None:
            for event in events:
                item = Item(event)
                items.append(item)
                self._read(item)
                if item.ends:
                    break
            return items
        records, errors = self._decode_all(events)
        if not errors:
            try:
                return list(map(Item, events, records, self.lanes.keys_of(events, records)))
            except BadEvent:
                pass  # which of them it is comes out below
        for i, (event, record) in enumerate(zip(events, records, strict=True)):
            item = Item(event)
            items.append(item)
            if i in errors:
                self._refuse_unread(item, errors[i])
            else:
                self._take_record(item, record)
        return items

    def _decode_all(self, events: Sequence[Event]) -> tuple[list[Record], dict[int, Unread]]:
        """The record of each, and by its place why an event has none; the codec sees each once."""
        records: list[Record] = []
        errors: dict[int, Unread] = {}
        data = map(attrgetter("data"), events)
        while True:
            try:
                records.extend(map(self.codec.decode, data))  # those before an error are kept
                return records, errors
            except (DecodeError, BadEvent) as error:
                errors[len(records)] = error
                records.append({})

    def feed(self, event: Event) -> None:
        """Take one event; may close a block, and learn what waits."""
        self._feed(event, self._waiting.begins())

    def _feed(self, event: Event, begins: bool) -> None:
        """`begins`: what `Waiting.begins` said just now."""
        start = perf_counter()
        ordinal = self.fed + 1
        attempts, block = self.attempts, self._open
        is_alone, by_block = attempts.is_alone(ordinal), attempts.is_suspect(ordinal)
        if by_block:
            self.learn_waiting()
            begins = self._waiting.begins()
        may_wait = (begins and not by_block) or block.size > 1
        item = self._decoded(ordinal, event, may_wait)
        self.counts.seconds["decode"] += perf_counter() - start
        if is_alone:
            self.close_block()
        elif not block.has_room_for(item):
            self._close(by_block)
        block.add(item)
        if is_alone or block.is_full:
            self._close(is_alone or by_block)

    def _decoded(self, ordinal: int, event: Event, may_wait: bool) -> Item:
        item = Item(event)
        reason = self.attempts.poison(ordinal, event)
        if reason is not None:
            item.letter = self._lines.letter(event, "poison", "killed", reason)
            return item
        self.attempts.decoding(ordinal, event)
        self._read(item)
        if may_wait:
            self.attempts.decoded()
        return item

    def _read(self, item: Item) -> None:
        try:
            record = self.codec.decode(item.event.data)
        except (DecodeError, BadEvent) as error:
            self._refuse_unread(item, error)
        else:
            self._take_record(item, record)

    def _refuse_unread(self, item: Item, error: Unread) -> None:
        if isinstance(error, DecodeError):
            item.letter = self._lines.letter(item.event, "decode", "undecodable", str(error))
        else:
            item.letter = self._refused(item.event, error)

    def _take_record(self, item: Item, record: Record) -> None:
        item.record = record
        try:
            item.key = self.lanes.key_of(item.event, record)
            item.ends = self.lanes.ends(record)
        except BadEvent as error:
            item.letter = self._refused(item.event, error)

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
        block = frames.block(frames.ticks)
        for _ in range(min(learner.horizon, MOST_WARM_UP) + 1):
            learner.run(block, 0, 1).prediction_TBP.cpu()  # sync: an assertion shows now
        learner.run(block).prediction_TBP.cpu()
        frames.clear()
        learner.load_state_dict(kept)

    def end_of_poll(self) -> None:
        """The source had nothing more for now."""
        if self.batching == "time":
            self.close_block()
        else:
            self.learn_waiting()

    def drop_open_block(self) -> None:
        """Forget events that no tick has taken in; they are not in `positions`."""
        self._open.take()
        self._waiting.take()

    def close_block(self) -> None:
        """Run the open block, and what waits before it, through the learner."""
        self._close(at_once=True)

    def _close(self, at_once: bool) -> None:
        """Let the open block wait for its run, and learn that if it is complete."""
        if self._open:
            positions = dict(self._open.positions)
            block = self._open.take()
            is_over = any(item.ends for item in block)
            at_once |= self._waiting.add(block, [len(block)], positions) or is_over
        self._wait(at_once)

    def _wait(self, at_once: bool) -> None:
        """For the rest of the run, unless a snapshot is due before, which looks at no clock."""
        every = self.stops_every
        if at_once or (every is not None and self.fed // every > self.ordinal // every):
            self.learn_waiting()

    def learn_waiting(self) -> None:
        """Learn the blocks that wait; the open one stays open."""
        n = self._waiting.events
        if not n:
            return
        run, first = self._waiting.take(), self.ordinal + 1
        self.attempts.learning(first, n, run.items[0].event)
        self.ordinal += n
        self._lay_out(run)
        self._learn_laid()
        if self.lanes.end is not None:
            self._end_episodes(run.last)  # an earlier one would have ended the run
        start = perf_counter()
        if self._open.size > 1:
            for block in run.blocks():  # its events share the newest step of theirs
                step = max(item.step for item in block)
                for item in block:
                    item.step = step
        self.positions.update(run.positions)
        self.on_events(self._finish(first, run.items))
        self.attempts.done(self.ordinal)
        self.counts.seconds["emit"] += perf_counter() - start

    # One run --------------------------------------------------------------------------------------

    def _lay_out(self, run: Run) -> None:
        """Give each event its rows in the coming ticks, in order."""
        start, stepped = perf_counter(), self.counts.seconds["step"]
        if self._open.size == 1 and len(run.items) >= MANY:
            self._lay_out_events(run.items)
        else:
            for block in run.blocks():
                self._lay_out_block(block)
        stepped -= self.counts.seconds["step"]
        self.counts.seconds["features"] += perf_counter() - start + stepped

    def _lay_out_events(self, items: Sequence[Item]) -> None:
        """Events with a tick each: as many at once as are of known keys and nothing special."""
        at, n, ahead = 0, len(items), len(items)
        while at < n:
            usable = [item for item in items[at : at + ahead] if item.letter is None]
            lanes = self.lanes.assign_known([item.key for item in usable])
            done = self._lay_out_known(usable[: len(lanes)], lanes)
            if done == len(usable):
                at, ahead = at + ahead, 2 * ahead
                continue
            at = items.index(usable[done], at)
            self._lay_out_block([items[at]])  # refused, of several steps, or of a new key
            # new keys often come close together: what is behind this one is looked at again
            at, ahead = at + 1, max(MANY, 2 * done)

    def _lay_out_known(self, items: Sequence[Item], lanes: Sequence[int]) -> int:
        """The first of these events that are nothing special; how many."""
        if len(items) < MANY:  # numpy would take longer
            for item in items:
                self._lay_out_block([item])
            return len(items)
        records = [item.record for item in items if item.record is not None]
        steps = self.task.steps_many(records, lanes)
        done = items[: len(steps)]
        if done:
            for item, lane in zip(done, lanes, strict=False):
                item.lane = lane
            self._put(Stretch(done, lanes[: len(done)], steps))
        return len(done)

    def _lay_out_block(self, block: Sequence[Item]) -> None:
        """Step i of each of its events in the i-th of its ticks."""
        laid: list[Item] = []
        for item in block:
            if item.record is not None and item.letter is None:
                try:
                    self._prepare(item, item.record)
                except BadEvent as error:
                    item.letter = self._refused(item.event, error)
                else:
                    laid.append(item)
        for i in range(max([len(item.steps) for item in laid], default=0)):
            self._put(Turn(i, [item for item in laid if len(item.steps) > i]))

    def _put(self, laid: Laid) -> None:
        """Its rows come next."""
        if self._n_laid + laid.ticks > self._frames.ticks:
            self._learn_laid()
        laid.fill(self._frames, self._n_laid)
        self._laid.append(laid)
        self._n_laid += laid.ticks
        self._laid_lanes.update(laid.lanes)

    def _prepare(self, item: Item, record: Record) -> None:
        if self.lanes.find(item.key) is None:
            self.task.check(record)  # what cannot be used takes no lane from another key
        lane, anew = self.lanes.assign(item.key)
        if anew:
            self._reset_lane(lane)
        item.steps = self.task.steps(record, lane)
        item.lane = lane

    def _refused(self, event: Event, error: BadEvent) -> Record:
        return self._lines.letter(event, "features", error.issue, str(error))

    def _reset_lane(self, lane: int) -> None:
        if lane in self._laid_lanes or self.learner.owes(lane):
            self._learn_laid()  # its last events still count for the key that loses it
        self._anew.append(lane)
        self.task.reset_lane(lane)
        self._scoring.reset_lane(lane)

    def _end_episodes(self, block: Sequence[Item]) -> None:
        """Start the lanes anew whose episode ended, also where the last event is of no use."""
        found = [self.lanes.find(item.key) for item in block if item.ends]
        lanes = [lane for lane in found if lane is not None]
        if not lanes:
            return
        lanes_B = self._frames.only(lanes)
        self._pay(lanes_B)
        self.learner.reset(lanes_B)
        for lane in lanes:
            self.task.end_episode(lane)
            self._scoring.reset_lane(lane)

    def pay(self) -> None:
        """Between two ticks: let every lane's update-locked window pay now what it owes."""
        self._pay(self._frames.every())

    def _pay(self, lanes_B: Tensor) -> None:
        start = perf_counter()
        paid = self.learner.pay(lanes_B)
        if paid is not None:
            self.on_tick(payment_of(paid, perf_counter() - start))

    def _learn_laid(self) -> None:
        """The ticks that are laid out, in as few pieces as nobody has to hear of in between."""
        if self._anew:
            self.learner.reset(self._frames.only(self._anew))
            self._anew.clear()
        if not self._laid:
            return
        t, n, start = 0, self._n_laid, perf_counter()
        block = self._frames.block(n)
        while t < n:
            before: list[Tensor] = []
            most = self.most_ticks()
            if self.probe_update:
                before, most = [p.clone() for p in self.learner.parameters()], 1
            outcomes = self.learner.run(block, t, min(n, t + most))
            if self.probe_update:
                self.update_ratio = moved(before, self.learner.parameters())
                self.probe_update = False
            told = outcomes.on_host()  # sync: it is to be published
            seconds = perf_counter() - start
            self.counts.seconds["step"] += seconds
            self._waiting.took(seconds, len(outcomes))
            self.step = self._scoring.take(
                self._laid, t, self.step, told.prediction_TBP, told.rejected_TB
            )
            t += len(outcomes)
            for tick in ticks_of(told, seconds):
                self.on_tick(tick)
            start = perf_counter()
        self._laid.clear()
        self._laid_lanes.clear()
        self._n_laid = 0
        self._frames.clear()

    def _note(self, items: Sequence[Item], settled: Sequence[Scored | None]) -> None:
        scored: list[Scored] = list(filter(None, settled))
        self.counts.scored += len(scored)
        self.newest_scored.extend(scored[-NEWEST:])
        if self.drift is not None:
            self.drift.update_many(list(map(attrgetter("loss"), scored)))
        if self.on_score is not None:
            for item, one in zip(items, settled, strict=True):
                if one is not None:
                    stream = self.lanes.stream_of(item.key)
                    self.on_score(one.prediction, one.target, one.loss, stream)

    def _finish(self, first: int, items: Sequence[Item]) -> list[str | None]:
        """Predictions and dead letters, in the order of the events.

        Args:
            first: ordinal.
            items: learned.

        Returns:
            Of each the stage that refused it, or None.
        """
        counts = self.counts
        for item in items[: max(0, self.replayed_until + 1 - first)]:
            item.replayed = True
        refused = [
            self._refuse(item) if item.lane == NOWHERE or item.rejected else None for item in items
        ]
        used = items
        if refused.count(None) < len(items):
            used = [item for item, stage in zip(items, refused, strict=True) if stage is None]
        self.outputs += self._lines.predictions(used)
        counts.applied += len(used)
        counts.predictions += len(used)
        counts.replayed += list(map(attrgetter("replayed"), used)).count(True)
        for stage in refused:
            if stage is None:
                counts.unsound_in_a_row = 0
            elif stage == "learn":
                counts.unsound_in_a_row += 1
        return refused

    def _refuse(self, item: Item) -> str:
        """Let its dead letter go out; the stage that refused it."""
        if item.rejected:
            reason = "the step came out non-finite or absurd; nothing was learned from it"
            item.letter = self._lines.letter(item.event, "learn", "unsound", reason)
        assert item.letter is not None
        self.letters.append(item.letter)
        stage: str = item.letter["stage"]
        if stage == "features":  # not when it is read: dropped, it comes again
            self.task.features.count(item.letter["issue"])
        self.counts.rejected[stage] += 1
        return stage

    # State ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything on the host that influences the future: plain values, JSON-able."""
        return {
            "step": self.step,
            "ordinal": self.ordinal,
            "task": self.task.state_dict(),
            "lanes": self.lanes.state_dict(),
            "pending": self._scoring.state_dict(),
            "drift": None if self.drift is None else self.drift.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; raises ValueError or KeyError on another model's."""
        self.step, self.ordinal = (count(state[name], name) for name in ("step", "ordinal"))
        self.task.load_state_dict(state["task"])
        self.lanes.load_state_dict(state["lanes"])
        self._scoring.load_state_dict(state["pending"])
        if self.drift is not None and state["drift"] is not None:
            self.drift.load_state_dict(state["drift"])
