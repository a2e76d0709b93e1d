"""Ticks of plain torch on a GPU: launched one by one, recorded, and beside what the device can do.

    python -m benchmarks.gpu [--device cuda] [--products tf32] [--only TEXT] [--json FILE]

For each cell, rule, number of units and of lanes: microseconds a tick of `Learner.step` as it
stands, and of a run of ticks that is played from a CUDA graph; the floor, which is the larger of
the push's operations (2 S N R Z a lane) at the device's best product of that kind and of the bytes
(the influence read and written once, W and Adam's two moments) at its best copy; and the ratio.
Wall time between two waits for the device, the least median of several rounds, eager and played in
turn.
`ops`: operations of torch in a tick, on a GPU about as many kernels.
`copy` and `ptb` are the sizes of the published runs: what so many steps would take is named.

On a processor (`--device cpu`) it measures the tape instead, in sizes that end.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch

from stream_rnn.bench.cases import INPUTS, NUMBER
from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Credit, Kf, Ok
from stream_rnn.frame import Block
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.linearization import Products, products_in
from stream_rnn.native import loading
from stream_rnn.plan import recorded
from stream_rnn.plan.tape import Tape
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam

TICKS = 64
ROUNDS = 5
WORKSPACE = 6  # influences that a tick holds at once, about
SHARE = 0.7  # of the free memory


@dataclass(frozen=True)
class Size:
    """One row. `steps`: of the published run that it belongs to."""

    cell: str
    rank: int  # 0: KF
    units: int
    lanes: int
    steps: int = 0

    def __str__(self) -> str:
        rule = f"ok({self.rank})" if self.rank else "kf"
        return f"{self.cell} {rule} N={self.units} B={self.lanes}"

    def net(self) -> Cell:
        """The cell itself."""
        return CELLS[self.cell](INPUTS, self.units)

    def influence(self) -> int:
        """Numbers of influence of all lanes."""
        cell = self.net()
        return self.lanes * cell.n_state * cell.weight_shape[0] * max(self.rank, 1)

    def operations(self) -> int:
        """Of the push of all lanes."""
        return 2 * self.influence() * self.units

    def bytes(self) -> int:
        """That a tick cannot avoid to move."""
        return 2 * NUMBER * (self.influence() + 3 * math.prod(self.net().weight_shape))

    def learner(self, device: str, products: Products = "float32") -> Learner:
        """The same every time."""
        cell, generator = self.net(), torch.Generator().manual_seed(0)
        drawn = torch.Generator(device).manual_seed(1)
        credit: Credit = Kf(cell, self.lanes, drawn, products=products)
        if self.rank:
            rank = self.rank
            credit = Ok(cell, self.lanes, drawn, rank=rank, chunks="joint", products=products)
        W_ZM = cell.initial_weight(generator).float().to(device)
        loss = SquaredError()
        V_PF = initial_readout(self.units, INPUTS, loss, generator).float().to(device)
        head = Head(self.units, INPUTS, loss, V_PF)
        return Learner(Dense(cell, credit, W_ZM), head, Adam(), Adam())

    def block(self, device: str) -> Block:
        """Events of noise, all of them scored."""
        generator = torch.Generator().manual_seed(1)
        x_TBI = torch.randn(TICKS, self.lanes, INPUTS, generator=generator)
        y_TBQ = torch.randn(TICKS, self.lanes, 1, generator=generator)
        yes_TB = torch.ones(TICKS, self.lanes, dtype=torch.bool, device=device)
        return Block(x_TBI.to(device), y_TBQ.to(device), yes_TB, yes_TB)


@dataclass(frozen=True)
class Row:
    """What came out of a size; times in microseconds a tick."""

    name: str
    operations: int
    launched_us: float
    played_us: float
    floor_us: float
    lanes: int
    steps: int


def sizes(device: str, room: int) -> Iterator[Size]:
    """All of them that `room` bytes hold."""
    if device == "cpu":
        for cell in ("tanh", "lstm", "rhn"):
            yield from (Size(cell, rank, 32, 1) for rank in (0, 1, 8))
        return
    yield Size("rhn", 16, 128, 16, steps=250_000)  # copy
    yield Size("rhn", 8, 256, 32, steps=1_000_000)  # Penn Treebank
    for units in (128, 256, 1024):
        for cell in ("rhn", "lstm"):
            for rank in (0, 8):
                one = Size(cell, rank, units, 1)
                most = room // (one.influence() * NUMBER * WORKSPACE)
                largest = 1 << max(most, 1).bit_length() - 1
                for lanes in sorted({1, 16, 1024, min(largest, 16_384)}):
                    if lanes <= most:
                        yield Size(cell, rank, units, lanes)


def rates(
    device: str, wait: Callable[[], None], products: Products = "float32"
) -> tuple[float, float]:
    """Operations of a product, and bytes copied, a microsecond: the best of several."""
    n = 8192 if device == "cuda" else 512
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    out = a @ b
    large = torch.zeros(1 << (28 if device == "cuda" else 22), device=device)
    other = torch.zeros_like(large)
    with products_in(products):
        product = min(_timed(lambda: torch.mm(a, b, out=out), wait) for _ in range(10))
    copied = min(_timed(lambda: other.copy_(large), wait) for _ in range(10))
    return 2 * n**3 / product, 2 * NUMBER * large.numel() / copied


def _timed(run: Callable[[], object], wait: Callable[[], None]) -> float:
    """Microseconds."""
    wait()
    start = time.perf_counter()
    run()
    wait()
    return (time.perf_counter() - start) * 1e6


def measured(
    size: Size,
    device: str,
    best: tuple[float, float],
    wait: Callable[[], None],
    products: Products = "float32",
) -> Row:
    """Launched and played in turn, each on a learner of its own."""
    block = size.block(device)
    played, launched = (size.learner(device, products) for _ in range(2))

    def play() -> None:
        at = 0
        while at < TICKS:
            at += len(played.run(block, at))

    def launch() -> None:
        for t in range(TICKS):
            launched._step(block.frame(t))

    for _ in range(3):  # what is made at first use; the recording
        play()
        launch()
    took: dict[str, list[float]] = {"play": [], "launch": []}
    for _ in range(ROUNDS):
        took["play"].append(statistics.median(_timed(play, wait) for _ in range(3)))
        took["launch"].append(statistics.median(_timed(launch, wait) for _ in range(3)))
    floor = max(size.operations() / best[0], size.bytes() / best[1])
    each = {name: min(times) / TICKS for name, times in took.items()}
    return Row(
        str(size),
        operations(launched, block),
        each["launch"],
        each["play"],
        floor,
        size.lanes,
        size.steps,
    )


def operations(learner: Learner, block: Block) -> int:
    """Of torch, that a tick is made of; it happens."""
    tape = Tape()

    def tick() -> None:
        learner._step(block.frame(0))

    tape.record(tick)
    return len(tape)


def told(row: Row) -> str:
    """A line of the table."""
    ratio = row.played_us / row.floor_us
    line = f"{row.name:26s} {row.operations:6,d} {row.launched_us:12,.1f} {row.played_us:10,.1f}"
    line += f" {row.launched_us / row.played_us:7.1f} {row.floor_us:10,.2f} {ratio:8.1f}"
    line += f" {row.lanes / row.played_us * 1e6:14,.0f}"
    if row.steps:
        line += f"   {row.steps:,} ticks in {row.steps * row.played_us / 1e6:,.0f} s"
    return line


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--products", choices=get_args(Products), default="float32", help="of the push"
    )
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    room = 1 << 32
    wait: Callable[[], None] = lambda: None  # noqa: E731
    name = "a processor, one thread"
    if given.device == "cuda":
        if not torch.cuda.is_available():
            print("skipped: no GPU is at hand", file=sys.stderr)
            return 0
        room, wait = int(torch.cuda.mem_get_info()[0] * SHARE), torch.cuda.synchronize
        name = torch.cuda.get_device_name()
    recorded.BEFORE[given.device] = 2
    rows = []
    with torch.no_grad(), loading.switched_off():
        best = rates(given.device, wait, given.products)
        small = torch.zeros(32, device=given.device)
        adds = lambda: [small.add_(1.0) for _ in range(1000)]  # noqa: E731
        small_us = min(_timed(adds, wait) for _ in range(5)) / 1000
        print(
            f"{name}, torch {torch.__version__}: a {given.products} product "
            f"{best[0] / 1e6:.2f} TFLOP/s, a copy {best[1] / 1e3:.1f} GB/s, "
            f"one small in-place operation {small_us:.2f} us"
        )
        print(
            f"{'us a tick':26s} {'ops':>6s} {'launched':>12s} {'played':>10s} {'times':>7s} "
            f"{'floor':>10s} {'by floor':>8s} {'events/s':>14s}"
        )
        for size in sizes(given.device, room):
            if given.only in str(size):
                rows.append(measured(size, given.device, best, wait, given.products))
                print(told(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
