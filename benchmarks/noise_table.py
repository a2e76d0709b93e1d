"""The table of noise: every estimator on four frozen nets, and two claims about OK.

Axes as in benchmarks.noise_measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.noise_measured import Noise, PublishedOk, exact, noise
from stream_rnn.credit import Kf, Ok, Uoro
from stream_rnn.credit.ok import Chunks

NETS = (("tanh", 16, 0.95), ("tanh", 16, 1.2), ("lstm", 6, 0.95), ("rhn", 10, 0.95))
RANKS = (1, 2, 4, 8)
CHUNKS: tuple[Chunks, ...] = ("joint", "gate", "row")
WHAT = ("influence", "gradient")
TOLERANCE = 0.02


@dataclass(frozen=True)
class Table:
    """The noise of every rule on one net; OK by (rank, chunks)."""

    name: str
    kf: Noise
    uoro: Noise
    ok: dict[tuple[int, Chunks], Noise]
    published: dict[tuple[int, Chunks], Noise]


@dataclass(frozen=True)
class Verdict:
    """One claim on one net: the worst ratio found and where."""

    claim: str
    passed: bool
    ratio: float
    where: str


def measure(net: tuple[str, int, float], ranks: tuple[int, ...], n_ticks: int) -> Table:
    """All rules on one net: 64 replicas, 32 at rank 8, cheap rules more.

    Row chunks get a quarter: their noise is a sum over many chunks of independent signs.
    """
    kind, n_units, rho = net
    truth = exact(kind, n_units, rho, n_ticks)
    ok: dict[tuple[int, Chunks], Noise] = {}
    published: dict[tuple[int, Chunks], Noise] = {}
    for chunks in CHUNKS:
        if chunks == "gate" and truth.cell.gates == 1:
            continue
        for rank in ranks:
            lanes = (8 if rank == 8 else 16) if chunks == "row" else 32 if rank == 8 else 64
            ok[rank, chunks] = noise(Ok(truth.cell, lanes, _signs(), rank, chunks), truth)
            other = PublishedOk(truth.cell, lanes, _signs(), rank, chunks)
            published[rank, chunks] = noise(other, truth)
    kf = noise(Kf(truth.cell, 512, _signs()), truth)
    uoro = noise(Uoro(truth.cell, 256, _signs()), truth)
    return Table(f"{kind} {n_units}, rho {rho}", kf, uoro, ok, published)


def _signs() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def verdicts(table: Table) -> list[Verdict]:
    """Both claims on one net, at every rank, chunking and measure."""
    below_kf, split = [], []
    for (rank, chunks), ours in table.ok.items():
        for what in WHAT:
            where = f"rank {rank}, {chunks}, {what}"
            # independent unbiased copies: their average has exactly 1/r of the noise
            below_kf.append((ours.mean(what) * rank / table.kf.mean(what), where))
            theirs = table.published[rank, chunks].mean(what)
            split.append((ours.mean(what) / theirs, where))
    (of_kf, where_kf), (of_split, where_split) = max(below_kf), max(split)
    return [
        Verdict("OK(r) below KF averaged over r copies", of_kf < 1, of_kf, where_kf),
        Verdict(
            "OK(r) not above the asymmetric split (2 %)",
            of_split <= 1 + TOLERANCE,
            of_split,
            where_split,
        ),
    ]


def judge(tables: list[Table]) -> bool:
    """Print PASS or FAIL for each claim on each net; whether all passed."""
    passed = True
    for table in tables:
        for v in verdicts(table):
            passed = passed and v.passed
            word = "PASS" if v.passed else "FAIL"
            print(f"{word} {v.claim}, {table.name}: worst ratio {v.ratio:.3g} at {v.where}")
    return passed


def lines_of_table(tables: list[Table], what: str, ranks: tuple[int, ...]) -> Iterator[str]:
    """Markdown: one line per net and rule, one column per rank."""
    yield f"| Net | Rule, {what} | " + " | ".join(f"r = {rank}" for rank in ranks) + " |"
    yield "|---" * (2 + len(ranks)) + "|"
    for table in tables:
        first = [spelled(table.uoro, what)] + [""] * (len(ranks) - 1)
        yield line(table.name, "UORO", first)
        yield line("", "KF, r copies", [spelled(table.kf, what, rank) for rank in ranks])
        for name, rule in (("OK", table.ok), ("asymmetric", table.published)):
            for chunks in dict.fromkeys(chunks for _, chunks in rule):
                cells = [spelled(rule[rank, chunks], what) for rank in ranks]
                yield line("", f"{name}, {chunks}", cells)


def line(*cells: str | list[str]) -> str:
    """One line of a Markdown table."""
    flat = [c for cell in cells for c in ([cell] if isinstance(cell, str) else cell)]
    return "| " + " | ".join(flat) + " |"


def spelled(noise: Noise, what: str, copies: int = 1) -> str:
    """Mean and standard error; "> " where replicas exploded and started anew."""
    at_least = "> " if noise.restarts else ""
    mean, error = noise.mean(what) / copies, noise.standard_error(what) / copies
    if mean > 1e5 or math.isnan(error):
        return at_least + (f"{mean:.0e}" if mean > 1e5 else f"{mean:.3g}")
    return f"{at_least}{mean:.3g} ± {error:.1g}"
