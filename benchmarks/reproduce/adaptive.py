"""A stream of copy sequences: fixed windows against windows that follow the memory of the net.

Axes: B lanes, I = P = D + 2 symbols, T ticks, N units, S = 2N, F = N+I+1.

Layout and alphabet are chosen here, for only the memory m is documented (Aicher, Foti & Fox 2019).
D = 4 letters, GO and BLANK; a sequence of length 2m, and the next one follows without a reset:

    input   a1 .. am GO BLANK .. BLANK         m letters, GO, m - 1 times BLANK
    target  BLANK  .. BLANK a1 .. .. am        m times BLANK, m letters: each m events after it came

To carry the loss at a letter's recall back to its coming takes a window of m + 1. Whoever tells
blanks from letters and knows no letter has a perplexity of 2 (exp(ln(D) / 2)); knowing all has 1.
`adaptive` has m = 10, `adaptive-varied` m uniform in 5 .. 10. Each lane enters its first sequence
somewhere.

    tbptt-K          every loss carried back over K events, one update per tick
    adaptive-DELTA   likewise, K chosen anew to keep the relative bias of the gradient below DELTA

With several layers each has its own credit rule (docs/algorithms.md 7.4), and so its own K.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from benchmarks.reproduce.experiment import (
    Experiment,
    Point,
    Published,
    Refused,
    Setting,
    Trial,
)
from benchmarks.reproduce.network import generator_of
from stream_rnn.cells import Cell, Lstm
from stream_rnn.credit import AdaptiveTbptt, Credit, Tbptt
from stream_rnn.frame import Frame
from stream_rnn.head import CrossEntropy, Head, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense, Recurrence, Stack
from stream_rnn.update import Adam

if TYPE_CHECKING:
    from benchmarks.reproduce.runner import Record

LETTERS = 4
GO, BLANK = LETTERS, LETTERS + 1
SYMBOLS = LETTERS + 2
HISTORY = 101  # R + 1
K_MIN, K_MAX, K_0 = 2, 100, 15
TESTED, BURN_IN, TEST_TICKS = 64, 40, 200  # lanes of the test stream, ticks before it counts, after
KNOWN = "tbptt-WINDOW, adaptive-TOLERANCE (between 0 and 1)"
_TBPTT = re.compile(r"tbptt-([1-9]\d{0,2})", re.ASCII)
_ADAPTIVE = re.compile(r"adaptive-(0\.\d{1,3})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Layered(Setting):
    """A setting with `layers` of `units` each; the windows are fitted every `adapt_every` ticks."""

    layers: int
    adapt_every: int

    @override
    def identity(self) -> dict[str, float | None]:
        return super().identity() | {"layers": self.layers, "adapt_every": self.adapt_every}


@dataclass(frozen=True)
class Windowed:
    """A rule of this experiment.

    Attributes:
        name: as in the table.
        build: from the cell, the number of lanes, and `adapt_every`.
        every: ticks to an update.
    """

    name: str
    build: Callable[[Cell, int, int], Credit]
    every: int = 1


def windowed(name: str) -> Windowed:
    """The rule called `name`; raises Refused with what is known."""
    if match := _TBPTT.fullmatch(name):
        window = int(match[1])
        return Windowed(name, lambda cell, lanes, _: Tbptt(cell, lanes, window=window, every=1))
    match = _ADAPTIVE.fullmatch(name)
    if match is None or not 0 < float(match[1]) < 1:
        raise Refused(f"--rules: unknown rule {name[:40]!r}; known: {KNOWN}")
    tolerance = float(match[1])

    def build(cell: Cell, lanes: int, adapt_every: int) -> Credit:
        return AdaptiveTbptt(
            cell,
            lanes,
            tolerance=tolerance,
            k_min=K_MIN,
            k_max=K_MAX,
            window=K_0,
            history=HISTORY,
            adapt_every=adapt_every,
        )

    return Windowed(f"adaptive-{tolerance:g}", build)


class CopyStream:
    """Every lane's endless row of sequences.

    Args:
        n_lanes: B.
        memory: smallest and largest m.
        generator: of lengths, letters, and where each lane enters.
    """

    def __init__(self, n_lanes: int, memory: tuple[int, int], generator: torch.Generator) -> None:
        self._memory = memory
        self._generator = generator
        self._letters = [self._drawn() for _ in range(n_lanes)]
        # lanes in step would ask for all letters in one half of the ticks and for none in the other
        self._position = [self._below(2 * len(letters)) for letters in self._letters]

    def next(self) -> tuple[list[int], list[int]]:
        """The input and the target of every lane; goes on by one."""
        inputs, targets = [], []
        for lane, letters in enumerate(self._letters):
            m, position = len(letters), self._position[lane]
            is_coming = position < m
            inputs.append(letters[position] if is_coming else GO if position == m else BLANK)
            targets.append(BLANK if is_coming else letters[position - m])
            self._position[lane] += 1
            if self._position[lane] == 2 * m:
                self._position[lane] = 0
                self._letters[lane] = self._drawn()
        return inputs, targets

    def state(self) -> dict[str, Tensor]:
        """Tensors for a file; letters of all lanes one after another."""
        return {
            "m_B": torch.tensor([len(letters) for letters in self._letters]),
            "letters": torch.tensor([letter for letters in self._letters for letter in letters]),
            "position_B": torch.tensor(self._position),
            "generator": self._generator.get_state(),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state` gave."""
        pieces = torch.split(state["letters"], state["m_B"].tolist())
        self._letters = [piece.tolist() for piece in pieces]
        self._position = state["position_B"].tolist()
        self._generator.set_state(state["generator"])

    def _below(self, end: int) -> int:
        return int(torch.randint(0, end, (), generator=self._generator))

    def _drawn(self) -> list[int]:
        low, high = self._memory
        m = low + self._below(high - low + 1)
        letters: list[int] = torch.randint(0, LETTERS, (m,), generator=self._generator).tolist()
        return letters


class StreamTrial(Trial):
    """A learner somewhere in the stream."""

    def __init__(
        self, setting: Layered, rule: str, memory: tuple[int, int], seed: int, device: str
    ) -> None:
        generator = generator_of(seed, 0)
        layers: list[Recurrence] = []
        self._rules: list[Credit] = []
        for layer in range(setting.layers):
            cell = Lstm(setting.units if layer else SYMBOLS, setting.units)
            credit = windowed(rule).build(cell, setting.lanes, setting.adapt_every)
            W_ZM = cell.initial_weight(generator).float().to(device)
            layers.append(Dense(cell, credit, W_ZM))
            self._rules.append(credit)
        loss = CrossEntropy(SYMBOLS)
        # the head is given the inputs for their number alone: it reads the state
        V_PF = initial_readout(setting.units, SYMBOLS, loss, generator).float().to(device)
        self.learner = Learner(
            Stack(layers) if len(layers) > 1 else layers[0],
            Head(setting.units, SYMBOLS, loss, V_PF, reads_inputs=False),
            Adam(setting.lr, clip=setting.clip),
            Adam(setting.lr, clip=None),
        )
        self.stream = CopyStream(setting.lanes, memory, generator_of(seed, 2))
        self._one_hot = torch.eye(SYMBOLS, device=device)
        self._all_B = torch.ones(setting.lanes, dtype=torch.bool, device=device)
        # another stream than any that is learned; the same for every seed
        test = CopyStream(TESTED, memory, torch.Generator().manual_seed(-1))
        ticks = [test.next() for _ in range(BURN_IN + TEST_TICKS)]
        self._test_T2B = torch.tensor(ticks, device=device)

    @override
    def tick(self) -> None:
        x_B, y_B = torch.tensor(self.stream.next(), device=self._all_B.device)
        x_BI = self._one_hot[x_B]
        y_BQ = y_B[:, None].to(x_BI.dtype)
        self.learner.step(Frame(x_BI, y_BQ, self._all_B, self._all_B))

    @override
    def point(self) -> Point:
        return {"ppl": self.perplexity(), "window": self.window()}

    def window(self) -> float:
        """K of now; the mean over the layers."""
        windows = [rule.window for rule in self._rules if isinstance(rule, Tbptt | AdaptiveTbptt)]
        return statistics.fmean(windows)

    @torch.no_grad()
    def perplexity(self) -> float:
        """Of all symbols of a stream never learned, blanks included: e to the mean loss."""
        recurrence, head = self.learner.recurrence, self.learner.head
        layers = recurrence.layers if isinstance(recurrence, Stack) else (recurrence,)
        states_BS: list[Tensor | None] = [None] * len(layers)
        total = torch.zeros((), dtype=torch.float64, device=self._all_B.device)
        for t, (x_B, y_B) in enumerate(self._test_T2B):
            x_BI = h_BN = self._one_hot[x_B]
            for i, layer in enumerate(layers):
                assert isinstance(layer, Dense)
                old_BS = states_BS[i]
                if old_BS is None:
                    old_BS = h_BN.new_zeros(TESTED, layer.cell.n_state)
                new_BS, _ = layer.cell.step(layer.W_ZM, h_BN, old_BS)
                states_BS[i], h_BN = new_BS, new_BS[:, : layer.width]
            if t >= BURN_IN:
                loss_B, _ = head.loss_function.evaluate(head.predict(h_BN, x_BI), y_B[:, None])
                total += loss_B.sum()
        return math.exp(float(total) / (TESTED * TEST_TICKS))

    @override
    def task_state(self) -> dict[str, Tensor]:
        return self.stream.state()

    @override
    def load_task_state(self, state: Mapping[str, Tensor]) -> None:
        self.stream.load(state)


RULES = tuple(f"tbptt-{K}" for K in (5, 10, 15, 20, 30)) + tuple(
    f"adaptive-{tolerance}" for tolerance in (0.9, 0.5, 0.1)
)
SMALL = Layered(
    units=32,
    lanes=8,
    lr=5e-3,
    clip=1.0,
    rank=1,
    window=K_0,
    updates=30_000,
    record_every=500,
    marks=(10_000, 20_000, 30_000),
    rules=RULES,
    seeds=(0, 1),
    layers=1,
    adapt_every=5000,
)
FULL = Layered(
    units=50,
    lanes=64,
    lr=1e-3,
    clip=1.0,
    rank=1,
    window=K_0,
    updates=200_000,
    record_every=2500,
    marks=(50_000, 100_000, 200_000),
    rules=RULES,
    seeds=(0, 1, 2),
    layers=2,
    adapt_every=5000,
)


def _published(figures: Sequence[float]) -> dict[str, tuple[Published, ...]]:
    """The supplement's table C.1, beside the last mark: how long its runs were is not known."""

    def at(end: int) -> tuple[Published, ...]:
        names = (f"{rule}, LSTM 2 x 50, 64 lanes, SGD (Aicher et al. 2019)" for rule in RULES)
        return tuple(
            Published(name, {end: (figure,)}) for name, figure in zip(names, figures, strict=True)
        )

    return {"small": at(SMALL.updates), "full": at(FULL.updates)}


class Adaptive(Experiment):
    """Perplexity of a new stream, m = 10."""

    title = "Adaptive windows, stream of copy sequences with a memory of 10"
    metric, label, digits = "ppl", "test perplexity (no letter known: 2)", 3
    also_drawn: ClassVar[Mapping[str, str]] = {"window": "window K"}
    sizes: ClassVar[Mapping[str, Setting]] = {"small": SMALL, "full": FULL}
    takes: ClassVar[Mapping[str, str]] = {"small": "13 min", "full": "31 h"}
    published = _published((1.646, 1.036, 1.039, 1.040, 1.043, 1.022, 1.027, 1.030))
    memory: ClassVar[tuple[int, int]] = (10, 10)

    def __init__(self, data: Path | None) -> None:
        if data is not None:
            raise Refused(f"--data: this task makes its own data, got {data}; leave it out")

    @override
    def rule(self, name: str, setting: Setting) -> Windowed:
        return windowed(name)

    @override
    def start(self, setting: Setting, rule: str, seed: int, device: str) -> Trial:
        assert isinstance(setting, Layered)
        return StreamTrial(setting, rule, self.memory, seed, device)

    @override
    def caption(self, setting: Setting) -> str:
        assert isinstance(setting, Layered)
        return (
            f"LSTM {setting.layers} x {setting.units}, {setting.lanes} lanes, Adam "
            f"{setting.lr:.2e}, clip {setting.clip or 'none'}, {LETTERS} letters, one update per "
            f"tick (one event in each lane). adaptive-DELTA: K in {K_MIN} .. {K_MAX}, first {K_0}, "
            f"fitted every {setting.adapt_every:,} ticks to {HISTORY - 1} lags. Published: their "
            "stream, a loss over K .. 2K - 1 events, one update in K."
        )

    @override
    def notes(self, records: Sequence[Record]) -> list[str]:
        """The windows: the mean over the run of each seed, and the last."""
        lines = []
        for rule in dict.fromkeys(record.rule for record in records):
            runs = [r for r in records if r.rule == rule and r.points]
            if rule.startswith("tbptt") or not runs:
                continue
            means = [statistics.fmean(p["window"] for p in r.points) for r in runs]
            lasts = [r.points[-1]["window"] for r in runs]
            lines.append(
                f"- {rule}: mean K {', '.join(f'{mean:.1f}' for mean in means)}; "
                f"last {', '.join(f'{last:g}' for last in lasts)}."
            )
        return ["\n".join(lines)] if lines else []


class AdaptiveVaried(Adaptive):
    """The same with m in 5 .. 10."""

    title = "Adaptive windows, stream of copy sequences with a memory of 5 to 10"
    published = _published((1.47, 1.39, 1.37, 1.35, 1.31, 1.35, 1.32, 1.29))
    memory = (5, 10)
