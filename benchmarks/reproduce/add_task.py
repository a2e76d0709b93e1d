"""Adding two marked numbers, taken apart: parts, the FPTT regularizer, whole sequences.

Axes: B lanes, I = 2 inputs, T events of a sequence, N units, P outputs, F = N+I+1.

    input   (value uniform in [0, 1], mark)      two marks, one in each half of the sequence
    target  the sum of the two marked values     always saying 1 costs 1/6

`window` is a part, a tenth of a sequence. Every part ends with the loss of the final target times
(p + 1) / P and one update of W, its gradient reaching back to its own beginning; the state is
carried on (Kag & Saligrama 2021; their program's weight, p + 1/P, is a slip of precedence).

    fptt          parts, and the regularizer (docs/algorithms.md 8.3) around Adam
    parts         parts alone
    fptt-events   likewise, every event of a part paying the final target with the part's weight,
    parts-events    the sum of them: a gradient some `window` times larger, and one that begins with
                    what a mark does to the very next output
    regularizer   one loss and one update at the end of the whole sequence, and the regularizer
    bptt          one loss and one update at the end of the whole sequence

A number behind the name of one with the regularizer is its alpha: `fptt-events-0.02`.

A tick of these runs is a sequence in every lane, T `Learner.step`s: what the authors' logs count,
and the same data for all at equal ticks.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import override

from benchmarks.reproduce.blocks import Blocks
from benchmarks.reproduce.experiment import (
    Experiment,
    Point,
    Published,
    Refused,
    Setting,
    Trial,
)
from benchmarks.reproduce.network import generator_of
from stream_rnn.cells import Lstm
from stream_rnn.frame import Frame
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam, Fptt, Update

if TYPE_CHECKING:
    from benchmarks.reproduce.runner import Record

PARTS = 10
ALPHA, BETA = 0.5, 0.5
SOLVED = 0.05  # the authors' mark
TESTED = 256  # sequences


@dataclass(frozen=True)
class Variant:
    """One of them.

    Attributes:
        name: as in the table.
        in_parts: an update at the end of each part, not of the sequence alone.
        is_regularized: FPTT's pull around Adam.
        every_event: a loss at each event, not at the end alone.
        alpha: strength of the pull.
        every: ticks to an "update" of the table, which counts sequences: 1.
    """

    name: str
    in_parts: bool
    is_regularized: bool
    every_event: bool = False
    alpha: float = ALPHA
    every: int = 1


VARIANTS = {
    v.name: v
    for v in (
        Variant("fptt", in_parts=True, is_regularized=True),
        Variant("parts", in_parts=True, is_regularized=False),
        Variant("fptt-events", in_parts=True, is_regularized=True, every_event=True),
        Variant("parts-events", in_parts=True, is_regularized=False, every_event=True),
        Variant("regularizer", in_parts=False, is_regularized=True),
        Variant("bptt", in_parts=False, is_regularized=False),
    )
}


def variant_of(name: str) -> Variant:
    """The variant called `name`, or `name` and an alpha; raises Refused with what is known."""
    stem, _, alpha = name.rpartition("-")
    if name in VARIANTS:
        return VARIANTS[name]
    variant, is_number = VARIANTS.get(stem), re.fullmatch(r"\d+(\.\d+)?", alpha)
    if variant and variant.is_regularized and is_number and float(alpha) > 0:
        return replace(variant, name=name, alpha=float(alpha))
    raise Refused(
        f"--rules: unknown rule {name[:40]!r}; known: {', '.join(VARIANTS)}, and those with a "
        "regularizer with an alpha behind them, as in fptt-events-0.02"
    )


def sequences(n_lanes: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs (T, B, 2) and targets (B, 1) of one sequence in each lane."""
    value_TB = torch.rand(T, n_lanes, generator=generator)
    mark_TB, lanes = torch.zeros(T, n_lanes), torch.arange(n_lanes)
    half = T // 2
    for first, end in ((0, half), (half, T)):
        mark_TB[torch.randint(first, end, (n_lanes,), generator=generator), lanes] = 1
    return torch.stack((value_TB, mark_TB), dim=2), (value_TB * mark_TB).sum(0)[:, None]


class AtTheEnd(Update):
    """Adds up `n` gradients for one step of the inner update: the read-out's, moving with W.

    Nothing of the sum is in a checkpoint, which stands between two sequences.
    """

    def __init__(self, inner: Update, n: int) -> None:
        super().__init__(inner.lr, clip=None)
        self.inner, self._n, self._seen = inner, n, 0
        self._sums: list[Tensor] = []

    @override
    def _initial_state(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        return self.inner.fresh_state(params)

    @override
    def _step(self, params: Sequence[Tensor], grads: Sequence[Tensor], ok: Tensor) -> None:
        self._seen += 1
        added = zip(self._sums, grads, strict=True) if self._sums else ()
        self._sums = [a + b for a, b in added] or list(grads)
        if self._seen % self._n == 0:
            self.inner.step(params, self._sums, ok)
            self._sums = []

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return self.inner.state_dict()

    @override
    def load_state_dict(self, params: Sequence[Tensor], state: Mapping[str, Tensor]) -> None:
        self.inner.load_state_dict(params, state)


class AddTrial(Trial):
    """A learner on the add task, as far as it has come; between two sequences."""

    def __init__(self, setting: Setting, rule: str, seed: int, device: str) -> None:
        variant = variant_of(rule)
        self.T = PARTS * setting.window
        self.stride = setting.window if variant.in_parts else self.T
        self._every = 1 if variant.every_event else self.stride
        generator = generator_of(seed, 0)
        cell, loss = Lstm(2, setting.units), SquaredError()
        W_ZM = cell.initial_weight(generator).float()
        V_PF = initial_readout(setting.units, 2, loss, generator).float()
        credit = Blocks(cell, setting.lanes, self.stride)

        def update(clip: float | None) -> Update:
            adam = Adam(setting.lr, clip=clip)
            return Fptt(adam, alpha=variant.alpha, beta=BETA) if variant.is_regularized else adam

        self.learner = Learner(
            Dense(cell, credit, W_ZM.to(device)),
            Head(setting.units, 2, loss, V_PF.to(device), reads_inputs=False),
            update(setting.clip),
            AtTheEnd(update(None), self.stride) if variant.every_event else update(None),
        )
        self._generator = generator_of(seed, 2)
        self._n_lanes = setting.lanes
        self._device = device
        self._all_B = torch.ones(setting.lanes, dtype=torch.bool, device=device)
        # other sequences than any that is learned; the same for every seed
        x_TBI, y_BQ = sequences(TESTED, self.T, torch.Generator().manual_seed(-1))
        self._test = x_TBI.to(device), y_BQ.to(device)

    @override
    def tick(self) -> None:
        """One sequence in every lane, from a zero state."""
        self.learner.reset(self._all_B)
        x_TBI, y_BQ = sequences(self._n_lanes, self.T, self._generator)
        x_TBI, y_BQ = x_TBI.to(self._device), y_BQ.to(self._device)
        none_B, weight_B = torch.zeros_like(self._all_B), torch.ones_like(y_BQ[:, 0])
        for t, x_BI in enumerate(x_TBI, 1):
            scored_B = none_B if t % self._every else self._all_B
            end = math.ceil(t / self.stride) * self.stride  # of its part
            self.learner.step(Frame(x_BI, y_BQ, self._all_B, scored_B, weight_B * (end / self.T)))

    @override
    def set_lr(self, lr: float) -> None:
        for update in (self.learner.update, self.learner.head_update):
            (update.inner if isinstance(update, Fptt | AtTheEnd) else update).lr = lr

    @override
    def point(self) -> Point:
        with self.learner.evaluation_weights():
            averaged = self.test_error()
        return {"mse": self.test_error(), "mse_mean_weights": averaged}

    @torch.no_grad()
    def test_error(self) -> float:
        """Mean squared error at the end of sequences never learned."""
        recurrence, head = self.learner.recurrence, self.learner.head
        assert isinstance(recurrence, Dense)
        cell, W_ZM = recurrence.cell, recurrence.W_ZM
        x_TBI, y_BQ = self._test
        s_BS = W_ZM.new_zeros(TESTED, cell.n_state)
        for x_BI in x_TBI:
            s_BS, _ = cell.step(W_ZM, x_BI, s_BS)
        o_BP = head.predict(s_BS[:, : cell.n_units], x_TBI[-1])
        return float(head.loss_function.evaluate(o_BP, y_BQ)[0].mean())

    @override
    def task_state(self) -> dict[str, Tensor]:
        return {"generator": self._generator.get_state()}

    @override
    def load_task_state(self, state: Mapping[str, Tensor]) -> None:
        self._generator.set_state(state["generator"])


class AddTask(Experiment):
    """Squared error on new sequences."""

    title = "Add task"
    metric, label, digits = "mse", "test MSE (always saying 1: 0.167)", 4
    sizes = {  # noqa: RUF012
        "small": Setting(
            units=32,
            lanes=128,
            lr=3e-3,
            clip=1.0,
            rank=1,
            window=10,
            updates=1000,
            record_every=10,
            marks=(250, 500, 1000),
            rules=tuple(VARIANTS),
            seeds=(0, 1),
        ),
        "full": Setting(
            units=128,
            lanes=128,
            lr=1e-3,
            clip=1.0,
            rank=1,
            window=100,
            updates=10_000,
            record_every=20,
            marks=(1000, 2000, 5000, 10_000),
            rules=("fptt", "parts"),
            seeds=(0, 1),
        ),
    }
    takes = {"small": "13 min", "full": "13 h"}  # noqa: RUF012
    published = {  # noqa: RUF012
        "full": (
            Published("FPTT, logs of sFPTT (first < 0.05 after 1,580)", {10_000: (0.0015,)}),
            Published("BPTT, logs of sFPTT", {10_000: (0.166,)}),
        )
    }

    def __init__(self, data: Path | None) -> None:
        if data is not None:
            raise Refused(f"--data: the add task makes its own data, got {data}; leave it out")

    @override
    def rule(self, name: str, setting: Setting) -> Variant:
        return variant_of(name)

    @override
    def start(self, setting: Setting, rule: str, seed: int, device: str) -> Trial:
        return AddTrial(setting, rule, seed, device)

    @override
    def caption(self, setting: Setting) -> str:
        T = PARTS * setting.window
        return (
            f"T = {T}, LSTM {setting.units}, Adam {setting.lr:.2e}, clip {setting.clip or 'none'}; "
            f"an update counted here is a batch of {setting.lanes} sequences. fptt and parts make "
            f"{PARTS} steps of Adam in each, every {setting.window} events on the final target "
            f"with a weight of 0.1, 0.2 .. 1 (-events: at each of them); regularizer and bptt make "
            f"one, at the end. "
            f"With the regularizer: alpha {ALPHA} if none is named, beta {BETA}."
        ) + (
            f" Over the last {setting.falling:,} batches the learning rate falls to zero."
            if setting.falling
            else ""
        )

    @override
    def notes(self, records: Sequence[Record]) -> list[str]:
        """When each seed was solved, the mean over the last 5 % as in the logs, and with W's mean.

        Solved at a point of the curve, so to within `record_every` sequences.
        """
        lines = []
        for rule in dict.fromkeys(record.rule for record in records):
            runs = [r for r in records if r.rule == rule and r.points]
            firsts = [next((p["ticks"] for p in r.points if p["mse"] < SOLVED), None) for r in runs]
            told = ["never" if first is None else f"{first:,.0f}" for first in firsts]
            ends = [_end(r, "mse") for r in runs]
            line = f"{rule}: batches until below {SOLVED}: {', '.join(told)}; mean of the last"
            line += f" 5 % {', '.join(f'{end:.4f}' for end in ends)}"
            if variant_of(rule).is_regularized:
                means = [_end(r, "mse_mean_weights") for r in runs]
                line += f" (with the running mean of W {', '.join(f'{m:.4f}' for m in means)})"
            lines.append(f"- {line}.")
        return ["\n".join(lines)] if lines else []


def _end(record: Record, metric: str) -> float:
    last = [p[metric] for p in record.points[-math.ceil(len(record.points) / 20) :]]
    return statistics.fmean(last)
