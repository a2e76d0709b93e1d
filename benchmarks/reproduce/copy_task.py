"""The copy task with a curriculum (Benzing et al. 2019; the curriculum of Mujika et al. 2018).

Axes: B lanes, I inputs, Q targets, T bits of a sequence.

    input   2 b1 .. bT 3 .. 3 3         length 2T + 2, each lane its own sequence
    target  3 ..  3  3 2 b1 .. bT       3 for T + 1 ticks, then the first T + 1 inputs

T is uniform in max(1, T* - 4) .. T*. The loss in bits, averaged over the lanes, enters an
exponential average at every tick; when that falls below 0.15, T* rises by one and the average is
set to 0.3. State and influence of a lane start anew with each sequence. T* starts at 1 and the
average at 2 bits, the loss of a guess among four symbols (neither is documented).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from benchmarks.reproduce.experiment import (
    Experiment,
    Named,
    Point,
    Published,
    Refused,
    Setting,
    Trial,
)
from benchmarks.reproduce.network import generator_of, network
from benchmarks.reproduce.rules import rule_of
from stream_rnn.frame import Frame

SYMBOLS, BEGIN, BLANK = 4, 2, 3
DECAY, SOLVED, ANEW = 0.999, 0.15, 0.3


class Sequences:
    """One sequence per lane, and the level T* that new ones are drawn at."""

    def __init__(self, n_lanes: int, generator: torch.Generator) -> None:
        self.level = 1
        self._generator = generator
        self._bits = [self._drawn() for _ in range(n_lanes)]
        self._position = [0] * n_lanes

    def now(self) -> tuple[list[int], list[int]]:
        """The input and the target of every lane."""
        inputs, targets = [], []
        for bits, position in zip(self._bits, self._position, strict=True):
            source = [BEGIN, *bits]
            length = len(source)
            inputs.append(source[position] if position < length else BLANK)
            targets.append(BLANK if position < length else source[position - length])
        return inputs, targets

    def advance(self) -> list[bool]:
        """Go on by one; whose sequence ended. Those lanes have a new one, of the present level."""
        ended = []
        for lane, bits in enumerate(self._bits):
            self._position[lane] += 1
            ended.append(self._position[lane] == 2 * len(bits) + 2)
            if ended[-1]:
                self._position[lane] = 0
                self._bits[lane] = self._drawn()
        return ended

    def state(self) -> dict[str, Tensor]:
        """Tensors for a file; bits of all lanes one after another."""
        return {
            "level": torch.tensor(self.level),
            "T_B": torch.tensor([len(bits) for bits in self._bits]),
            "bits": torch.tensor([bit for bits in self._bits for bit in bits]),
            "position_B": torch.tensor(self._position),
            "generator": self._generator.get_state(),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state` gave."""
        self.level = int(state["level"])
        pieces = torch.split(state["bits"], state["T_B"].tolist())
        self._bits = [bits.tolist() for bits in pieces]
        self._position = state["position_B"].tolist()
        self._generator.set_state(state["generator"])

    def _drawn(self) -> list[int]:
        low = max(1, self.level - 4)
        T = int(torch.randint(low, self.level + 1, (), generator=self._generator))
        bits: list[int] = torch.randint(0, 2, (T,), generator=self._generator).tolist()
        return bits


class CopyTrial(Trial):
    """A learner on the copy task, as far as it has come."""

    def __init__(self, setting: Setting, rule: str, seed: int, device: str) -> None:
        self.learner = network(setting, rule, SYMBOLS, seed, device)
        self.sequences = Sequences(setting.lanes, generator_of(seed, 2))
        self.average_bits = math.log2(SYMBOLS)
        self._one_hot = torch.eye(SYMBOLS, device=device)
        self._all_B = torch.ones(setting.lanes, dtype=torch.bool, device=device)

    @override
    def tick(self) -> None:
        device = self._all_B.device
        inputs, targets = self.sequences.now()
        x_BI = self._one_hot[torch.tensor(inputs, device=device)]
        y_BQ = torch.tensor(targets, dtype=x_BI.dtype, device=device)[:, None]
        outcome = self.learner.step(Frame(x_BI, y_BQ, self._all_B, self._all_B))
        # sync: the curriculum needs the loss; a refused event has none
        loss, learned = torch.stack((outcome.loss_B.sum(), outcome.learned_B.sum())).tolist()
        if learned:
            self.follow(loss / learned / math.log(2))
        ended = self.sequences.advance()
        if any(ended):
            self.learner.reset(torch.tensor(ended, device=device))

    def follow(self, loss_bits: float) -> None:
        """The curriculum: one tick's loss enters the average, which may raise T*."""
        self.average_bits = DECAY * self.average_bits + (1 - DECAY) * loss_bits
        if self.average_bits < SOLVED:
            self.sequences.level += 1
            self.average_bits = ANEW

    @override
    def point(self) -> Point:
        return {"T": self.sequences.level, "bits": self.average_bits}

    @override
    def task_state(self) -> dict[str, Tensor]:
        average = torch.tensor(self.average_bits, dtype=torch.float64)
        return self.sequences.state() | {"average_bits": average}

    @override
    def load_task_state(self, state: Mapping[str, Tensor]) -> None:
        self.sequences.load(state)
        self.average_bits = float(state["average_bits"])


class CopyTask(Experiment):
    """T* after a number of updates."""

    title = "Copy task, curriculum"
    metric, label, digits = "T", "T* reached", 1
    sizes = {  # noqa: RUF012
        "small": Setting(
            units=32,
            lanes=16,
            lr=1e-3,
            clip=1.0,
            rank=4,
            window=10,
            updates=100_000,
            record_every=500,
            marks=(10_000, 30_000, 60_000, 100_000),
            rules=("ok", "kf", "uoro", "tbptt-lock"),
            seeds=(0, 1, 2, 3, 4),
        ),
        "full": Setting(
            units=128,
            lanes=16,
            lr=10**-3.5,
            clip=1.0,
            rank=16,
            window=25,
            updates=250_000,
            record_every=1000,
            marks=(50_000, 100_000, 250_000),
            rules=("ok", "kf", "uoro", "tbptt-lock"),
            seeds=(0, 1, 2, 3, 4),
        ),
    }
    takes = {"small": "17 min", "full": "10 h"}  # noqa: RUF012
    published = {  # noqa: RUF012
        "full": (
            Published(
                "OK-16, authors' logs (Benzing et al. 2019)",
                {250_000: (23, 22, 23, 22, 20), 500_000: (30, 29, 28, 28, 25)},
            ),
        )
    }

    def __init__(self, data: Path | None) -> None:
        if data is not None:
            raise Refused(f"--data: the copy task makes its own data, got {data}; leave it out")

    @override
    def rule(self, name: str, setting: Setting) -> Named:
        return rule_of(name, setting)

    @override
    def start(self, setting: Setting, rule: str, seed: int, device: str) -> Trial:
        return CopyTrial(setting, rule, seed, device)
