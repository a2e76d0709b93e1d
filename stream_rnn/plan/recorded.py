"""A tick in torch, recorded once it is known to repeat itself, and played from then on.

The kernels, their order and the memory they work on are those of `Learner.step`, so the results are
the same to the bit; what falls away is Python, the launches (a CUDA graph is one), and allocations.

Axes: T ticks, B lanes, I inputs, P outputs, Q targets.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor

from stream_rnn.credit import Fallback, Tbptt
from stream_rnn.credit.base import Noisy
from stream_rnn.head import Head
from stream_rnn.lane_state import without
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.plan.buffers import Buffers
from stream_rnn.plan.graph import Graph
from stream_rnn.plan.outcomes import Ticked
from stream_rnn.plan.parts import (
    Parts,
    Rows,
    dense_layers,
    inner_of,
    locked_rule,
    settings_of,
    states_of,
)
from stream_rnn.plan.tape import Tape
from stream_rnn.recurrence import Dense, Recurrence, Stack
from stream_rnn.update import Update

if TYPE_CHECKING:
    from stream_rnn.frame import Outcome

Step: TypeAlias = "Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Outcome]"
"""A tick in torch, of x (B, I), y (B, Q), live (B,), scored (B,) and weights (B,) or None."""
Taken = tuple[Ticked, int, int, bool]
"""What the ticks gave: the rows from .. up to .., and whether W had to wait in all of them."""

ROWS = 64
"""Ticks between two looks at the device, at most."""
BEFORE = {"cuda": 2, "cpu": 500}
"""Ticks that go by in torch before one is recorded: what is made at first use is made in them.

Listening to a tick on a processor costs about twenty of them: nothing for a process that has just
come up, and is perhaps about to be killed again.
"""
LONGEST = 1 << 12
"""Likewise at most where recordings keep being outdated."""

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Keeps a tick: a `Graph`, or a `Tape` on the host."""

    is_whole: bool

    def record(self, tick: Callable[[], None]) -> None:
        """Let `tick` happen, and keep it."""

    def play(self) -> None:
        """Let it happen once more."""

    def drawn(self, draw: Callable[[], Tensor]) -> Tensor:
        """What `draw` gives, anew each time."""


class Recorded:
    """One learner's recorded ticks; made by `plan_for`.

    Args:
        parts: the learner's, `recordable`.
        step: their tick.
        outdated: what this takes the place of.

    Attributes:
        takes_runs: whether several ticks in one `run` cost less than each by itself; not on a
            processor, where the loop had better know after each how far it has come.
    """

    def __init__(self, parts: Parts, step: Step, outdated: Recorded | None = None) -> None:
        self._parts = parts
        self._step = step
        self.takes_runs = parts.head.V_PF.device.type != "cpu"
        # held, so that no other tensor comes to be where one of them was
        self._tensors, self._settings = _state_of(parts)
        first = BEFORE[parts.head.V_PF.device.type]
        self._wait: int = first if outdated is None else min(2 * outdated._wait, LONGEST)
        self._left = self._wait
        self._locked = locked_rule(parts.recurrence)
        # by whether nothing is taught, whether losses have weights, and whether W has to wait
        self._films: dict[tuple[bool, bool, bool], Film | None] = {}

    def fits(self, parts: Parts) -> bool:
        """Whether everything is where it was, and as it was, when the recording was made."""
        if parts != self._parts:
            return False
        tensors, settings = _state_of(parts)
        if len(tensors) != len(self._tensors) or settings != self._settings:
            return False
        return all(map(operator.is_, tensors, self._tensors))

    def step(self, rows: Rows, frozen: bool) -> tuple[Ticked, bool] | None:
        """One tick, of rows without T, and whether W had to wait in it.

        None: it is to be taken in torch.
        """
        x_BI, y_BQ, live_B, scored_B, weight_B = rows
        weight_TB = None if weight_B is None else weight_B[None]
        taken = self.run(
            (x_BI[None], y_BQ[None], live_B[None], scored_B[None], weight_TB), 0, 1, frozen
        )
        if taken is None:
            return None
        ticked, _, _, waits = taken
        return Ticked(*(each[0] for each in ticked)), waits

    def peek(self, rows: Rows, t: int) -> None:
        """None: what would be predicted is asked of torch."""

    def run(self, rows: Rows, start: int, end: int, frozen: bool) -> Taken | None:
        """Ticks from `start` on, at most up to `end`, as many as differ in their rows alone."""
        if not self._takes(rows):
            return None
        if self._left:
            self._left -= 1
            return None
        n = min(end - start, ROWS, _unseen_ticks(self._parts.recurrence))
        waits = False
        if self._locked is not None:
            n, waits = min(n, self._locked.calm_ticks()), not self._locked.pays_next()
        coming = [each[start : start + n] for each in rows if each is not None]
        kind = frozen, rows[-1] is not None, waits
        if kind in self._films:
            film = self._films[kind]
            return None if film is None else film.show(coming)
        film = Film(self._parts, self._step, weighted=kind[1])
        taken = film.take(coming)
        self._films[kind] = film if film.is_usable else None
        return taken

    def _takes(self, rows: Rows) -> bool:
        """Whether they are what was recorded; of others torch says what is wrong with them."""
        x, y, live, scored, weight = rows
        recurrence, head = self._parts.recurrence, self._parts.head
        V_PF, B = head.V_PF, recurrence.n_lanes
        if weight is not None and (weight.dtype is not V_PF.dtype or weight.shape != live.shape):
            return False
        given = [each for each in rows if each is not None]
        return (
            x.dtype is y.dtype is V_PF.dtype
            and live.dtype is scored.dtype is torch.bool
            and x.shape[1:] == (B, recurrence.n_inputs)
            and y.shape[1:] == (B, head.loss_function.n_targets)
            and live.shape == scored.shape == x.shape[:2]
            and len(y) == len(x)
            and all(each.device == V_PF.device for each in given)
        )


class Film:
    """A tick on rows that stay in place, numbered by a counter on the device.

    A tick after one that whoever watches must hear of at once (credit that restarted, an update
    that was refused) finds no lane live: nothing moves, and it is taken again in the next run.

    Attributes:
        is_usable: whether the recording may be played.
    """

    def __init__(self, parts: Parts, step: Step, weighted: bool) -> None:
        recurrence, head = parts.recurrence, parts.head
        loss, like = head.loss_function, head.V_PF
        B = recurrence.n_lanes
        self.is_usable = False
        self._step = step
        self._recurrence = recurrence
        self._watched = list(_objects(parts))
        self._noisy = [each for each in self._watched if isinstance(each, Noisy)]
        self._locked = locked_rule(recurrence)
        self._pays = self._locked is None or self._locked.pays_next()
        # layers may share one
        self._generators = list(dict.fromkeys(rule.generator for rule in self._noisy))
        weights = [(B,)] if weighted else []
        self._numbers = Buffers(ROWS, like, (B, recurrence.n_inputs), (B, loss.n_targets), *weights)
        self._flags = Buffers(ROWS, like.bool(), (B,), (B,))
        self._given_numbers = Buffers(ROWS, like, (B, loss.n_outputs), (B,))
        self._given_flags = Buffers(ROWS, like.bool(), (B,), (B,), (B,), ())
        self._at = torch.zeros(1, dtype=torch.int64, device=like.device)
        self._taken = torch.zeros_like(self._at)
        self._is_over = like.new_zeros((), dtype=torch.bool)
        self._waits = False
        self._left_behind: list[tuple[dict[str, Any], str, object]] = []
        self._on_host = like.device.type == "cpu"
        self._recorder: Recorder = Tape() if self._on_host else Graph(like.device, self._generators)

    @torch.no_grad()
    def take(self, rows: Sequence[Tensor]) -> Taken | None:
        """Record the first tick of these rows, which happens; None: it did not, nor will it."""
        self._load([each[:1] for each in rows])
        before = [dict(vars(each)) for each in self._watched]
        try:
            with ExitStack() as stack:
                for rule in self._noisy:
                    stack.enter_context(rule.signs_through(self._recorder.drawn))
                stack.enter_context(_unwatched(self._recurrence))
                self._recorder.record(self._tick)
        except RuntimeError as error:
            if self._on_host:
                raise
            # a capture that failed has run no kernel: as if nothing had been
            for each, was in zip(self._watched, before, strict=True):
                vars(each).update(was)
            _log.warning("a tick cannot be captured, each will be launched anew: %s", error)
            return None
        self.is_usable = self._recorder.is_whole
        for each, was in zip(self._watched, before, strict=True):
            for name, value in vars(each).items():
                if value is was.get(name) or (each is self._locked and name == Tbptt.COUNTED):
                    continue
                if _is_of_tensors(value):
                    self._left_behind.append((vars(each), name, value))
                elif value != was.get(name):  # who counts ticks in Python would count none played
                    self.is_usable = False
        return self._told(1)

    @torch.no_grad()
    def show(self, rows: Sequence[Tensor]) -> Taken:
        """Play the ticks of these rows, up to one that must be heard of at once.

        What the rules and updates report is then of the last tick played; on a GPU that may be one
        behind it, in which nothing was live.
        """
        n = len(rows[0])
        self._load(rows)
        states = [] if self._on_host else [each.get_state() for each in self._generators]
        for _ in range(n):
            self._recorder.play()
            if self._on_host and n > 1 and bool(self._is_over):
                break
        for owner, name, value in self._left_behind:
            owner[name] = value
        taken = int(self._taken) if n > 1 else 1  # the one look at the device
        if self._locked is not None:
            self._locked.passed(taken, self._pays)
        if taken < n:
            for generator, before in zip(self._generators, states, strict=False):
                generator.set_state(drawn_for(before, generator.get_state(), taken, n))
        return self._told(taken)

    def _load(self, rows: Sequence[Tensor]) -> None:
        x_TBI, y_TBQ, live_TB, scored_TB, *weights = rows
        self._numbers.load(x_TBI, y_TBQ, *weights)
        self._flags.load(live_TB, scored_TB)
        self._at.zero_()
        self._taken.zero_()
        self._is_over.zero_()

    def _tick(self) -> None:
        x_BI, y_BQ, *weights = self._numbers.row(self._at)
        live_B, scored_B = self._flags.row(self._at)
        weight_B = weights[0] if weights else None
        outcome = self._step(x_BI, y_BQ, without(live_B, self._is_over), scored_B, weight_B)
        self._waits = outcome.updated is None
        is_over = outcome.restarted_B.any()
        updated = torch.zeros_like(is_over) if outcome.updated is None else outcome.updated
        if not self._waits:
            is_over = is_over | without(outcome.learned_B.any(), updated)
        self._given_numbers.put(self._at, outcome.prediction_BP, outcome.loss_B)
        self._given_flags.put(
            self._at, outcome.learned_B, outcome.rejected_B, outcome.restarted_B, updated
        )
        self._taken += ~self._is_over
        self._is_over |= is_over
        self._at += 1

    def _told(self, n: int) -> Taken:
        for layer in dense_layers(self._recurrence):
            if layer.fidelity is not None:
                layer.fidelity.pass_over(n)
        given = (*self._given_numbers.copies(n), *self._given_flags.copies(n))
        return Ticked(*given), 0, n, self._waits


def drawn_for(before: Tensor, after: Tensor, taken: int, n: int) -> Tensor:
    """The state of a GPU's generator once `taken` of `n` like ticks have drawn from it.

    Its last eight bytes are how far it has come.
    """
    first, last = (int(state[-8:].clone().view(torch.int64)) for state in (before, after))
    place = torch.tensor([first + (last - first) // n * taken])
    return torch.cat((after[:-8], place.view(torch.uint8)))


def _objects(parts: Parts) -> Iterator[Recurrence | Head | Update | Any]:
    """All that a tick may leave something behind in."""
    layers = parts.recurrence.layers if isinstance(parts.recurrence, Stack) else ()
    for recurrence in (parts.recurrence, *layers):
        yield recurrence
        if isinstance(recurrence, Dense):
            yield recurrence.credit
            if isinstance(recurrence.credit, Fallback):
                yield recurrence.credit.active
    yield parts.head
    for update in (parts.update, parts.head_update):
        yield update
        if inner_of(update) is not update:
            yield inner_of(update)


def _state_of(parts: Parts) -> tuple[list[Tensor], list[object]]:
    """All tensors of the state, and what else a tick depends on."""
    recurrence, head = parts.recurrence, parts.head
    tensors = [*recurrence.parameters(), *recurrence.lane_state.values(), head.V_PF]
    settings: list[object] = [head.loss_function]
    if isinstance(head, LeastSquaresHead):
        tensors += [head.C_FF, head.size_P]
        settings += [head.forgetting, head.prior, head.reach]
    if isinstance(recurrence, Stack):
        settings.append(recurrence.owes)
    for update in (parts.update, parts.head_update):
        for state in states_of(update):
            tensors += state.values()
        settings.append(settings_of(update))
    rules = [each for each in _objects(parts) if isinstance(each, Fallback)]
    settings += [(rule.level, rule.owes_from_before) for rule in rules]
    return tensors, settings


def _unseen_ticks(recurrence: Recurrence) -> int:
    probes = [layer.fidelity for layer in dense_layers(recurrence) if layer.fidelity is not None]
    return max(min((probe.unseen_ticks for probe in probes), default=ROWS), 1)


@contextmanager
def _unwatched(recurrence: Recurrence) -> Iterator[None]:
    """Without the probes that count ticks: they are told of them."""
    layers = dense_layers(recurrence)
    probes = [layer.fidelity for layer in layers]
    for layer in layers:
        layer.fidelity = None
    try:
        yield
    finally:
        for layer, probe in zip(layers, probes, strict=True):
            layer.fidelity = probe


def _is_of_tensors(value: object) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return all(_is_of_tensors(each) for each in value)
    return value is None or isinstance(value, Tensor)
